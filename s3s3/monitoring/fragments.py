"""The parts of the status page as HTML, each replaced by itself while the page is looked at.

Keys, reasons and messages are whatever somebody chose to send: all of them go through `shown`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

from .formatting import rate_text, size_text, span_text, time_text
from .heartbeat import ProcessInfo
from .snapshot import RouteView, StoreState, StoreView

SPARK_WIDTH, SPARK_HEIGHT = 240, 40

_ICONS = {StoreState.HEALTHY: "●", StoreState.RETRYING: "↻", StoreState.PAUSED: "❚❚", StoreState.OPEN: "▲"}
_KINDS = {StoreState.HEALTHY: "well", StoreState.RETRYING: "uneasy", StoreState.PAUSED: "held", StoreState.OPEN: "sick"}


def shown(text: str) -> str:
    """Return a text that others chose as HTML. What prints nothing, or turns the line around, is written out."""
    return escape("".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in _sound(text)))


def _sound(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def summary(lines: Sequence[str]) -> str:
    """Return what is to be looked at, as these lines tell, or that all is well."""
    if not lines:
        return '<p class="verdict well"><span aria-hidden="true">✓</span> All is well</p>'
    items = "".join(f"<li>{shown(line)}</li>" for line in lines)
    title = "1 thing needs a look" if len(lines) == 1 else f"{len(lines)} things need a look"
    return f'<div class="verdict sick"><p><span aria-hidden="true">▲</span> {title}</p><ul>{items}</ul></div>'


def route(view: RouteView) -> str:
    """Return a route with its destinations."""
    name, source = shown(view.name), view.source
    channel = f" · channel <bdi>{shown(view.channel)}</bdi>" if view.channel else ""
    state = "" if source.state == StoreState.HEALTHY else f" {_badge(source)}"
    counts = view.counts
    facts = [
        ("Pending", f"{counts.pending:,}"),
        ("Oldest pending", span_text(view.oldest_s)),
    ]
    if view.command != "mirror":  # nobody lists the web
        facts.append(("Last comparison", _compared(view)))
    stores = "\n".join(_destination(view, one) for one in view.destinations)
    return f"""<section class="route" aria-labelledby="route-{name}">
<h2 id="route-{name}">{name}</h2>
<p class="where">from <bdi>{shown(source.address)}</bdi>{channel}{state}</p>
{_facts(facts)}
{stores}
</section>"""


def _destination(view: RouteView, one: StoreView) -> str:
    pending = one.pending
    about = "" if pending is None or pending.exact else "about "
    waits = [f"{pending.retrying:,} wait for another try"] if pending and pending.retrying else []
    waits += [f"{one.parked:,} parked"] if one.parked else []
    facts = [
        ("Rate", f"{rate_text(one.copied_per_s)} <small>{size_text(one.bytes_per_s)}/s</small>"),
        ("Lag p50 / p99", f"{span_text(one.lag_p50_s)} / {span_text(one.lag_p99_s)}"),
        ("Pending", f"{about}{pending.total if pending else 0:,}"
                    + (f" <small>{', '.join(waits)}</small>" if waits else "")),
        ("Oldest pending", span_text(pending.oldest_s if pending else None)),
        ("Dead letters", f"{one.dead_letters:,}"),
    ]  # fmt: skip
    failures = "".join(
        f'<li><b>{failure.count:,} ×</b> {shown(failure.reason)} <span class="when">last {time_text(failure.at_ms)}, '
        f'<bdi class="key">{shown(failure.key)}</bdi></span></li>'
        for failure in one.failures
    )
    failed = f'<h4>Failures within the hour</h4><ul class="failures">{failures}</ul>' if failures else ""
    why = f'<p class="why">{shown(one.why)}</p>' if one.why else ""
    return f"""<article class="store {_KINDS[one.state]}">
<div class="head"><h3>{shown(one.name)}</h3>{_badge(one)}<p class="where"><bdi>{shown(one.address)}</bdi></p></div>
{_spark(one)}
{_facts(facts)}{why}{failed}
</article>"""


def _badge(one: StoreView) -> str:
    return (f'<span class="badge {_KINDS[one.state]}"><span aria-hidden="true">{_ICONS[one.state]}</span> '
            f"{one.state}</span>")  # fmt: skip


def _facts(facts: Sequence[tuple[str, str]]) -> str:
    """Return labelled values; the values are HTML."""
    return f'<dl class="facts">{"".join(f"<div><dt>{label}</dt><dd>{value}</dd></div>" for label, value in facts)}</dl>'


def _compared(view: RouteView) -> str:
    now = f" <small>one is under way {shown(view.compared_now)}</small>" if view.compared_now else ""
    last = view.last_reconcile
    if last is None:
        return f"never{now}"
    words: dict[str, int] = {}
    for counts in last["destinations"].values():
        for word, number in counts.items():
            words[word] = words.get(word, 0) + number
    told = ", ".join(f"{number:,} {shown(word)}" for word, number in words.items() if number) or "nothing to compare"
    if last["errors"]:
        told = f"could not list {', '.join(map(shown, last['errors']))}"
    return f"{time_text(last['ended_s'] * 1000)} <small>{told}</small>{now}"


def processes(views: Sequence[RouteView]) -> str:
    """Return the processes of the fleet."""
    found: dict[tuple[str, int], list[tuple[str, ProcessInfo]]] = {}
    for view in views:
        for member in view.members:
            found.setdefault((member.host, member.pid), []).append((view.name, member))
    if not found:
        return '<p class="nothing">None has given a sign of life within the hour.</p>'
    return f'<ul class="fleet">{"".join(map(_process, found.values()))}</ul>'


def _process(mine: Sequence[tuple[str, ProcessInfo]]) -> str:
    one = min((member for _, member in mine), key=lambda member: member.silent_s)
    ailments = dict.fromkeys(member.health_problem for _, member in mine if member.health_problem)
    kind, word = ("sick", "silent") if one.is_silent else ("uneasy", "ails") if ailments else ("well", "alive")
    leads = [shown(route) for route, member in mine if member.leads]
    facts = [
        ("Last sign of life", f"{span_text(one.silent_s)} ago"),
        ("Since", time_text(one.started_ms)),
        ("Version", shown(one.version)),
        ("Routes", ", ".join(shown(route) for route, _ in mine)),
        ("Running", f"{sum(member.running for _, member in mine):,}"),
    ]
    if leads:
        facts.append(("Puts notices of", ", ".join(leads)))
    why = "".join(f'<p class="why">{shown(line)}</p>' for line in ailments)
    return f"""<li class="{kind}"><div class="head"><h3>{shown(one.host)}
<small>{shown(one.command)}, pid {one.pid}</small></h3>
<span class="badge {kind}">{word}</span>{why}</div>{_facts(facts)}</li>"""


# -- the last hour, drawn


def _spark(one: StoreView) -> str:
    copied, failed = one.hour.copied, one.hour.failed
    most = max(*copied, *failed, 1)
    label = f"copied a minute, last hour: {copied[-2]:,} last, {max(copied):,} at most; {sum(failed):,} failed"
    bars = "".join(_bars(failed, most))
    return f"""<svg class="spark" viewBox="0 0 {SPARK_WIDTH} {SPARK_HEIGHT}" preserveAspectRatio="none" role="img"
aria-label="{label}"><path class="area" d="{_line(copied, most)} L{SPARK_WIDTH},{SPARK_HEIGHT} L0,{SPARK_HEIGHT} Z"/>
<path class="line" d="{_line(copied, most)}"/>{bars}</svg>"""


def _line(figures: Sequence[int], most: int) -> str:
    step = SPARK_WIDTH / (len(figures) - 1)
    return "M" + " L".join(f"{number * step:.1f},{_height(figure, most):.1f}" for number, figure in enumerate(figures))


def _bars(figures: Sequence[int], most: int) -> Iterator[str]:
    step = SPARK_WIDTH / len(figures)
    for number, figure in enumerate(figures):
        if figure:
            top = min(_height(figure, most), SPARK_HEIGHT - 3)
            yield (f'<rect class="failed" x="{number * step:.1f}" y="{top:.1f}" width="{step - 1:.1f}" '
                   f'height="{SPARK_HEIGHT - top:.1f}"/>')  # fmt: skip


def _height(figure: int, most: int) -> float:
    return SPARK_HEIGHT - 1 - (SPARK_HEIGHT - 4) * figure / most
