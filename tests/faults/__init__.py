"""The guarantees under attack: faults between the parts of s3s3 and inside them, on real servers.

`make test` runs all of this in a short form. `make faults` runs it for about `FAULT_MINUTES` (default 10,
60 for a night): tests that can go on ask `extent` for how long, in how many rounds, and how much.

- `proxy` is a TCP proxy between s3s3 and a server, `kinds` the faults that it injects while it runs, and counts.
- `fleet` is listeners as processes between real stores, `disorder` everything that happens to them, in any order,
  against a model of what the destinations are to hold. `load` is work without an end. `results` takes down what a
  long run measured.
- `extent` is the one place that knows how long a run is.
"""
