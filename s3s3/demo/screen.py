"""What a person sees of the demonstration: numbered steps, live bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.progress import BarColumn, Progress, ProgressColumn, Task
from rich.table import Table
from rich.text import Text

from s3s3.scripts.progress import size_text

INDENT = 4
WIDEST = 88
BAR_WIDTH = 26
PLAIN_LINES_EVERY_S = 2.0


class Screen:
    """Prints the steps of the demonstration."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False)
        self._width = min(self.console.width, WIDEST)
        self._steps = 0

    def title(self, text: str, explanation: str) -> None:
        """Say what this is."""
        self.console.print()
        self._print(Text(text, "bold"), indent=1)
        self._print(Text(explanation, "dim"), indent=1)

    def step(self, title: str, explanation: str) -> None:
        """Begin the next step."""
        self._steps += 1
        self.console.print()
        self._print(Text.assemble((f"{self._steps}  ", "cyan"), (title, "bold")), indent=1)
        self._print(Text(explanation, "dim"))
        self.console.print()

    def line(self, text: str, style: str = "") -> None:
        """Say what happened."""
        self._print(Text(text, style))

    def gap(self) -> None:
        """Leave a line empty."""
        self.console.print()

    def end(self, text: str) -> None:
        """Say the last word."""
        self.console.print()
        self._print(Text(text, "bold"), indent=1)

    def columns(self, rows: Sequence[Sequence[str]]) -> None:
        """Print words below each other."""
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            self.verbatim("  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)).rstrip())

    def file(self, path: Path) -> None:
        """Show a file."""
        self.gap()
        self.verbatim(f"{path}:")
        self.gap()
        self._print(Text(path.read_text().rstrip(), "cyan"), indent=INDENT + 2)

    def verbatim(self, text: str) -> None:
        """Print a line that people may want to copy: it is not broken, however long it is."""
        self.console.print(" " * INDENT + text, soft_wrap=True, markup=False)

    def table(self, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Print a table; the columns from the third on hold numbers."""
        table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="dim")
        for number, heading in enumerate(headings):
            table.add_column(heading, justify="right" if number > 1 else "left")
        for row in rows:
            table.add_row(*row)
        self._print(table)

    def busy(self, text: str) -> AbstractContextManager[object]:
        """Show that something goes on, while it does."""
        return self.console.status(f"{'':{INDENT - 2}}{text}", spinner="dots")

    @contextmanager
    def bars(self, totals: Mapping[str, int]) -> Iterator[Bars]:
        """Show a bar for each name while the block runs, and leave it there as it was at the end."""
        live = self.console.is_terminal
        with Progress(_Row(), BarColumn(BAR_WIDTH), _Figures(), console=self.console, disable=not live) as progress:
            bars = Bars(self, progress, totals, plain=not live)
            yield bars
        bars.tell()

    def _print(self, what: RenderableType, indent: int = INDENT) -> None:
        self.console.print(Padding(what, (0, 0, 0, indent)), width=self._width)


class Bars:
    """How far each of several things is. Call it with a thing's name, its objects and its bytes so far."""

    def __init__(self, screen: Screen, progress: Progress, totals: Mapping[str, int], *, plain: bool) -> None:
        self._screen = screen
        self._progress = progress
        self._totals = totals
        self._ids = {name: progress.add_task(name, total=total, size_bytes=0) for name, total in totals.items()}
        self._plain = plain
        self._told_s = time.monotonic()

    def __call__(self, name: str, objects: int, size_bytes: int) -> None:
        self._progress.update(self._ids[name], completed=min(objects, self._totals[name]), size_bytes=size_bytes)
        if time.monotonic() - self._told_s > PLAIN_LINES_EVERY_S:
            self.tell()

    def tell(self) -> None:
        """Where no bars can be shown, print how far each thing is."""
        self._told_s = time.monotonic()
        if self._plain:
            for task in self._progress.tasks:
                self._screen.line(f"{task.description:<12} {_figures(task)}")


class _Row(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{'':{INDENT}}{task.description:<12}")


class _Figures(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(_figures(task))


def _figures(task: Task) -> str:
    """Return objects of the total, bytes, and objects a second over the last half minute."""
    speed = task.finished_speed or task.speed
    rate = f"{speed:,.0f}/s" if speed else ""
    return f"{f'{task.completed:,.0f}/{task.total:,.0f}':>11} {size_text(task.fields['size_bytes']):>10} {rate:>7}"
