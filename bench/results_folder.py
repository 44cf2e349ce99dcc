"""Write figures, tables, the plot, and the short table of the README."""

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
CPU is user and system time of the program and its children, per object, per key of an unchanged bucket, or per GiB. For
s3s3 it covers notification, queue, copy, verification and acknowledgement; for the others only the copy. Redis's CPU is
given beside it. Ratios compare with tuned rclone (for unchanged buckets with `rclone check`) in runs side by side:
median (minimum to maximum). wrk is the limit: the same GETs and PUTs, prepared beforehand, sent by a C program.
"""

#: Rows of the short table in the README, by work and server.
README_ROWS = (
    ("4 KiB", "Ceph"), ("4 KiB, 3 destinations", "Ceph"), ("1 MiB", "Ceph"), ("64 MiB", "Ceph"),
    ("unchanged, 100,000 keys", ""),
)  # fmt: skip


def write(folder: Path, machine: str, measured: Sequence[Measured], delays: Sequence[Delays]) -> str:
    """Write all results into `folder`; return the tables as text."""
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


def into_readme(machine: str, measured: Sequence[Measured]) -> None:
    """Write the short table into the README, between its markers."""
    text = README.read_text()
    before, _, rest = text.partition(BEGIN)
    _, found, after = rest.partition(END)
    if not found:
        raise ValueError(f"{README} needs the lines {BEGIN.strip()} and {END.strip()} around the table")
    short = [row for row in figures.rows(measured)
             if any(row.work == work and row.server.startswith(server) for work, server in README_ROWS)]  # fmt: skip
    README.write_text(f"{before}{BEGIN}{figures.summary(short)}\nMeasured on {machine}.\n{END}{after}")
