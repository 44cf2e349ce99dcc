"""Log lines in both formats, and the rate limit of repeated warnings."""

from __future__ import annotations

import ast
import io
import json
import logging
import re
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from docs.generated import _events as reference_of_events
from s3s3 import events
from s3s3.errors import StoreRefused
from s3s3.events import BACKFILL_FAILED, CIRCUIT_OPENED, DEAD_LETTERED, ELECTED_LEADER, EVENTS, log_event, object_id
from s3s3.model import Endpoint, Job, Lane, Outcome, Result, Secret
from s3s3.monitoring import log
from s3s3.monitoring.json_log import JsonFormatter
from s3s3.monitoring.log import (
    MAX_REMEMBERED,
    PlainFormatter,
    RateLimitedHandler,
    log_fields,
)
from s3s3.monitoring.metrics import JobObserver, Metrics
from s3s3.queue.base import Disposition, DispositionKind

KEY = "a\nkey"


@pytest.fixture
def output() -> io.StringIO:
    return io.StringIO()


NewHandler = Callable[..., tuple[logging.Logger, RateLimitedHandler]]


@pytest.fixture
def new_handler(output: io.StringIO) -> Iterator[NewHandler]:
    log = logging.getLogger("s3s3")
    before = log.level

    def make(formatter: logging.Formatter, **settings: bool) -> tuple[logging.Logger, RateLimitedHandler]:
        handler = RateLimitedHandler(formatter, **settings)
        handler.setStream(output)
        log.handlers[:] = [handler]
        log.setLevel(logging.DEBUG if settings.get("unlimited") else logging.INFO)
        return log, handler

    yield make
    log.handlers[:] = []
    log.setLevel(before)


def failed(key: str, *destinations: str, reason: str = "HTTP 503") -> tuple[Job, list[Outcome]]:
    job = Job(key, destinations, Lane.FRESH, "1-1", "t", True, {}, 1000)
    return job, [Outcome(name, key, Result.FAILED, f"{name}: PUT of {key!r}: {reason}") for name in destinations]


def test_an_object_has_the_same_id_in_every_process() -> None:
    assert object_id("images", KEY) == object_id("images", KEY) == "0602830d"
    assert len({object_id("images", KEY), object_id("raw", KEY), object_id("images", "key")}) == 3
    assert object_id("images", "\udcff")


def test_a_json_line_has_fields(new_handler: NewHandler, output: io.StringIO) -> None:
    new_handler(JsonFormatter())
    JobObserver("images", Metrics()).on_job_end(*failed(KEY, "swift", "ceph"), 0.1)
    (line,) = map(json.loads, output.getvalue().splitlines())
    assert {name: line[name] for name in line if name not in ("time", "logger")} == {
        "level": "warning", "event": "copy failed", "message": "copy failed: PUT of an object: HTTP 503",
        "id": object_id("images", KEY), "route": "images", "key": KEY, "destination": "swift,ceph",
        "attempt": 1, "duration_s": 0.1,
    }  # fmt: skip


def test_a_plain_line_of_an_event_ends_with_its_fields(new_handler: NewHandler, output: io.StringIO) -> None:
    new_handler(PlainFormatter())
    JobObserver("images", Metrics()).on_job_end(*failed(KEY, "swift", "ceph"), 0.1)
    (line,) = output.getvalue().splitlines()
    assert line.partition(" WARNING ")[2] == (
        f'copy failed: PUT of an object: HTTP 503 id={object_id("images", KEY)} key="a\\nkey" route=images '
        "destination=swift,ceph attempt=1 duration_s=0.100"
    )


@pytest.mark.parametrize(
    ("value", "text"),
    [("a b", '"a b"'), ('a"b', '"a\\"b"'), ("a=b", '"a=b"'), ("\x1b[2J", '"\\u001b[2J"'), ("\u2028", '"\\u2028"'),
     ("\udcff", '"\\udcff"'), ("käse/1", "käse/1"), (7, "7"), (0.5, "0.500"), (True, "True"), ("a,b", "a,b")],
)  # fmt: skip
def test_a_field_of_a_plain_line_is_one_word(
    new_handler: NewHandler, output: io.StringIO, value: object, text: str
) -> None:
    log, _ = new_handler(PlainFormatter())
    log_event(log, ELECTED_LEADER, route="images", value=value, unknown=None, empty="")
    assert output.getvalue().partition(" INFO ")[2] == f"elected leader route=images value={text}\n"


def test_a_plain_line_about_an_object_that_is_no_event_ends_with_the_id(
    new_handler: NewHandler, output: io.StringIO
) -> None:
    log, _ = new_handler(PlainFormatter())
    log.warning("strange", extra=log_fields("images", KEY))
    assert output.getvalue().endswith(f"WARNING strange [{object_id('images', KEY)}]\n")


def test_a_line_about_a_dead_letter_has_what_the_store_and_the_queue_know(
    new_handler: NewHandler, output: io.StringIO
) -> None:
    new_handler(JsonFormatter())
    error = StoreRefused("no", store="swift", operation="PUT", key=KEY, status=400, request_id="tx0001")
    job = Job(KEY, ("swift", "ceph"), Lane.FRESH, "1-1", "t", True, {"swift": 7, "ceph": 1}, 1000)
    outcomes = [Outcome(name, KEY, Result.FAILED, str(error), 4096, error=error) for name in job.destinations]
    dispositions = {
        "swift": Disposition(DispositionKind.DEAD_LETTER, reason=str(error)),
        "ceph": Disposition(DispositionKind.RETRY, delay_s=60.0),
    }
    JobObserver("images", Metrics()).on_job_end(job, outcomes, 0.25, dispositions)
    dead, retried = map(json.loads, output.getvalue().splitlines())
    assert (dead["level"], dead["event"], dead["destination"], dead["attempt"]) == (
        "error", "dead-lettered", "swift", 8,
    )  # fmt: skip
    assert (dead["request_id"], dead["duration_s"], dead["bytes"]) == ("tx0001", 0.25, 4096)
    assert "next_attempt" not in dead
    assert (retried["event"], retried["destination"], retried["attempt"]) == ("copy failed", "ceph", 2)
    due = datetime.fromisoformat(retried["next_attempt"].replace("Z", "+00:00"))
    assert timedelta(seconds=50) < due - datetime.now(timezone.utc) <= timedelta(seconds=60)


def test_each_dead_letter_has_a_line_until_there_are_many_with_one_reason(
    new_handler: NewHandler, output: io.StringIO
) -> None:
    _, handler = new_handler(PlainFormatter())
    observer = JobObserver("images", Metrics())
    final = {"swift": Disposition(DispositionKind.DEAD_LETTER)}
    for number in range(250):
        observer.on_job_end(*failed(f"key-{number}", "swift"), 0.1, final)
    observer.on_job_end(*failed("other", "swift", reason="HTTP 403"), 0.1, final)
    assert len(output.getvalue().splitlines()) == DEAD_LETTERED.burst + 1
    handler.flush_repeats(older_than_s=0.0)
    (last,) = output.getvalue().splitlines()[DEAD_LETTERED.burst + 1 :]
    assert "150 similar lines" in last
    assert "key=key-249" in last


def test_each_change_of_state_is_written(new_handler: NewHandler, output: io.StringIO) -> None:
    log, _ = new_handler(PlainFormatter())
    for _ in range(3):
        log_event(log, CIRCUIT_OPENED, "it is down", route="images", destination="swift")
    assert output.getvalue().count("circuit opened") == 3


def test_the_same_event_of_two_destinations_is_not_a_repeat(new_handler: NewHandler, output: io.StringIO) -> None:
    log, _ = new_handler(PlainFormatter())
    for destination in ("swift", "ceph", "swift"):
        log_event(log, BACKFILL_FAILED, "it is down", route="images", destination=destination)
    assert re.findall("destination=(.*)", output.getvalue()) == ["swift", "ceph"]


def test_a_failure_that_many_objects_share_is_written_once_and_counted(
    new_handler: NewHandler, output: io.StringIO
) -> None:
    log, handler = new_handler(PlainFormatter())
    observer = JobObserver("images", Metrics())
    for number in range(500):
        observer.on_job_end(*failed(f"key-{number}", "swift"), 0.1)
    observer.on_job_end(*failed("other", "swift", reason="HTTP 403"), 0.1)
    log.warning("Redis is unavailable")
    log.warning("Redis is unavailable")
    assert len(output.getvalue().splitlines()) == 3
    handler.flush_repeats()
    assert len(output.getvalue().splitlines()) == 3, "the interval has not ended"
    handler.flush_repeats(older_than_s=0.0)
    repeats = output.getvalue().splitlines()[3:]
    assert len(repeats) == 2
    assert "key-499" in repeats[0]
    assert re.search(r"\(499 similar lines in [\d.]+ [mμ]?s\)", repeats[0])
    assert re.search(r"Redis is unavailable \(1 similar line in [\d.]+ [mμ]?s\)$", repeats[1])
    handler.flush_repeats(older_than_s=0.0)
    assert len(output.getvalue().splitlines()) == 5, "no repeats since"
    log.warning("Redis is unavailable")
    assert len(output.getvalue().splitlines()) == 6, "it is written again after an interval without repeats"


def test_an_unlimited_handler_writes_every_line(new_handler: NewHandler, output: io.StringIO) -> None:
    new_handler(PlainFormatter(), unlimited=True)
    for _ in range(3):
        JobObserver("images", Metrics()).on_job_end(*failed(KEY, "swift"), 0.1)
    assert len(output.getvalue().splitlines()) == 3


def test_without_v_a_copied_object_has_no_line(new_handler: NewHandler, output: io.StringIO) -> None:
    new_handler(PlainFormatter())
    job, _ = failed(KEY, "swift")
    JobObserver("images", Metrics()).on_job_end(job, [Outcome("swift", KEY, Result.COPIED)], 0.1)
    assert output.getvalue() == ""


def test_the_remembered_lines_are_bounded_and_no_count_is_lost(new_handler: NewHandler, output: io.StringIO) -> None:
    log, handler = new_handler(PlainFormatter())
    for number in range(2 * MAX_REMEMBERED):
        log.warning("problem %d", number)
        log.warning("problem %d", number)
    handler.flush_repeats(older_than_s=0.0)
    repeats = output.getvalue().splitlines()
    assert len(repeats) == 4 * MAX_REMEMBERED
    assert sum("1 similar line" in line for line in repeats) == 2 * MAX_REMEMBERED


def test_log_fields_has_the_id_route_and_key() -> None:
    assert log_fields("images", "k", destination="swift")["fields"] == {
        "id": object_id("images", "k"), "route": "images", "key": "k", "destination": "swift",
    }  # fmt: skip


def lines_without_an_id() -> Iterator[str]:
    """Calls of a logger, in all of s3s3, that name a key without passing `extra`."""
    for path in sorted(Path(log.__file__).parents[1].rglob("*.py")):
        for call in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(call, ast.Call) and ast.unparse(call.func).startswith("log.")):
                continue
            named = {part.id for value in call.args for part in ast.walk(value) if isinstance(part, ast.Name)}
            named |= {part.attr for value in call.args for part in ast.walk(value) if isinstance(part, ast.Attribute)}
            if "key" in named and "extra" not in {keyword.arg for keyword in call.keywords}:
                yield f"{path}:{call.lineno}"


def test_every_log_call_that_names_a_key_passes_its_fields() -> None:
    assert not list(lines_without_an_id())


# -- time


def test_a_plain_line_begins_with_the_time_and_its_offset_from_utc(
    new_handler: NewHandler, output: io.StringIO
) -> None:
    log, _ = new_handler(PlainFormatter())
    before = datetime.now(timezone.utc) - timedelta(milliseconds=1)
    log.warning("late")
    text, _, level = output.getvalue().removesuffix(" late\n").rpartition(" ")
    assert level == "WARNING"
    assert before <= datetime.strptime(text, "%Y-%m-%d %H:%M:%S.%f%z") <= datetime.now(timezone.utc)


def test_a_json_line_has_the_time_in_utc(new_handler: NewHandler, output: io.StringIO) -> None:
    log, _ = new_handler(JsonFormatter())
    log.handle(logging.makeLogRecord({"levelno": logging.ERROR, "levelname": "ERROR", "created": 1.5, "name": "s3s3"}))
    assert json.loads(output.getvalue()) == {
        "time": "1970-01-01T00:00:01.500Z", "level": "error", "logger": "s3s3", "message": "",
    }  # fmt: skip


@pytest.mark.parametrize("formatter", [PlainFormatter(), JsonFormatter()])
def test_a_count_of_repeats_has_the_time_when_it_is_written(
    new_handler: NewHandler, output: io.StringIO, formatter: logging.Formatter, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, handler = new_handler(formatter)
    monkeypatch.setattr(time, "time", lambda: 0.0)  # before Python 3.13, of a record
    monkeypatch.setattr(time, "time_ns", lambda: 0)
    log.warning("again")
    log.warning("again")
    monkeypatch.setattr(time, "time", lambda: 86_400.0)
    handler.flush_repeats(older_than_s=0.0)
    first, last = output.getvalue().splitlines()
    assert "1970-01-01" in first
    assert "1970-01-02" in last
    assert "1 similar line" in last


# -- values that are not JSON


class Broken:
    def __repr__(self) -> str:
        raise ValueError


def nested() -> list[object]:
    found: list[object] = []
    found.append(found)
    return found


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (ValueError("no"), "no"),
        (b"\xff", r"b'\xff'"),
        (Path("/a"), "/a"),
        (float("nan"), "nan"),
        ({("a", 1): 2}, "{('a', 1): 2}"),
        (nested(), "[[...]]"),
        ({1: "a"}, {"1": "a"}),
        (Endpoint("e", "b", secret_access_key=Secret("hush")), None),
        ("\udcff\x00", "\udcff\x00"),
        (Broken(), None),
    ],
)
def test_a_value_that_is_not_json_becomes_text(
    new_handler: NewHandler, output: io.StringIO, value: object, shown: object
) -> None:
    log, _ = new_handler(JsonFormatter())
    log.warning("strange", extra=log_fields("images", KEY, value=value))
    line = json.loads(output.getvalue(), parse_constant=pytest.fail)
    assert (line["message"], line["id"], line["key"]) == ("strange", object_id("images", KEY), KEY)
    assert "hush" not in output.getvalue()
    if shown is not None:
        assert line["value"] == shown


def test_a_json_line_has_the_exception(new_handler: NewHandler, output: io.StringIO) -> None:
    log, _ = new_handler(JsonFormatter())
    try:
        int("no")
    except ValueError:
        log.exception("failed")
    line = json.loads(output.getvalue())
    assert set(line) == {"time", "level", "logger", "message", "exception"}
    assert line["exception"].endswith("ValueError: invalid literal for int() with base 10: 'no'")


# -- the reference of events


def used_events() -> Iterator[tuple[str, str]]:
    """Name of each event that the code logs, and the place."""
    by_constant = {name: value for name, value in vars(events).items() if isinstance(value, events.Event)}
    for path in sorted(Path(log.__file__).parents[1].rglob("*.py")):
        for call in ast.walk(ast.parse(path.read_text())):
            if isinstance(call, ast.Name) and call.id in by_constant and path.name != "events.py":
                yield by_constant[call.id].name, f"{path}:{call.lineno}"


def test_every_event_is_logged_somewhere_and_has_a_section_in_the_reference(tmp_path: Path) -> None:
    assert {name for name, _ in used_events()} == set(EVENTS)
    page = "\n".join(reference_of_events())
    sections = re.findall(r"^## (.*)\n\n(.+) \(level: \w+\)\n\n\*\*What to do:\*\* (.+)$", page, re.MULTILINE)
    assert [name for name, _, _ in sections] == list(EVENTS)


def test_what_the_log_names_like_an_event_is_one() -> None:
    """Lines are events by their constant; none is spelt out beside it, where the reference would miss it."""
    for path in sorted(Path(log.__file__).parents[1].rglob("*.py")):
        for call in ast.walk(ast.parse(path.read_text())):
            if isinstance(call, ast.Call) and ast.unparse(call.func) == "log_event":
                assert isinstance(call.args[1], ast.Name), f"{path}:{call.lineno}: an event of s3s3.events"
            if isinstance(call, ast.Call) and ast.unparse(call.func).startswith("log."):
                texts = [part.value for part in ast.walk(call) if isinstance(part, ast.Constant)]
                named = [name for name in EVENTS for text in texts if str(text).startswith(name)]
                assert not named, f"{path}:{call.lineno}: use log_event"


def test_an_event_s_name_is_short_and_its_texts_are_sentences() -> None:
    for event in EVENTS.values():
        assert re.fullmatch(r"[A-Za-z]+([ -][a-z0-9]+){0,3}", event.name), event.name
        assert event.meaning.endswith(".") and event.action.endswith("."), event.name
