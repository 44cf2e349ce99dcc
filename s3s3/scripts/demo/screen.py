"""Terminal output of the demo: numbered steps, live bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.padding import Padding
from rich.progress import BarColumn, Progress, ProgressColumn, Task
from rich.spinner import Spinner
from rich.text import Text

from ...monitoring.formatting import rate_text, size_text

MARGIN = 1
INDENT = 4
MAX_WIDTH = 88
BAR_WIDTH = 26
PLAIN_LINE_INTERVAL_S = 2.0


class Screen:
    """Prints the steps of the demo."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False)
        self._width = min(self.console.width, MAX_WIDTH)
        self._steps = 0

    def title(self, text: str, explanation: str) -> None:
        """Print the title."""
        self.gap()
        self._print(text, "bold", MARGIN)
        self._print(explanation, "dim", MARGIN)

    def step(self, title: str, explanation: str) -> None:
        """Print the heading of the next step."""
        self._steps += 1
        self.gap()
        self._print(f"{self._steps:<{INDENT - MARGIN}}{title}", "bold", MARGIN)
        self._print(explanation, "dim")
        self.gap()

    def line(self, text: str, style: str = "") -> None:
        """Print a line."""
        self._print(text, style)

    def message(self, text: str) -> None:
        """Print a log message."""
        self._print(f"log: {text}", "dim", hanging=len("log: "))

    def end(self, text: str) -> None:
        """Print the last line."""
        self.gap()
        self._print(text, "bold", MARGIN)

    def gap(self) -> None:
        """Print an empty line."""
        self.console.print()

    def verbatim(self, text: str, style: str = "") -> None:
        """Print a line without wrapping, so that it can be copied."""
        self._print_line(" " * INDENT + text, style)

    def file(self, path: Path) -> None:
        """Print a file."""
        self.verbatim(f"{path}:")
        self.gap()
        for line in path.read_text().splitlines():
            self.verbatim(f"  {line}".rstrip(), "cyan")

    def columns(self, rows: Sequence[Sequence[str]], *, heading: Sequence[str] = (), numbers: int = 0) -> None:
        """Print aligned columns; the last `numbers` columns are right-aligned."""
        widths = [max(map(len, column)) for column in zip(*rows, *[heading] * bool(heading), strict=True)]
        first_number = len(widths) - numbers
        for row in [heading, *rows] if heading else rows:
            words = [
                word.rjust(width) if place >= first_number else word.ljust(width)
                for place, (word, width) in enumerate(zip(row, widths, strict=True))
            ]
            self.verbatim("  ".join(words).rstrip(), "dim" if row is heading else "")

    def busy(self, text: str) -> AbstractContextManager[object]:
        """Show a spinner during the block."""
        spinner = Spinner("dots" if self.console.encoding.startswith("utf") else "line", text)
        shown = Padding(spinner, (0, 0, 0, INDENT))
        return Live(shown, console=self.console, transient=True) if self.console.is_terminal else nullcontext()

    @contextmanager
    def bars(self, totals: Mapping[str, int]) -> Iterator[Bars]:
        """Show a progress bar per name during the block; the final state remains."""
        plain = not self.console.is_terminal
        with Progress(_Row(), BarColumn(BAR_WIDTH), _Stats(), console=self.console, disable=plain) as progress:
            bars = Bars(self, progress, totals)
            yield bars
        bars.print_lines()

    def _print(self, text: str, style: str = "", indent: int = INDENT, *, hanging: int = 0) -> None:
        first, others = " " * indent, " " * (indent + hanging)
        for line in textwrap.wrap(
            text, self._width, initial_indent=first, subsequent_indent=others, break_on_hyphens=False
        ):
            self._print_line(line, style)

    def _print_line(self, line: str, style: str) -> None:
        encoding = self.console.encoding  # the terminal may not be able to show every key
        shown = line.encode(encoding, "backslashreplace").decode(encoding)
        self.console.print(Text(shown, style), soft_wrap=True)


class Bars:
    """Progress bars. Call with a bar's name and its objects and bytes so far."""

    def __init__(self, screen: Screen, progress: Progress, totals: Mapping[str, int]) -> None:
        self._screen = screen
        self._progress = progress
        self._totals = totals
        self._ids = {name: progress.add_task(name, total=total, size_bytes=0) for name, total in totals.items()}
        self._printed: dict[str, float] = {}
        self._printed_s = time.monotonic()

    def __call__(self, name: str, objects: int, size_bytes: int) -> None:
        self._progress.update(self._ids[name], completed=min(objects, self._totals[name]), size_bytes=size_bytes)
        if time.monotonic() - self._printed_s > PLAIN_LINE_INTERVAL_S:
            self.print_lines()

    def print_lines(self) -> None:
        """Print a line for each bar that has changed, if bars cannot be shown."""
        self._printed_s = time.monotonic()
        for task in self._progress.tasks if self._progress.disable else ():
            if self._printed.get(task.description) != task.completed:
                self._printed[task.description] = task.completed
                self._screen.line(f"{task.description:<12} {_stats_text(task)}")


class _Row(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{'':{INDENT}}{task.description:<12}")


class _Stats(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(_stats_text(task))


def _stats_text(task: Task) -> str:
    """Return objects of the total, bytes, and objects per second over the last 30 s."""
    speed = task.finished_speed or task.speed
    rate = rate_text(speed) if speed else ""
    return f"{f'{task.completed:,.0f}/{task.total:,.0f}':>11} {size_text(task.fields['size_bytes']):>10} {rate:>7}"
