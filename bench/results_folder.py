"""Write figures, tables, the plots, and the short table of the README.

Results of a workload stay until it is measured again, also when others are measured alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench import figures, latency, plot
from bench.cost import Cost
from bench.figures import Row
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

#: Rows of the short table in the README: work, server, and program.
README_ROWS = (
    ("4 KiB", "Ceph", "s3s3"),
    ("256 KiB", "Ceph", "s3s3"),
    ("1 MiB", "Ceph", "s3s3"),
    ("4 MiB", "Ceph", "s3s3"),
    ("64 MiB", "Ceph", "s3s3"),
    ("64 MiB", "Ceph", 's3s3, checksum = "client"'),
    ("1 GiB", "Ceph", "s3s3"),
    ("64 MiB, HTTPS", "Ceph", "s3s3"),
    ("4 KiB, 3 destinations", "Ceph", "s3s3"),
    ("unchanged, 100,000 keys", "", "s3s3 bucket"),
)


@dataclass
class Results:
    """What was measured on one machine on one day; `machine` describes both."""

    machine: str
    measured: list[Measured] = field(default_factory=list)
    delays: list[Delays] = field(default_factory=list)


def write(folder: Path, newest: Results) -> str:
    """Write all results into `folder`, with those of other workloads that it has; return the tables as text."""
    folder.mkdir(parents=True, exist_ok=True)
    everything = _merged(newest, _read(folder / "results.json"))
    parts = [NOTES]
    for results in everything:
        parts.append(f"Measured on {results.machine}:\n")
        if rows := figures.rows(results.measured):
            parts += [figures.summary(rows), figures.table(rows)]
        if results.delays:
            parts.append(latency.table(results.delays))
    tables = "\n".join(parts)
    (folder / "tables.md").write_text(tables)
    (folder / "results.json").write_text(json.dumps([asdict(results) for results in everything], indent=1))
    rows = _rows(everything)
    return tables + (plot.draw(rows, f"s3s3 beside others. {newest.machine}", folder) if rows else "")


def into_readme(folder: Path) -> None:
    """Write the short table of the results in `folder` into the README, between its markers."""
    text = README.read_text()
    before, _, rest = text.partition(BEGIN)
    _, found, after = rest.partition(END)
    if not found:
        raise ValueError(f"{README} needs the lines {BEGIN.strip()} and {END.strip()} around the table")
    everything = _read(folder / "results.json")
    rows = [
        row
        for work, server, peer in README_ROWS
        for row in _rows(everything)
        if row.work == work and row.server.startswith(server) and row.peer in (peer, *figures.REFERENCES)
    ]
    used = {(row.work, row.server) for row in rows}
    machines = [results.machine for results in everything
                if any((one.work, one.server) in used for one in results.measured)]  # fmt: skip
    table = figures.summary(list(dict.fromkeys(rows)))
    README.write_text(f"{before}{BEGIN}{table}\nMeasured on {'; '.join(machines)}.\n{END}{after}")


def _rows(everything: Iterable[Results]) -> list[Row]:
    return [row for results in everything for row in figures.rows(results.measured)]


def _read(path: Path) -> list[Results]:
    """Return earlier results; [] if there are none."""
    if not path.exists():
        return []
    found: list[dict[str, Any]] = json.loads(path.read_text())
    return [
        Results(
            one["machine"],
            [Measured(**{**run, "cost": Cost(**run["cost"])}) for run in one["measured"]],
            [Delays(**delays) for delays in one["delays"]],
        )
        for one in found
    ]


def _merged(newest: Results, earlier: Sequence[Results]) -> list[Results]:
    """Return the newest results, and what earlier ones have of other workloads."""
    works = {(one.work, one.server) for one in newest.measured}
    whats = {one.what for one in newest.delays}
    by_machine = {newest.machine: Results(newest.machine, list(newest.measured), list(newest.delays))}
    for results in earlier:
        kept = by_machine.setdefault(results.machine, Results(results.machine))
        kept.measured += [one for one in results.measured if (one.work, one.server) not in works]
        kept.delays += [one for one in results.delays if one.what not in whats]
    return [results for results in by_machine.values() if results.measured or results.delays]
