"""The guarantees under attack: faults between the parts of s3s3 and inside them, on real servers.

`make test` runs all of this in a short form. `make faults` runs it for `FAULT_MINUTES` (10 where nothing is said, 60
for a night): tests that can go on ask `extent.duration_s` and `extent.examples` for how long and how often.

- `proxy` is a TCP proxy between s3s3 and a server, `kinds` the faults that it injects while it runs, and counts.
- `extent` is the one place that knows how long a run is.
"""
