"""Plot the CPU per object and the throughput."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.figures import Row

COLOURS = {"s3s3": "#1b7837", "rclone, tuned": "#4575b4", "rclone check": "#4575b4", "rclone": "#91bfdb"}
OTHER_COLOUR = "#bbbbbb"


def draw(found: Sequence[Row], title: str, folder: Path) -> str:
    """Draw the rows into plot.png and plot.svg; return "" or the reason for a missing plot."""
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415  # of the extra "bench"
    except ImportError:
        return "no plot: matplotlib is not installed (pip install '.[bench]')"
    works = list(dict.fromkeys((row.work, row.server) for row in found))
    figure = Figure(figsize=(11, 1.2 + 1.7 * len(works)), layout="constrained")
    axes: Any = figure.subplots(len(works), 2, squeeze=False)
    for (work, server), (left, right) in zip(works, axes, strict=True):
        rows = [row for row in found if (row.work, row.server) == (work, server)][::-1]
        unit = "s of CPU per GiB" if rows[0].by_gib else "ms of CPU per object"
        _bars(left, rows, [row.cpu for row in rows], f"{work} ({server}): {unit}")
        _bars(right, rows, [row.rate for row in rows], "MiB per second" if rows[0].by_gib else "objects per second")
    figure.suptitle(title, fontsize=10)
    for kind in ("png", "svg"):
        figure.savefig(folder / f"plot.{kind}")
    return ""


def _bars(axis: Any, rows: Sequence[Row], spreads: Sequence[Any], title: str) -> None:
    middles = [spread.middle for spread in spreads]
    reach = [[spread.middle - spread.least for spread in spreads], [spread.most - spread.middle for spread in spreads]]
    colours = [COLOURS.get(row.peer, COLOURS["s3s3"] if "s3s3" in row.peer else OTHER_COLOUR) for row in rows]
    axis.barh([row.peer for row in rows], middles, xerr=reach, color=colours)
    axis.set_title(title, fontsize=8, loc="left")
    axis.tick_params(labelsize=7)
