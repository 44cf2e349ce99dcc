"""docs/how-to/troubleshooting.md has messages that the code still writes, and the most frequent ones of each kind."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from s3s3.events import EVENTS
from s3s3.monitoring.metrics import Metrics

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "how-to" / "troubleshooting.md"

#: What stands on the page for what differs.
PLACEHOLDER = re.compile(r"\.\.\.|\b[A-Z]{1,4}\b|\b\d+\b|\"[^\"]*\"|[(),:;]")


#: Parts of messages that the code puts together from short texts.
ASSEMBLED = ("shows ...", "cannot use ca_file")


def texts_of_the_code() -> str:
    """Every text of the code; what an f-string inserts is a NUL."""
    found = [f"{name}: " for name in EVENTS]
    for path in (ROOT / "s3s3").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
            elif isinstance(node, ast.JoinedStr):
                parts = (part.value if isinstance(part, ast.Constant) else "\0" for part in node.values)
                found.append("".join(map(str, parts)))
    found += [metric.name for metric in vars(Metrics()).values() if hasattr(metric, "name")]
    return "\n".join(found)


def messages() -> list[str]:
    """The messages in the first column of each table."""
    cells = [line.split(" | ")[0] for line in PAGE.read_text().splitlines() if line.startswith("| ")]
    return [re.sub("_total.*", "", message) for cell in cells for message in re.findall(r"`([^`]+)`", cell)]


def is_written(message: str, code: str) -> bool:
    """Whether most runs of three words in the message's longest part are in texts of the code.

    Not all: a run may go across what an f-string inserts.
    """
    words = max((piece.split() for piece in PLACEHOLDER.split(message)), key=len)
    runs = [" ".join(words[start : start + 3]) in code for start in range(max(len(words) - 2, 1))]
    return 2 * sum(runs) >= len(runs)


def test_every_message_of_the_page_is_one_of_the_code() -> None:
    code = texts_of_the_code()
    assert len(messages()) > 50
    missing = [message for message in messages() if not is_written(message, code)]
    assert [message for message in missing if not any(part in message for part in ASSEMBLED)] == []


@pytest.mark.parametrize("stale", ["D is down, its keys are held back", "channel C: heard for the first time"])
def test_a_stale_message_is_detected(stale: str) -> None:
    assert not is_written(stale, texts_of_the_code())
