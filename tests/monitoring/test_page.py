"""The HTML of the status page: untrusted text in any place leaves the tags as they are."""

from __future__ import annotations

import html
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s3s3.monitoring.fleet import FleetState
from s3s3.monitoring.heartbeat import ProcessInfo
from s3s3.monitoring.history import Failure, Series
from s3s3.monitoring.page import Page, printable
from s3s3.monitoring.snapshot import RouteView, StoreState, StoreView
from s3s3.queue.admin import PendingStats
from s3s3.queue.base import DeadLetter, QueueStats, ReconcileRecord, RunningReconcile
from s3s3.queue.dead_letters import DeadLetterGroup

HOSTILE = ["<script>alert(1)</script>", "\"'><img src=x onerror=alert(2)>", "</style><b>", "{{7*7}}{% raw %}", "&lt;",
           "--><!--", "a\r\nb\x00\x1b[31m\x7f\x9f", "\u202egpj.exe\u2066", "\udcff\ud800", "\xa0", ""]  # fmt: skip
VOID = {"meta", "input"}


def route_view(text: str) -> RouteView:
    """A route with this text wherever the page shows one."""
    failures = [Failure(text, text, text, 2, 1000)]
    store = StoreView(
        text, text, StoreState.DOWN, f"!{text}", 2, PendingStats(1, 2, 2, 3.0, exact=False), Series(),
        failures=failures, dead_letters=2,
    )  # fmt: skip
    groups = {name: [DeadLetterGroup(name, text, 2, 1000, 2000, [text])] for name in ("swift", DeadLetter.MESSAGES)}
    return RouteView(
        text, "listen", f"!{text}", store, [store], QueueStats(1, 0, 0, 0, {}, {"swift": 2}, {}, 1.0),
        [ProcessInfo("id", text, 7, text, text, 0, is_leader=True, health_problem=f"!{text}")], groups,
        ReconcileRecord(0, 1, 5, {"swift": {text: 5}}, {}), RunningReconcile(text, 7, 1000), 10**6,
    )  # fmt: skip


def rendered(text: str) -> str:
    page = Page(can_act=True)
    return page.render(page.parts(FleetState([route_view(text)], 1000, f"!{text}")), {text: [text]}, f"!{text}")


class Structure(HTMLParser):
    """The tags of a page in their order, each with its attributes' names; each tag must be closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, ...]] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, *(name for name, _ in attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, *(name for name, _ in attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag


STRUCTURE = Structure(rendered("x")).tags


def check(text: str) -> None:
    page = rendered(text)
    assert Structure(page).tags == STRUCTURE
    assert {c for c in page if not c.isprintable()} <= {"\n", "\N{NO-BREAK SPACE}"}
    page.encode()
    shown = printable(text)
    assert isinstance(shown, str)
    assert html.unescape(page).count(f"!{shown}") >= 4


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_in_any_place_is_shown_as_text(text: str) -> None:
    check(text)


@pytest.mark.long
@settings(max_examples=25)
@given(st.text(st.characters() | st.sampled_from("<>&\"'`{}%=/\\ -!")))
def test_any_text_in_any_place_is_shown_as_text(text: str) -> None:
    check(text)


@pytest.mark.parametrize(("outcomes", "done"), [({}, 0), ({"same": 1, "copied": 2}, 3), ({"same": 9}, 5)])
def test_the_progress_of_a_reconcile_counts_objects_with_an_outcome(outcomes: dict[str, int], done: int) -> None:
    view = replace(route_view("a"), current_reconcile=RunningReconcile("host", 7, 1000, 5, outcomes))
    routes = Page(can_act=True).parts(FleetState([view], 1000))["routes"]
    assert f'<progress max="5" value="{done}"' in routes
