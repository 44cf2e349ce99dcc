"""The guarantees under attack: faults between the parts of s3s3 and inside them, on real servers.

`make test` runs all of this in a short form. `make faults` runs it for about `FAULT_MINUTES` (default 10, 60 for a
night): open-ended tests ask `duration` for how long, in how many rounds, and how much. FAULT_SEED repeats the examples
of a run of the state machine, which prints it.

- `proxy` is a TCP proxy between s3s3 and a server. `kinds` has the faults of networks and servers that it injects and
  counts, `lies` what gateways and damaged indexes answer in a store's place.
- `fleet` is listeners as processes between real stores, `state_machine` everything that happens to them, in any order,
  against a model of what the destinations are to hold. `load` is work without an end. `results` takes down what a
  long run measured.
"""
