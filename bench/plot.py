"""Plot the CPU per object and the throughput, and both beside rclone's against the size of the objects."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.figures import REFERENCES, Row, Spread

COLOURS = {
    "s3s3": "#1b7837", 's3s3, checksum = "client"': "#a6dba0", "rclone, tuned": "#4575b4", "rclone check": "#4575b4",
    "rclone": "#91bfdb", "s5cmd, through a folder": "#e08214", "boto3, s3transfer": "#8073ac",
}  # fmt: skip
OTHER_COLOUR = "#bbbbbb"

#: Workloads that differ in nothing but the size of the objects, and whether the programs use HTTPS.
_SIZE = re.compile(r"(\d+ [KMG]iB)(, HTTPS)?")
_RATIOS = (0.125, 0.25, 0.5, 1, 2, 4, 8)


def draw(found: Sequence[Row], title: str, folder: Path) -> str:
    """Draw the rows into plot.png, plot.svg, ratio.png and ratio.svg; return "" or the reason for missing plots."""
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415  # of the extra "bench"
    except ImportError:
        return "\nno plot: matplotlib is not installed (pip install '.[bench]')\n"
    works = list(dict.fromkeys((row.work, row.server) for row in found))
    figure = Figure(figsize=(11, 1.2 + 1.7 * len(works)), layout="constrained")
    axes: Any = figure.subplots(len(works), 2, squeeze=False)
    for (work, server), (left, right) in zip(works, axes, strict=True):
        rows = [row for row in found if (row.work, row.server) == (work, server)][::-1]
        unit = "s of CPU per GiB" if rows[0].by_gib else "ms of CPU per object"
        _bars(left, rows, [row.cpu for row in rows], f"{work} ({server}): {unit}")
        _bars(right, rows, [row.rate for row in rows], "MiB per second" if rows[0].by_gib else "objects per second")
    figure.suptitle(title, fontsize=10)
    _save(figure, folder, "plot")
    if by_series := ratios_by_size(found):
        figure = Figure(figsize=(11, 4.5), layout="constrained")
        left, right = figure.subplots(1, 2)
        _ratio_lines(left, by_series, "cpu_ratio", "CPU time beside tuned rclone: less is better")
        _ratio_lines(right, by_series, "rate_ratio", "throughput beside tuned rclone: more is better")
        left.legend(fontsize=7)
        _save(figure, folder, "ratio")
    return ""


def ratios_by_size(found: Sequence[Row]) -> dict[str, list[Row]]:
    """Return the rows of each program that differ in size only, by its name and protocol, in the order of size."""
    servers = [row.server for row in found if _SIZE.fullmatch(row.work)]
    by_series: dict[str, list[Row]] = {}
    for row in sorted(found, key=lambda row: row.size_bytes):
        match = _SIZE.fullmatch(row.work)
        if match and row.server == max(servers, key=servers.count) and row.cpu_ratio and row.peer not in REFERENCES:
            by_series.setdefault(row.peer + (match[2] or ""), []).append(row)
    return by_series


def _ratio_lines(axis: Any, by_series: dict[str, list[Row]], ratio: str, title: str) -> None:
    sizes = {row.size_bytes: row.work for rows in by_series.values() for row in rows if "," not in row.work}
    for name, rows in by_series.items():
        spreads = [getattr(row, ratio) for row in rows]
        axis.errorbar(
            [row.size_bytes for row in rows], [spread.middle for spread in spreads], yerr=_reach(spreads),
            label=name, color=_colour(rows[0].peer), linestyle="--" if "HTTPS" in name else "-",
            marker="s" if "HTTPS" in name else "o", markersize=4, capsize=3,
        )  # fmt: skip
    axis.axhline(1.0, color=COLOURS["rclone, tuned"], linewidth=1.5)
    axis.annotate("rclone, tuned = 1.0", (0.01, 1.0), xycoords=("axes fraction", "data"), fontsize=7,
                  color=COLOURS["rclone, tuned"], verticalalignment="bottom")  # fmt: skip
    axis.set_xscale("log", base=2)
    axis.set_xticks(list(sizes), list(sizes.values()), fontsize=7)
    axis.set_yscale("log", base=2)
    axis.set_yticks(_RATIOS, [f"{ratio:g}" for ratio in _RATIOS], fontsize=7)
    axis.minorticks_off()
    axis.grid(axis="y", alpha=0.3)
    axis.set_title(title, fontsize=9, loc="left")


def _save(figure: Any, folder: Path, name: str) -> None:
    for kind in ("png", "svg"):
        figure.savefig(folder / f"{name}.{kind}")


def _colour(peer: str) -> str:
    return COLOURS.get(peer, COLOURS["s3s3"] if "s3s3" in peer else OTHER_COLOUR)


def _reach(spreads: Sequence[Spread]) -> list[list[float]]:
    """Return the error bars' lengths, down and up."""
    down = [spread.middle - spread.least for spread in spreads]
    return [down, [spread.most - spread.middle for spread in spreads]]


def _bars(axis: Any, rows: Sequence[Row], spreads: Sequence[Spread], title: str) -> None:
    middles, colours = [spread.middle for spread in spreads], [_colour(row.peer) for row in rows]
    axis.barh([row.peer for row in rows], middles, xerr=_reach(spreads), color=colours)
    axis.set_title(title, fontsize=8, loc="left")
    axis.tick_params(labelsize=7)
