"""What a person has to look at, in sentences: each says what is the matter, and what to do."""

from __future__ import annotations

from collections.abc import Iterator

from ..queue.base import DeadLetter
from .formatting import count_text
from .snapshot import RouteView, StoreState, StoreView

STARTING_S = 15.0
"""A process that is younger may still be about to subscribe."""


def problems(view: RouteView) -> Iterator[str]:
    """Yield what is wrong with a route, a sentence each. No ages: they would change each time that somebody looks."""
    alive = [member for member in view.members if not member.is_silent]
    if not any(member.command != "bucket" for member in alive):
        yield f"Route {view.name}: no process works on it; start s3s3 {view.command}."
    for member in view.members:
        if member.is_silent:
            yield f"Route {view.name}: process {member.pid} on {member.host} has gone silent, and did not sign off."
        elif member.health_problem and view.now_ms - member.started_ms > STARTING_S * 1000:
            yield f"Process {member.pid} on {member.host}: {member.health_problem}."
    for store in (view.source, *view.destinations):
        yield from _of_store(view, store)
    for destination, count in view.counts.dead_letters.items():
        if count and destination == DeadLetter.MESSAGES:
            messages = count_text(count, "message names", "messages name")
            yield f"Route {view.name}: {messages} no possible key: look at what publishes them; s3s3 jobs drop lets go."
        elif count:
            letters = count_text(count, "dead letter", "dead letters")
            yield f"Route {view.name}: {letters} of {destination}: cure the reason, which stands below, and retry."
    if view.last_reconcile:
        for store_name, why in view.last_reconcile["errors"].items():
            yield f"Route {view.name}: the last comparison could not list {store_name}: " + why.removeprefix(
                f"{store_name}: "
            )


def _of_store(view: RouteView, store: StoreView) -> Iterator[str]:
    if store.state == StoreState.OPEN:
        yield f"Route {view.name}: {store.name} is down, its jobs are parked: {store.why}"
    elif store.state == StoreState.PAUSED and not (view.counts.paused and store is not view.source):
        what, which = ("the whole route", "") if view.counts.paused else (store.name, f" --destination {store.name}")
        yield f"Route {view.name}: {what} is paused; s3s3 jobs resume --route {view.name}{which} lets it go on."
