"""`make bench`: measure, and write what came out to bench/results/."""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict
from pathlib import Path

from . import figures
from .workloads import COPIES, Measured

RESULTS = Path(__file__).with_name("results")
QUICK_SCALE, QUICK_RUNS = 0.1, 2


def main() -> int:
    """Measure what was asked for; return the exit status."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--only", nargs="+", metavar="WORK", choices=COPIES, help=", ".join(COPIES))
    parser.add_argument("--runs", type=int, default=5, help="how often each peer does each work (default: 5)")
    parser.add_argument("--quick", action="store_true", help="a tenth of the objects, twice: to see that it works")
    parser.add_argument("--output", type=Path, default=RESULTS, help="the folder for what comes out")
    arguments = parser.parse_args()
    scale, runs = (QUICK_SCALE, QUICK_RUNS) if arguments.quick else (1.0, arguments.runs)
    measured: list[Measured] = []
    for name in arguments.only or COPIES:
        tell(f"{name}:")
        for one in COPIES[name].run(runs, scale, tell):
            cost = one.cost
            tell(f"  run {one.run + 1}  {one.peer:<20}{1000 * cost.cpu_s / cost.objects:9.3f} ms CPU"
                 f"{cost.objects / cost.wall_s:10.1f}/s{cost.peak_bytes / 2**20:8.0f} MiB")  # fmt: skip
            measured.append(one)
    arguments.output.mkdir(parents=True, exist_ok=True)
    found = figures.rows(measured)
    (arguments.output / "results.json").write_text(json.dumps([asdict(row) for row in found], indent=2))
    (arguments.output / "table.md").write_text(figures.table(found))
    tell(f"\n{figures.table(found)}")
    return 0


def tell(line: str) -> None:
    """Say how far it is."""
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    began_s = time.monotonic()
    status = main()
    tell(f"{time.monotonic() - began_s:.0f} s")
    sys.exit(status)
