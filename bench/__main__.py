"""`make bench`: measure s3s3 beside its alternatives and write the results to bench/results/."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from bench import cache, latency, machine, results_folder, together
from bench.comparing import COMPARES
from bench.results_folder import Results
from bench.workloads import COPIES, Work

RESULTS, QUICK_RESULTS = Path(__file__).with_name("results"), Path(__file__).with_name("quick")
QUICK = ("small", "10k-keys", "latency")
QUICK_SCALE, QUICK_RUNS = 0.1, 2
BUSY_LOAD = 1.5

MEASURES: dict[str, Work] = {**COPIES, **COMPARES, **together.RUNS, **cache.HITS}
LATENCY = "latency"


def main() -> int:
    """Run the selected measurements; return the exit status."""
    arguments = _parser().parse_args()
    scale, runs = (QUICK_SCALE, QUICK_RUNS) if arguments.quick else (1.0, arguments.runs)
    names = arguments.only or (QUICK if arguments.quick else (*MEASURES, LATENCY))
    about = machine.description()
    if machine.load() > BUSY_LOAD:
        about += "; on a busy machine, so only the ratios are meaningful"
    print_line(about)
    results = Results(about)
    try:
        for name in names:
            began_s = time.monotonic()
            _measure(name, runs, scale, results)
            print_line(f"  {name}: {time.monotonic() - began_s:.0f} s")
    except KeyboardInterrupt:
        print_line("  interrupted")
    finally:  # what was measured before a failure took long, too
        folder = arguments.output or (QUICK_RESULTS if arguments.quick else RESULTS)
        print_line("\n" + results_folder.write(folder, results))
    if arguments.readme:
        results_folder.into_readme(folder)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    names = (*MEASURES, LATENCY)
    parser.add_argument("--only", nargs="+", metavar="WORK", choices=names, help=", ".join(names))
    parser.add_argument("--runs", type=int, default=5, help="runs of each peer and workload (default: 5)")
    parser.add_argument("--quick", action="store_true", help="a small part that takes a minute or two")
    parser.add_argument(
        "--output", type=Path, help="folder for the results (default: bench/results; quick: bench/quick)"
    )
    parser.add_argument("--readme", action="store_true", help="update the short table of README.md")
    return parser


def _measure(name: str, runs: int, scale: float, results: Results) -> None:
    if name == LATENCY:
        results.delays += latency.measure(scale)
        print_line(latency.table(results.delays))
        return
    print_line(f"{name}:")
    for one in MEASURES[name].run(runs, scale, print_line):
        cost = one.cost
        print_line(f"  run {one.run + 1}  {one.peer:<20}{1000 * cost.cpu_s / cost.objects:10.4f} ms CPU"
             f"{cost.objects / cost.wall_s:10.1f}/s{cost.peak_bytes / 2**20:8.0f} MiB")  # fmt: skip
        results.measured.append(one)
    if name == "cache":
        results.delays += cache.first_bytes(scale)
        print_line(latency.table(results.delays))


def print_line(line: str) -> None:
    """PrintLine the progress."""
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
