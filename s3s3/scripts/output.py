"""Print tables and texts to terminals and pipes: wrapped by rich on a terminal, one row per line elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from ..errors import shown_key


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table with columns of numbers aligned to the right. Nothing is truncated."""
    by_column = list(zip(columns, *rows, strict=True))
    numeric = [all(text == "-" or text.replace(",", "").isdigit() for text in texts[1:]) for texts in by_column]
    if sys.stdout.isatty():
        table = Table(box=None, pad_edge=False)
        for name, right in zip(columns, numeric, strict=True):
            table.add_column(Text(name), justify="right" if right else "left", overflow="fold")
        for row in rows:
            table.add_row(*map(Text, row))
        Console().print(table)
        return
    widths = [max(map(len, texts)) for texts in by_column]
    for row in (columns, *rows):
        cells = zip(row, widths, numeric, strict=True)
        print("  ".join(text.rjust(width) if right else text.ljust(width) for text, width, right in cells).rstrip())


def print_labelled(rows: Sequence[tuple[str, str]]) -> None:
    """Print each text after its label; on a terminal, continuation lines are indented by the label."""
    if sys.stdout.isatty():
        grid = Table.grid(padding=(0, 1))
        for label, text in rows:
            grid.add_row(label, Text(text))
        Console().print(grid)
    else:
        for label, text in rows:
            print(label, text)


def print_indented(text: str, indent: int) -> None:
    """Print a text with an indent; on a terminal, continuation lines are indented, too."""
    if sys.stdout.isatty():
        Console().print(Padding(Text(text, overflow="fold"), (0, 0, 0, indent)))
    else:
        print(f"{'':{indent}}{text}")


def print_command(text: str, indent: int) -> None:
    """Print a text that ends with a command, without line breaks in it: it can be copied from a terminal."""
    print(f"{'':{indent}}{text}")


def printable(text: str) -> str:
    """Return a text from outside, such as a key, without control characters."""
    return text if text.isprintable() and text.strip() == text else repr(text)


def printable_key(key: str) -> str:
    """Return a key without control characters; one that is a URL, without its password and query."""
    return printable(shown_key(key))
