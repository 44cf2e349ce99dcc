"""Render the status page as HTML.

Keys, reasons and messages are untrusted input. The templates escape each value that they insert, as HTML and by
`printable`, except values marked as `safe`: the style, the script and rendered templates.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from typing import Any, NamedTuple

from .. import __version__
from ..errors import shown_key
from ..queue.base import PAUSED, DeadLetter
from ..queue.dead_letters import OTHER_REASONS, DeadLetterGroup
from ..queue.records import KeyState
from .fleet import FleetState
from .formatting import count_noun, duration_text, escaped, rate_text, size_text, time_text
from .heartbeat import ProcessInfo
from .history import Series, quantile_s
from .snapshot import RouteView, StoreState

#: The size of a chart, in the units of its SVG.
_CHART_WIDTH, _CHART_HEIGHT = 240, 40

#: The CSS class and the icon of each state of a store.
_STATES = {
    StoreState.OK: ("ok", "●"),
    StoreState.RETRYING: ("warning", "↻"),
    StoreState.DEAD_LETTERS: ("warning", "!"),
    StoreState.PAUSED: ("paused", "❚❚"),
    StoreState.DOWN: ("down", "▲"),
}


#: The states in which the page lists keys, besides `parked`, which needs a store, with what they are called there.
_LISTED = (
    (KeyState.QUEUED.value, "queued"), (KeyState.RUNNING.value, "running"),
    (KeyState.WAITING.value, "waiting for a retry"), (KeyState.RECHECK.value, "scheduled for a recheck"),
)  # fmt: skip


class Page:
    """The status page.

    Args:
        can_act: show the buttons of dead letters.

    Attributes:
        policy: the Content-Security-Policy: this style and this script only, and no embedding.
    """

    def __init__(self, *, can_act: bool) -> None:
        from jinja2 import Environment, PackageLoader, StrictUndefined  # noqa: PLC0415 - slow, and not always needed

        folder = resources.files(__package__)
        style, script = (folder.joinpath(name).read_text() for name in ("page.css", "page.js"))
        self.policy = (
            f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
            "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
        )
        self._templates = Environment(
            loader=PackageLoader(__package__), autoescape=True, finalize=printable, undefined=StrictUndefined,
            trim_blocks=True, lstrip_blocks=True, auto_reload=False,
        )  # fmt: skip
        self._templates.filters.update(
            count=count_noun, duration=duration_text, number="{:,}".format, rate=rate_text, size=size_text,
            time=time_text, shown_key=shown_key,
        )  # fmt: skip
        self._templates.globals.update(
            can_act=can_act, style=style, script=script, version=__version__, states=_STATES, chart_of=_chart,
            lags_of=_lags, encode_command=encode_command, encode_request=encode_request, states_listed=_LISTED,
            PAUSED=PAUSED, MESSAGES=DeadLetter.MESSAGES, OTHER_REASONS=OTHER_REASONS,
        )  # fmt: skip

    def render(self, parts: Mapping[str, str], routes: Mapping[str, Sequence[str]], message: str = "") -> str:
        """Return the whole page.

        Args:
            routes: the names of the stores of each route.
            message: the result of the last action.
        """
        return self._render("page", parts=parts, routes=routes, message=message)

    def parts(self, state: FleetState) -> dict[str, str]:
        """Return the parts of the page by element id."""
        views = state.views
        groups = [
            _Destination(view.name, destination, view.stats.dead_letters.get(destination, 0), some)
            for view in views
            for destination, some in view.groups.items()
            if some
        ]
        known_ms = state.read_ms if state.error else 0
        return {
            "summary": self._render("summary", problems=state.problems(), warnings=state.warnings()),
            "routes": self._render("routes", views=views, known_ms=known_ms),
            "processes": self._render("processes", processes=list(_processes(views)), known_ms=known_ms),
            "dead-letters": self._render("dead-letters", destinations=groups, known_ms=known_ms),
        }

    def _render(self, name: str, **values: Any) -> str:
        return self._templates.get_template(f"{name}.html").render(values)


def encode_command(*command: str) -> str:
    """Return a command (verb, route, destination, keys) as the value of a button.

    Base64, because a form would normalize line breaks, which a key may contain.
    """
    return base64.urlsafe_b64encode(json.dumps(command).encode()).decode()


def encode_request(path: str, body: Mapping[str, Any]) -> str:
    """Return a request of the API, for page.js."""
    return encode_command(path, json.dumps({name: value for name, value in body.items() if value is not None}))


def decode_command(value: str) -> list[str]:
    """Return the command that a button's value encodes. Raises ValueError."""
    command = json.loads(base64.urlsafe_b64decode(value.encode()))
    if not isinstance(command, list) or not all(isinstance(part, str) for part in command):
        raise ValueError("not a command")
    return command


def printable(value: object) -> object:
    """Return text with each character escaped that is not printable or changes the direction; HTML as it is."""
    return escaped(value) if isinstance(value, str) and not hasattr(value, "__html__") else value


class _Destination(NamedTuple):
    """The dead letters of one destination: their number, and the groups of those that were read."""

    route: str
    destination: str
    total: int
    groups: Sequence[DeadLetterGroup]

    @property
    def ungrouped(self) -> int:
        return self.total - sum(group.count for group in self.groups)


class _Process(NamedTuple):
    """A process, which may work on several routes. `latest` is its information from the latest heartbeat."""

    latest: ProcessInfo
    state: str
    css_class: str
    problems: Sequence[str]
    running: int
    routes: Sequence[str]
    leader_for: Sequence[str]


def _processes(views: Sequence[RouteView]) -> Iterator[_Process]:
    found: dict[tuple[str, int], list[tuple[str, ProcessInfo]]] = {}
    for view in views:
        for process in view.processes:
            found.setdefault((process.host, process.pid), []).append((view.name, process))
    for by_route in found.values():
        latest = min((process for _, process in by_route), key=lambda process: process.silent_s)
        problems = list(dict.fromkeys(process.health_problem for _, process in by_route if process.health_problem))
        state, css_class = (
            ("silent", "down") if latest.is_silent else ("degraded", "warning") if problems else ("ok", "ok")
        )
        yield _Process(
            latest, state, css_class, problems, sum(process.running for _, process in by_route),
            [route for route, _ in by_route], [route for route, process in by_route if process.is_leader],
        )  # fmt: skip


class _Chart(NamedTuple):
    """A line of numbers and, below it, a bar for each period's failures.

    Attributes:
        top: the greatest number, of which the axis has the text `top_text`.
        total_failed: the sum of all bars.
    """

    width: int
    height: int
    line: str
    bars: Sequence[Mapping[str, str]]
    top: float
    top_text: str
    total_failed: int


def _chart(numbers: Sequence[float], failed: Sequence[int] = (), *, seconds: bool = False) -> _Chart:
    """Return a chart; `seconds`: the numbers are durations."""
    highest = max(*numbers, *failed, 0)
    top = highest or 1
    step, width = _CHART_WIDTH / max(len(numbers) - 1, 1), _CHART_WIDTH / max(len(failed), 1)

    def y(number: float) -> float:
        return _CHART_HEIGHT - 1 - (_CHART_HEIGHT - 4) * number / top

    line = "M" + " L".join(f"{period * step:.1f},{y(number):.1f}" for period, number in enumerate(numbers))
    tops = [(period * width, min(y(number), _CHART_HEIGHT - 3)) for period, number in enumerate(failed) if number]
    bars = [
        {"x": f"{x:.1f}", "y": f"{bar:.1f}", "width": f"{width - 1:.1f}", "height": f"{_CHART_HEIGHT - bar:.1f}"}
        for x, bar in tops
    ]
    text = duration_text(highest) if seconds and highest else f"{highest:,.0f}"
    return _Chart(_CHART_WIDTH, _CHART_HEIGHT, line, bars, highest, text, sum(failed))


def _lags(series: Series) -> list[float]:
    """Return the p99 of the lag of each period, 0 without copies."""
    return [quantile_s(counts, 0.99) or 0.0 for counts in series.lags]


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
