"""Render the parts of the status page that update live, as HTML.

Keys, reasons and messages are untrusted input: all of them pass through `html_text`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from html import escape

from .formatting import duration_text, rate_text, size_text, time_text
from .heartbeat import ProcessInfo
from .history import MINUTES
from .snapshot import RouteView, StoreState, StoreView

SPARK_WIDTH, SPARK_HEIGHT = 240, 40

_NO_BREAK_SPACE = "\N{NO-BREAK SPACE}"

_ICONS = {StoreState.OK: "●", StoreState.RETRYING: "↻", StoreState.PAUSED: "❚❚", StoreState.DOWN: "▲"}
_CLASSES = {StoreState.OK: "ok", StoreState.RETRYING: "warning", StoreState.PAUSED: "paused", StoreState.DOWN: "down"}


def html_text(text: str) -> str:
    """Return untrusted text as HTML. Characters that are not printable, or change the direction, are escaped."""
    text = text.encode("utf-8", "backslashreplace").decode()
    return escape("".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text))


def summary(problems: Sequence[str]) -> str:
    """Return the list of problems, or that there are none."""
    if not problems:
        return '<p class="summary ok"><span aria-hidden="true">✓</span> No problems</p>'
    items = "".join(f"<li>{html_text(line)}</li>" for line in problems)
    title = "1 problem needs attention" if len(problems) == 1 else f"{len(problems)} problems need attention"
    return f'<div class="summary down"><p><span aria-hidden="true">▲</span> {title}</p><ul>{items}</ul></div>'


def route(view: RouteView) -> str:
    """Return a route with its destinations."""
    name, source = html_text(view.name), view.source
    channel = f" · channel <bdi>{html_text(view.channel)}</bdi>" if view.channel else ""
    state = "" if source.state == StoreState.OK else f" {_badge(source)}"
    facts = [("Pending", f"{view.stats.pending:,}"), ("Oldest pending", _duration(view.oldest_s))]
    if view.command != "mirror":  # the source of a mirror cannot be listed
        facts.append(("Last reconcile", _last_reconcile(view)))
    stores = "\n".join(map(_destination, view.destinations))
    return f"""<section class="route" aria-labelledby="route-{name}">
<h2 id="route-{name}">{name}</h2>
<p class="where">from <bdi>{html_text(source.address)}</bdi>{channel}{state}</p>
{_facts(facts)}
{stores}
</section>"""


def _chart(store: StoreView) -> str:
    """Return the chart of the last hour: a line of copied objects per minute, and a bar for each minute's failures."""
    copied, failed = store.hour.copied, store.hour.failed
    top = max(*copied, *failed, 1)
    step, width = SPARK_WIDTH / (MINUTES - 1), SPARK_WIDTH / MINUTES

    def y(number: int) -> float:
        return SPARK_HEIGHT - 1 - (SPARK_HEIGHT - 4) * number / top

    line = "M" + " L".join(f"{minute * step:.1f},{y(number):.1f}" for minute, number in enumerate(copied))
    tops = [(minute * width, min(y(number), SPARK_HEIGHT - 3)) for minute, number in enumerate(failed) if number]
    bars = "".join(
        f'<rect class="failed" x="{x:.1f}" y="{bar:.1f}" width="{width - 1:.1f}" height="{SPARK_HEIGHT - bar:.1f}"/>'
        for x, bar in tops
    )
    label = (
        f"objects copied per minute in the last hour: {copied[-2]:,} in the last minute, at most {max(copied):,}; "
        f"{sum(failed):,} failed"
    )
    return f"""<svg class="spark" viewBox="0 0 {SPARK_WIDTH} {SPARK_HEIGHT}" preserveAspectRatio="none" role="img"
aria-label="{label}"><path class="area" d="{line} L{SPARK_WIDTH},{SPARK_HEIGHT} L0,{SPARK_HEIGHT} Z"/>
<path class="line" d="{line}"/>{bars}</svg>"""


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
        f'<li><b>{failure.count:,} ×</b> {html_text(failure.reason)} <span class="when">last '
        f'{time_text(failure.at_ms)}, <bdi class="key">{html_text(failure.key)}</bdi></span></li>'
        for failure in store.failures
    )
    failures = f'<h4>Failures in the last hour</h4><ul class="failures">{items}</ul>' if items else ""
    reason = f'<p class="reason">{html_text(store.reason)}</p>' if store.reason else ""
    return f"""<article class="store {_CLASSES[store.state]}">
<div class="head"><h3>{html_text(store.name)}</h3>{_badge(store)}
<p class="where"><bdi>{html_text(store.address)}</bdi></p></div>
{_chart(store)}
{_facts(facts)}{reason}{failures}
</article>"""


def _badge(store: StoreView) -> str:
    icon = f'<span aria-hidden="true">{_ICONS[store.state]}</span>'
    return f'<span class="badge {_CLASSES[store.state]}">{icon} {store.state}</span>'


def _facts(facts: Sequence[tuple[str, str]]) -> str:
    """Return labelled values; the values are HTML."""
    return f'<dl class="facts">{"".join(f"<div><dt>{label}</dt><dd>{value}</dd></div>" for label, value in facts)}</dl>'


def _duration(seconds: float | None) -> str:
    return duration_text(seconds).replace(" ", _NO_BREAK_SPACE)


def _last_reconcile(view: RouteView) -> str:
    now = ""
    if running := view.current_reconcile:
        text = f"running by process {running.pid} on {running.host} since {time_text(running.since_ms)}"
        now = f" <small>{html_text(text)}</small>"
    last = view.last_reconcile
    if last is None:
        return f"never{now}"
    totals = Counter[str]()
    for outcomes in last.destinations.values():
        totals.update(outcomes)
    text = ", ".join(f"{number:,} {html_text(outcome)}" for outcome, number in totals.items() if number)
    if last.errors:
        text = f"could not list {', '.join(map(html_text, last.errors))}"
    return f"{time_text(last.ended_s * 1000)} <small>{text or 'no objects'}</small>{now}"


def processes(views: Sequence[RouteView]) -> str:
    """Return the processes of all routes; a process that works on several appears once."""
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
    leader_for = [html_text(route) for route, process in by_route if process.is_leader]
    facts = [
        ("Last heartbeat", f"{_duration(latest.silent_s)} ago"),
        ("Since", time_text(latest.started_ms)),
        ("Version", html_text(latest.version)),
        ("Routes", ", ".join(html_text(route) for route, _ in by_route)),
        ("Running", f"{sum(process.running for _, process in by_route):,}"),
    ]
    if leader_for:
        facts.append(("Leader for", ", ".join(leader_for)))
    reasons = "".join(f'<p class="reason">{html_text(line)}</p>' for line in problems)
    return f"""<li class="{kind}"><div class="head"><h3>{html_text(latest.host)}
<small>{html_text(latest.command)}, pid {latest.pid}</small></h3>
<span class="badge {kind}">{state}</span>{reasons}</div>{_facts(facts)}</li>"""
