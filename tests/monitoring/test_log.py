"""The log's lines: for people, for a collector, and not again and again."""

from __future__ import annotations

import ast
import io
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from s3s3.model import Job, Lane, Outcome, Result
from s3s3.monitoring import log
from s3s3.monitoring.job_observer import JobObserver
from s3s3.monitoring.log import (
    MAX_REMEMBERED,
    JsonFormatter,
    PlainFormatter,
    RateLimitedHandler,
    log_fields,
    object_id,
)
from s3s3.monitoring.metrics import Metrics

KEY = "a\nkey"


@pytest.fixture
def output() -> io.StringIO:
    return io.StringIO()


NewLines = Callable[..., tuple[logging.Logger, RateLimitedHandler]]


@pytest.fixture
def new_lines(output: io.StringIO) -> Iterator[NewLines]:
    log = logging.getLogger("s3s3")
    before = log.level

    def make(formatter: logging.Formatter, **settings: bool) -> tuple[logging.Logger, RateLimitedHandler]:
        lines = RateLimitedHandler(formatter, **settings)
        lines.setStream(output)
        log.handlers[:] = [lines]
        log.setLevel(logging.DEBUG if settings.get("every_one") else logging.INFO)
        return log, lines

    yield make
    log.handlers[:] = []
    log.setLevel(before)


def failed(key: str, *destinations: str, reason: str = "HTTP 503") -> tuple[Job, list[Outcome]]:
    job = Job(key, destinations, Lane.FRESH, "1-1", "t", True, {}, 1000)
    return job, [Outcome(name, key, Result.FAILED, f"{name}: PUT of {key!r}: {reason}") for name in destinations]


def test_an_object_has_one_id_in_every_process_and_no_other_has_it() -> None:
    assert object_id("images", KEY) == object_id("images", KEY) == "0602830d"
    assert len({object_id("images", KEY), object_id("raw", KEY), object_id("images", "key")}) == 3
    assert object_id("images", "\udcff")


def test_a_collector_gets_what_a_line_is_about_as_fields(new_lines: NewLines, output: io.StringIO) -> None:
    new_lines(JsonFormatter())
    JobObserver("images", Metrics()).on_job_end(*failed(KEY, "swift", "ceph"), 0.1)
    (line,) = map(json.loads, output.getvalue().splitlines())
    assert {name: line[name] for name in ("level", "id", "route", "key", "destinations", "outcome", "attempts")} == {
        "level": "warning", "id": object_id("images", KEY), "route": "images", "key": KEY,
        "destinations": ["swift", "ceph"], "outcome": "failed", "attempts": {"swift": 1, "ceph": 1},
    }  # fmt: skip
    assert "to swift failed: swift: PUT" in line["message"]


def test_a_person_gets_one_line_with_the_id_at_its_end(new_lines: NewLines, output: io.StringIO) -> None:
    new_lines(PlainFormatter())
    JobObserver("images", Metrics()).on_job_end(*failed(KEY, "swift", "ceph"), 0.1)
    (line,) = output.getvalue().splitlines()
    assert "WARNING images: 'a\\nkey' to swift failed" in line
    assert line.endswith(f"; to ceph failed: ceph: PUT of 'a\\nkey': HTTP 503 [{object_id('images', KEY)}]")


def test_what_fails_for_many_objects_alike_is_told_once_and_counted(new_lines: NewLines, output: io.StringIO) -> None:
    log, lines = new_lines(PlainFormatter())
    observer = JobObserver("images", Metrics())
    for number in range(500):
        observer.on_job_end(*failed(f"key-{number}", "swift"), 0.1)
    observer.on_job_end(*failed("other", "swift", reason="HTTP 403"), 0.1)
    log.warning("Redis is away")
    log.warning("Redis is away")
    assert len(output.getvalue().splitlines()) == 3
    lines.tell_due()
    assert len(output.getvalue().splitlines()) == 3, "a minute is not over"
    lines.tell_due(older_than_s=0.0)
    said = output.getvalue().splitlines()[3:]
    assert len(said) == 2
    assert "key-499" in said[0]
    assert "(499 more like it within 0 s)" in said[0]
    assert said[1].endswith("Redis is away (once more within 0 s)")
    lines.tell_due(older_than_s=0.0)
    assert len(output.getvalue().splitlines()) == 5, "nothing came since"
    log.warning("Redis is away")
    assert len(output.getvalue().splitlines()) == 6, "it is told again once it was quiet"


def test_whoever_wants_every_line_gets_every_line(new_lines: NewLines, output: io.StringIO) -> None:
    new_lines(PlainFormatter(), every_one=True)
    for _ in range(3):
        JobObserver("images", Metrics()).on_job_end(*failed(KEY, "swift"), 0.1)
    assert len(output.getvalue().splitlines()) == 3


def test_without_v_an_object_that_is_copied_has_no_line(new_lines: NewLines, output: io.StringIO) -> None:
    new_lines(PlainFormatter())
    job, _ = failed(KEY, "swift")
    JobObserver("images", Metrics()).on_job_end(job, [Outcome("swift", KEY, Result.COPIED)], 0.1)
    assert output.getvalue() == ""


def test_what_is_remembered_of_lines_is_bounded_and_none_is_lost(new_lines: NewLines, output: io.StringIO) -> None:
    log, lines = new_lines(PlainFormatter())
    for number in range(2 * MAX_REMEMBERED):
        log.warning("trouble %d", number)
        log.warning("trouble %d", number)
    lines.tell_due(older_than_s=0.0)
    said = output.getvalue().splitlines()
    assert len(said) == 4 * MAX_REMEMBERED
    assert sum("once more" in line for line in said) == 2 * MAX_REMEMBERED


def test_extra_fields_are_what_a_collector_needs() -> None:
    assert log_fields("images", "k", destination="swift")["about"] == {
        "id": object_id("images", "k"), "route": "images", "key": "k", "destination": "swift",
    }  # fmt: skip


def lines_without_an_id() -> Iterator[str]:
    """Calls of a logger, in all of s3s3, that name a key and do not say `extra`."""
    for path in sorted(Path(log.__file__).parent.rglob("*.py")):
        for call in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(call, ast.Call) and ast.unparse(call.func).startswith("log.")):
                continue
            named = {part.id for value in call.args for part in ast.walk(value) if isinstance(part, ast.Name)}
            named |= {part.attr for value in call.args for part in ast.walk(value) if isinstance(part, ast.Attribute)}
            if "key" in named and "extra" not in {keyword.arg for keyword in call.keywords}:
                yield f"{path.name}:{call.lineno}"


def test_each_line_that_names_an_object_has_its_id() -> None:
    assert not list(lines_without_an_id())
