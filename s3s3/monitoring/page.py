"""Render the status page as HTML.

Keys, reasons and messages are untrusted input: all of them pass through `_html_text`.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources

from .. import __version__
from ..queue.base import DeadLetter
from .formatting import count_noun, duration_text, rate_text, size_text, time_text
from .heartbeat import ProcessInfo
from .history import MINUTES
from .snapshot import MAX_DEAD_LETTERS_SHOWN, RouteView, StoreState, StoreView

_CHART_WIDTH, _CHART_HEIGHT = 240, 40

_NO_BREAK_SPACE = "\N{NO-BREAK SPACE}"

#: The CSS class and the icon of each state of a store.
_STATES = {
    StoreState.OK: ("ok", "●"),
    StoreState.RETRYING: ("warning", "↻"),
    StoreState.PAUSED: ("paused", "❚❚"),
    StoreState.DOWN: ("down", "▲"),
}


class Page:
    """The status page.

    Args:
        can_act: show the buttons of dead letters.

    Attributes:
        policy: the Content-Security-Policy: this style and this script only, and no embedding.
    """

    def __init__(self, *, can_act: bool) -> None:
        folder = resources.files(__package__)
        self._style = folder.joinpath("page.css").read_text()
        self._script = folder.joinpath("page.js").read_text()
        self._can_act = can_act
        self.policy = (
            f"default-src 'none'; style-src '{_hash(self._style)}'; script-src '{_hash(self._script)}'; "
            "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
        )

    def render(self, parts: Mapping[str, str], message: str = "") -> str:
        """Return the whole page. `message`: the result of the last action."""
        access = """<p class="token"><label for="token">Token for retry and drop</label>
<input id="token" name="token" type="password" form="dead-letters-form" autocomplete="current-password" required></p>"""
        if not self._can_act:
            access = """<p class="hint">Read-only: set <code>[http] token</code> to retry and drop dead letters here, \
or use <code>s3s3 jobs</code>.</p>"""
        return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>s3s3 status</title>
<style>{self._style}</style>
</head>
<body>
<header>
<h1>s3s3</h1>
<p id="live" class="live"><noscript>Live updates need JavaScript: <a href="./">reload</a> to update.</noscript></p>
</header>
<main>
{f'<p class="message" role="status">{_html_text(message)}</p>' if message else ""}
<div id="summary">{parts["summary"]}</div>
<div id="routes">{parts["routes"]}</div>
<section aria-labelledby="processes-title"><h2 id="processes-title">Processes</h2>
<div id="processes">{parts["processes"]}</div></section>
<section aria-labelledby="dead-letters-title"><h2 id="dead-letters-title">Dead letters</h2>
{access}
<div id="dead-letters">{parts["dead-letters"]}</div></section>
</main>
<footer>s3s3 {escape(__version__)} · <a href="metrics">metrics</a> · <a href="healthz">healthz</a> ·
<a href="readyz">readyz</a></footer>
<script>{self._script}</script>
</body>
</html>
"""

    def parts(self, views: Sequence[RouteView], other_problems: Sequence[str] = ()) -> dict[str, str]:
        """Return the parts of the page by element id."""
        groups = [
            self._group(view, name, letters)
            for view in views
            for name, letters in view.dead_letters.items()
            if letters
        ]  # fmt: skip
        dead_letters = "\n".join(groups) or '<p class="nothing">None.</p>'
        if groups and self._can_act:
            dead_letters = f'<form id="dead-letters-form" method="post" action="dead-letters">{dead_letters}</form>'
        return {
            "summary": _summary([*other_problems, *(line for view in views for line in view.problems())]),
            "routes": "\n".join(map(_route, views)),
            "processes": _processes(views),
            "dead-letters": dead_letters,
        }

    def _group(self, view: RouteView, destination: str, letters: Sequence[DeadLetter]) -> str:
        count = view.stats.dead_letters.get(destination, 0)
        hidden = count - MAX_DEAD_LETTERS_SHOWN
        more = f'<li class="more">… and {hidden:,} more</li>' if hidden > 0 else ""
        retry_all = ""
        if self._can_act and destination != DeadLetter.MESSAGES:
            retry_all = _button("Retry all", f"of {view.name}, {destination}", "retry all", view.name, destination)
        items = "".join(self._dead_letter(view.name, letter) for letter in letters)
        return f"""<div class="group"><h3>{_html_text(view.name)} → {_html_text(destination)}
<span class="count">{count:,}</span></h3>{retry_all}<ul class="dead-letters">{items}{more}</ul></div>"""

    def _dead_letter(self, route: str, letter: DeadLetter) -> str:
        buttons = ""
        if self._can_act:
            target = route, letter.destination, letter.key
            if letter.destination != DeadLetter.MESSAGES:
                buttons += _button("Retry", letter.key, "retry", *target)
            buttons = f'<span class="buttons">{buttons}{_button("Drop", letter.key, "drop", *target)}</span>'
        attempts = f" · {count_noun(letter.attempts, 'attempt')}" if letter.attempts else ""
        return f"""<li><bdi class="key">{_html_text(letter.key)}</bdi>{buttons}
<p class="reason">{_html_text(letter.reason)}</p>
<p class="when">{time_text(letter.dead_lettered_ms)}{attempts}</p></li>"""


def encode_command(*command: str) -> str:
    """Return a command (verb, route, destination, keys) as the value of a button.

    Base64, because a form would normalize line breaks, which a key may contain.
    """
    return base64.urlsafe_b64encode(json.dumps(command).encode()).decode()


def decode_command(value: str) -> list[str]:
    """Return the command that a button's value encodes. Raises ValueError."""
    command = json.loads(base64.urlsafe_b64decode(value.encode()))
    if not isinstance(command, list) or not all(isinstance(part, str) for part in command):
        raise ValueError("not a command")
    return command


def _html_text(text: str) -> str:
    """Return untrusted text as HTML. Characters that are not printable, or change the direction, are escaped."""
    text = text.encode("utf-8", "backslashreplace").decode()
    return escape("".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text))


def _summary(problems: Sequence[str]) -> str:
    if not problems:
        return '<p class="summary ok"><span aria-hidden="true">✓</span> No problems</p>'
    items = "".join(f"<li>{_html_text(line)}</li>" for line in problems)
    title = "1 problem needs attention" if len(problems) == 1 else f"{len(problems)} problems need attention"
    return f'<div class="summary down"><p><span aria-hidden="true">▲</span> {title}</p><ul>{items}</ul></div>'


def _route(view: RouteView) -> str:
    name, source = _html_text(view.name), view.source
    channel = f" · channel <bdi>{_html_text(view.channel)}</bdi>" if view.channel else ""
    state = "" if source.state == StoreState.OK else f" {_badge(source)}"
    facts = [("Pending", f"{view.stats.pending:,}"), ("Oldest pending", _duration(view.oldest_s))]
    if view.command != "mirror":  # the source of a mirror cannot be listed
        facts.append(("Last reconcile", _last_reconcile(view)))
    stores = "\n".join(map(_destination, view.destinations))
    return f"""<section class="route" aria-labelledby="route-{name}">
<h2 id="route-{name}">{name}</h2>
<p class="where">from <bdi>{_html_text(source.address)}</bdi>{channel}{state}</p>
{_facts(facts)}
{stores}
</section>"""


def _destination(store: StoreView) -> str:
    pending = store.pending
    about = "" if pending is None or pending.exact else "about "
    parts = [f"{pending.retrying:,} retrying"] if pending and pending.retrying else []
    parts += [f"{store.parked:,} parked"] if store.parked else []
    facts = [
        ("Rate", f"{rate_text(store.copied_per_s)} <small>{size_text(store.bytes_per_s)}/s</small>"),
        ("Lag p50 / p99", f"{_duration(store.lag_p50_s)} / {_duration(store.lag_p99_s)}"),
        ("Pending", f"{about}{pending.total if pending else 0:,}"
                    + (f" <small>{', '.join(parts)}</small>" if parts else "")),
        ("Oldest pending", _duration(pending.oldest_s if pending else None)),
        ("Dead letters", f"{store.dead_letters:,}"),
    ]  # fmt: skip
    items = "".join(
        f'<li><b>{failure.count:,} ×</b> {_html_text(failure.reason)} <span class="when">last '
        f'{time_text(failure.at_ms)}, <bdi class="key">{_html_text(failure.key)}</bdi></span></li>'
        for failure in store.failures
    )
    failures = f'<h4>Failures in the last hour</h4><ul class="failures">{items}</ul>' if items else ""
    reason = f'<p class="reason">{_html_text(store.reason)}</p>' if store.reason else ""
    return f"""<article class="store {_STATES[store.state][0]}">
<div class="head"><h3>{_html_text(store.name)}</h3>{_badge(store)}
<p class="where"><bdi>{_html_text(store.address)}</bdi></p></div>
{_chart(store)}
{_facts(facts)}{reason}{failures}
</article>"""


def _chart(store: StoreView) -> str:
    """Return the chart of the last hour: a line of copied objects per minute, and a bar for each minute's failures."""
    copied, failed = store.hour.copied, store.hour.failed
    top = max(*copied, *failed, 1)
    step, width = _CHART_WIDTH / (MINUTES - 1), _CHART_WIDTH / MINUTES

    def y(number: int) -> float:
        return _CHART_HEIGHT - 1 - (_CHART_HEIGHT - 4) * number / top

    line = "M" + " L".join(f"{minute * step:.1f},{y(number):.1f}" for minute, number in enumerate(copied))
    tops = [(minute * width, min(y(number), _CHART_HEIGHT - 3)) for minute, number in enumerate(failed) if number]
    bars = "".join(
        f'<rect class="failed" x="{x:.1f}" y="{bar:.1f}" width="{width - 1:.1f}" height="{_CHART_HEIGHT - bar:.1f}"/>'
        for x, bar in tops
    )
    label = (
        f"objects copied per minute in the last hour: {copied[-2]:,} in the last minute, at most {max(copied):,}; "
        f"{sum(failed):,} failed"
    )
    return f"""<svg class="spark" viewBox="0 0 {_CHART_WIDTH} {_CHART_HEIGHT}" preserveAspectRatio="none" role="img"
aria-label="{label}"><path class="area" d="{line} L{_CHART_WIDTH},{_CHART_HEIGHT} L0,{_CHART_HEIGHT} Z"/>
<path class="line" d="{line}"/>{bars}</svg>"""


def _badge(store: StoreView) -> str:
    kind, icon = _STATES[store.state]
    return f'<span class="badge {kind}"><span aria-hidden="true">{icon}</span> {store.state}</span>'


def _facts(facts: Sequence[tuple[str, str]]) -> str:
    """Return labelled values; the values are HTML."""
    return f'<dl class="facts">{"".join(f"<div><dt>{label}</dt><dd>{value}</dd></div>" for label, value in facts)}</dl>'


def _duration(seconds: float | None) -> str:
    return duration_text(seconds).replace(" ", _NO_BREAK_SPACE)


def _last_reconcile(view: RouteView) -> str:
    now = ""
    if running := view.current_reconcile:
        text = f"running by process {running.pid} on {running.host} since {time_text(running.since_ms)}"
        now = f" <small>{_html_text(text)}</small>"
    last = view.last_reconcile
    if last is None:
        return f"never{now}"
    totals = Counter[str]()
    for outcomes in last.destinations.values():
        totals.update(outcomes)
    text = ", ".join(f"{number:,} {_html_text(outcome)}" for outcome, number in totals.items() if number)
    if last.errors:
        text = f"could not list {', '.join(map(_html_text, last.errors))}"
    return f"{time_text(last.ended_s * 1000)} <small>{text or 'no objects'}</small>{now}"


def _processes(views: Sequence[RouteView]) -> str:
    # A process that works on several routes appears once.
    found: dict[tuple[str, int], list[tuple[str, ProcessInfo]]] = {}
    for view in views:
        for process in view.processes:
            found.setdefault((process.host, process.pid), []).append((view.name, process))
    if not found:
        return '<p class="nothing">No process has sent a heartbeat in the last hour.</p>'
    return f'<ul class="processes">{"".join(map(_process, found.values()))}</ul>'


def _process(by_route: Sequence[tuple[str, ProcessInfo]]) -> str:
    latest = min((process for _, process in by_route), key=lambda process: process.silent_s)
    problems = dict.fromkeys(process.health_problem for _, process in by_route if process.health_problem)
    kind, state = ("down", "silent") if latest.is_silent else ("warning", "degraded") if problems else ("ok", "ok")
    leader_for = [_html_text(route) for route, process in by_route if process.is_leader]
    facts = [
        ("Last heartbeat", f"{_duration(latest.silent_s)} ago"),
        ("Since", time_text(latest.started_ms)),
        ("Version", _html_text(latest.version)),
        ("Routes", ", ".join(_html_text(route) for route, _ in by_route)),
        ("Running", f"{sum(process.running for _, process in by_route):,}"),
    ]
    if leader_for:
        facts.append(("Leader for", ", ".join(leader_for)))
    reasons = "".join(f'<p class="reason">{_html_text(line)}</p>' for line in problems)
    return f"""<li class="{kind}"><div class="head"><h3>{_html_text(latest.host)}
<small>{_html_text(latest.command)}, pid {latest.pid}</small></h3>
<span class="badge {kind}">{state}</span>{reasons}</div>{_facts(facts)}</li>"""


def _button(label: str, object_label: str, *command: str) -> str:
    kind = "drop" if label == "Drop" else "retry"
    return (f'<button name="command" value="{escape(encode_command(*command))}" class="{kind}">{label}'
            f'<span class="visually-hidden"> {_html_text(object_label)}</span></button>')  # fmt: skip


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
