"""Print tables and texts to terminals and pipes: wrapped by rich on a terminal, one row per line elsewhere."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table with columns of numbers aligned to the right. Nothing is truncated."""
    if not sys.stdout.isatty():
        for line in plain_lines(columns, rows):
            print(line)
        return
    table = Table(box=None, pad_edge=False)
    for name, texts in zip(columns, zip(*rows, strict=True) if rows else [()] * len(columns), strict=True):
        table.add_column(Text(name), justify="right" if _is_numeric(texts) else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    Console().print(table)


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


def plain_lines(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield the lines of a table in aligned columns, the header first."""
    widths = [max(map(len, texts)) for texts in zip(columns, *rows, strict=True)]
    numeric = [_is_numeric(texts) for texts in zip(*rows, strict=True)] or [False] * len(columns)
    for row in (columns, *rows):
        cells = zip(row, widths, numeric, strict=True)
        yield "  ".join(text.rjust(width) if right else text.ljust(width) for text, width, right in cells).rstrip()


def printable(text: str) -> str:
    """Return a text from outside, such as a key, without control characters."""
    return text if text.isprintable() and text.strip() == text else repr(text)


def toml_literal(value: object) -> str:
    """Return a string, boolean, number or sequence of those in TOML syntax."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")  # else JSON's strings are TOML's


def _is_numeric(texts: Sequence[str]) -> bool:
    return all(text == "-" or text.replace(",", "").isdigit() for text in texts)
