"""Describe what needs attention, one sentence each, with what to do."""

from __future__ import annotations

from collections.abc import Iterator

from ..queue.base import DeadLetter
from .formatting import count_noun
from .snapshot import RouteView, StoreState, StoreView

#: A process that started less than this time ago, in seconds, may not be subscribed yet.
STARTING_S = 15.0


def problems(view: RouteView) -> Iterator[str]:
    """Yield the problems of a route. They contain no ages, so that the text changes only with the problems."""
    route = f"Route {view.name}"
    if not any(process.command != "bucket" and not process.is_silent for process in view.processes):
        yield f"{route}: no process is running; start s3s3 {view.command}"
    for process in view.processes:
        name = f"process {process.pid} on {process.host}"
        if process.is_silent:
            yield f"{route}: {name} stopped sending heartbeats without shutting down cleanly"
        elif process.health_problem and view.now_ms - process.started_ms > STARTING_S * 1000:
            yield f"P{name[1:]}: {process.health_problem}"
    for store in (view.source, *view.destinations):
        yield from _store_problems(view, store)
    for destination, count in view.stats.dead_letters.items():
        if count and destination == DeadLetter.MESSAGES:
            messages = count_noun(count, "message")
            yield f"{route}: {messages} without a valid key: fix the producer, then run s3s3 jobs drop"
        elif count:
            keys = count_noun(count, "key")
            yield f"{route}: {keys} failed permanently at {destination}: fix the cause shown below, then retry"
    if view.last_reconcile:
        for store_name, error in view.last_reconcile.errors.items():
            yield f"{route}: the last reconcile could not list {store_name}: {error.removeprefix(f'{store_name}: ')}"


def _store_problems(view: RouteView, store: StoreView) -> Iterator[str]:
    if store.state == StoreState.DOWN:
        yield f"Route {view.name}: {store.name} is down and its jobs are parked: {store.reason}"
    elif store.state == StoreState.PAUSED and not (view.stats.paused and store is not view.source):
        what, option = ("the route", "") if view.stats.paused else (store.name, f" --destination {store.name}")
        yield f"Route {view.name}: {what} is paused; resume with s3s3 jobs resume --route {view.name}{option}"
