"""What is written down: figures, tables, the plot, and the table in the README."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from bench import figures, latency, plot
from bench.latency import Delays
from bench.workloads import Measured

README = Path(__file__).parents[1] / "README.md"
BEGIN, END = "<!-- make bench: begin -->\n", "<!-- make bench: end -->\n"

NOTES = """\
CPU is user and system time of the program and its children: for each object (or, of an unchanged bucket, each key), or
for each GiB. Of s3s3 it is the whole road: heard, queued, copied, verified, acked; of others the copy alone. What Redis
took stands beside it. Ratios are to tuned rclone (of an unchanged bucket: to `rclone check`) in runs side by side:
median (least to most). wrk is the limit: the same GETs and PUTs, ready made, from a program in C.
"""


def write(folder: Path, machine: str, measured: Sequence[Measured], delays: Sequence[Delays]) -> str:
    """Write everything; return it as a person is to read it."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = figures.rows(measured)
    tables = f"{machine}\n\n{NOTES}"
    if rows:
        tables += f"\n{figures.summary(rows)}\n{figures.table(rows)}"
    if delays:
        tables += f"\n{latency.table(delays)}"
    (folder / "tables.md").write_text(tables)
    everything = {
        "machine": machine,
        "rows": [asdict(row) for row in rows],
        "runs": [asdict(one) for one in measured],
        "delays_ms": {one.what: one.delays_ms for one in delays},
    }
    (folder / "results.json").write_text(json.dumps(everything, indent=1))
    why_not = plot.draw(rows, f"s3s3 beside others. {machine}", folder) if rows else ""
    return tables + (f"\n{why_not}\n" if why_not else "")


def into_readme(machine: str, measured: Sequence[Measured], delays: Sequence[Delays]) -> None:
    """Put the short table into the README, between its marks."""
    text = README.read_text()
    before, _, rest = text.partition(BEGIN)
    _, found, after = rest.partition(END)
    if not found:
        raise ValueError(f"{README} has no lines {BEGIN.strip()} and {END.strip()} for the table")
    delay_table = f"{latency.table(delays)}\n" if delays else ""
    table = f"{figures.summary(figures.rows(measured))}\n{delay_table}Measured with `make bench`: {machine}.\n"
    README.write_text(f"{before}{BEGIN}\n{table}\n{END}{after}")
