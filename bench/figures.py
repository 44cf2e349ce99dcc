"""Compute ratios and tables from the measurements."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from bench.cost import Cost
from bench.objects import GIB, MIB
from bench.workloads import Measured

REFERENCES = ("rclone, tuned", "rclone check")
#: Object size from which on costs are given per GiB.
BIG_BYTES = 64 * MIB

Figure = Callable[[Cost], float]


@dataclass(frozen=True)
class Spread:
    """Minimum, median and maximum of several figures."""

    least: float
    middle: float
    most: float

    def text(self, digits: int = 2) -> str:
        """Return all three as text, or one if they are equal."""
        if self.least == self.most:
            return f"{self.middle:.{digits}f}"
        return f"{self.middle:.{digits}f} ({self.least:.{digits}f} to {self.most:.{digits}f})"


@dataclass(frozen=True)
class Row:
    """One peer with one workload.

    Attributes:
        size_bytes: of an object.
        cpu: ms per object, or s per GiB if `by_gib`.
        rate: objects, or MiB, per second.
        cpu_ratio, rate_ratio: to the reference, run by run; None if that did not run.
    """

    work: str
    server: str
    peer: str
    runs: int
    size_bytes: float
    by_gib: bool
    cpu: Spread
    rate: Spread
    peak_mib: float
    redis_cpu_ms: float
    cpu_ratio: Spread | None
    rate_ratio: Spread | None


def spread(values: Iterable[float]) -> Spread:
    """Return the spread of at least one value."""
    ordered = sorted(values)
    return Spread(ordered[0], median(ordered), ordered[-1])


def rows(measured: Sequence[Measured]) -> list[Row]:
    """Return a row per workload and peer, in the order of their first run."""
    costs: dict[tuple[str, str, str], dict[int, Cost]] = {}
    for one in measured:
        costs.setdefault((one.work, one.server, one.peer), {})[one.run] = one.cost
    works = dict.fromkeys((work, server) for work, server, _ in costs)
    found = []
    for work in works:
        of_work = {peer: runs for (*name, peer), runs in costs.items() if tuple(name) == work}
        reference = next((of_work[peer] for peer in REFERENCES if peer in of_work), None)
        found += [_row(work, peer, runs, reference) for peer, runs in of_work.items()]
    return found


def _row(work: tuple[str, str], peer: str, runs: dict[int, Cost], reference: dict[int, Cost] | None) -> Row:
    some = next(iter(runs.values()))
    size_bytes = some.size_bytes / some.objects
    by_gib = size_bytes >= BIG_BYTES
    cpu: Figure = (lambda cost: cost.cpu_s * GIB / cost.size_bytes) if by_gib else _cpu_ms
    rate: Figure = (lambda cost: cost.size_bytes / MIB / cost.wall_s) if by_gib else _objects_per_s
    return Row(
        *work,
        peer,
        len(runs),
        size_bytes,
        by_gib,
        spread(map(cpu, runs.values())),
        spread(map(rate, runs.values())),
        max(cost.peak_bytes for cost in runs.values()) / MIB,
        median(cost.redis_cpu_s / cost.objects * 1000 for cost in runs.values()),
        _ratio(runs, reference, cpu),
        _ratio(runs, reference, rate),
    )


def _cpu_ms(cost: Cost) -> float:
    return 1000 * cost.cpu_s / cost.objects


def _objects_per_s(cost: Cost) -> float:
    return cost.objects / cost.wall_s


def _ratio(runs: dict[int, Cost], reference: dict[int, Cost] | None, figure: Figure) -> Spread | None:
    pairs = [(cost, reference[run]) for run, cost in runs.items() if run in reference] if reference else []
    return spread(figure(cost) / figure(other) for cost, other in pairs) if pairs else None


def summary(found: Sequence[Row]) -> str:
    """Return a Markdown table: s3s3 beside the reference, a line per workload."""
    lines = [
        "| work | server | CPU of s3s3 | of rclone, tuned | ratio | throughput, ratio |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for row in found:
        if not row.peer.startswith("s3s3") or row.cpu_ratio is None or row.rate_ratio is None:
            continue
        name = row.work if row.peer in ("s3s3", "s3s3 bucket") else f"{row.work}, {row.peer.removeprefix('s3s3 ')}"
        theirs = next(other for other in found
                      if (other.work, other.server) == (row.work, row.server) and other.peer in REFERENCES)  # fmt: skip
        lines.append(
            f"| {name} | {row.server} | {_cpu(row)} | {_cpu(theirs)} | "
            f"{row.cpu_ratio.text()} | {row.rate_ratio.text()} |"
        )
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", r"\|")


def _cpu(row: Row) -> str:
    if row.by_gib:
        return f"{row.cpu.middle:.2f} s/GiB"
    return f"{row.cpu.middle:.2f} ms" if row.cpu.middle >= 0.1 else f"{1000 * row.cpu.middle:.1f} µs"


def table(found: Sequence[Row]) -> str:
    """Return the rows as a Markdown table."""
    lines = [
        "| work | server | program | CPU | to rclone's | per second | to rclone's | memory | runs |",
        "|---|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in found:
        cpu = _cpu(row)
        if row.redis_cpu_ms:
            cpu += f" (Redis {row.redis_cpu_ms:.2f})"
        rate = f"{row.rate.middle:.0f} MiB" if row.by_gib else f"{row.rate.middle:,.0f}"
        ratios = [
            ratio.text() if ratio and row.peer not in REFERENCES else "" for ratio in (row.cpu_ratio, row.rate_ratio)
        ]
        lines.append(
            f"| {row.work} | {row.server} | {_cell(row.peer)} | {cpu} | {ratios[0]} | {rate} | {ratios[1]} | "
            f"{row.peak_mib:.0f} MiB | {row.runs} |"
        )
    return "\n".join(lines) + "\n"
