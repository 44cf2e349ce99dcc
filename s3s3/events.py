"""The named events of the log: what each means, and what an operator does about it.

A line of an event begins with its name, so `grep 'circuit opened'` finds it in both formats. Its fields are at the end
of a plain line as `name=value`, and in a JSON line beside `event`. The reference page of the events is generated from
`EVENTS`.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any

from .errors import shown_key


def object_id(route: str, key: str) -> str:
    """Return the id that all log lines about an object carry, in every process; 8 hex digits."""
    return hashlib.blake2b(f"{route}\0{key}".encode("utf-8", "backslashreplace"), digest_size=4).hexdigest()


@dataclass(frozen=True, slots=True)
class Event:
    """A kind of log line.

    Attributes:
        name: the first words of its lines.
        level: of `logging`.
        meaning: what has happened, for the reference page.
        action: what to do, for the reference page.
        is_state: a change of state: every line is written, also a repeat.
        burst: how many lines about the same problem are written in a minute; the others are counted.
    """

    name: str
    level: int
    meaning: str
    action: str
    is_state: bool = field(default=False)
    burst: int = field(default=1)


def log_event(
    log: logging.Logger, event: Event, text: str = "", *, repeats: Hashable = None, key: str | None = None,
    exc_info: BaseException | None = None, **fields: object,
) -> None:  # fmt: skip
    """Log an event.

    Args:
        text: what the name and the fields do not say, such as the reason.
        repeats: lines of this event with an equal value report the same problem; only the first `burst` ones are
            written. None: those with the same text and the same fields `route` and `destination`.
        key: of the object that the line is about; its id becomes a field, too.
        fields: in the order of the line; None and "" are left out.
    """
    if not log.isEnabledFor(event.level):
        return
    shown: dict[str, Any] = {name: value for name, value in fields.items() if value is not None and value != ""}
    route, destination = fields.get("route", ""), fields.get("destination", "")
    if key is not None:
        shown = {"id": object_id(str(route), key), "key": shown_key(key) if key[:4].lower() == "http" else key, **shown}
    same = object() if event.is_state else (event.name, route, destination, text if repeats is None else repeats)
    extra = {"event": event.name, "fields": shown, "repeats": same, "burst": event.burst}
    message = "%s: %s" if text else "%s"
    log.log(event.level, message, event.name, *([text] if text else []), extra=extra, exc_info=exc_info, stacklevel=2)


CIRCUIT_OPENED = Event(
    "circuit opened", logging.WARNING, is_state=True,
    meaning="A store failed repeatedly. Its keys are parked, without counting attempts, and one key at a time tries "
    "the store: after 1 s, then at intervals that double up to 30 s. `destination` is the store; it may be the source. "
    "A line without `key` reports a circuit that another process has opened.",
    action="Read the reason. `s3s3 check` shows what the store answers now. Nothing has to be retried: all parked keys "
    "are copied after its return.",
)  # fmt: skip
CIRCUIT_CLOSED = Event(
    "circuit closed", logging.INFO, is_state=True,
    meaning="The store works again; its parked keys are queued. `duration_s` is how long this process knew it as down.",
    action="Nothing.",
)  # fmt: skip
COPY_FAILED = Event(
    "copy failed", logging.WARNING,
    meaning="A copy failed and is tried again: at `next_attempt`, or, without it, when the store's circuit closes.",
    action="Nothing, if it stops by itself. `s3s3 explain KEY` shows the state of the key now.",
)  # fmt: skip
COPY_DEFERRED = Event(
    "copy deferred", logging.WARNING,
    meaning="The destination is slower than the others; the key gets a job of its own for it, in the bulk lane.",
    action="Nothing, if the destination recovers. Else see the store's latency, or add listeners.",
)  # fmt: skip
DEAD_LETTERED = Event(
    "dead-lettered", logging.ERROR, burst=100,
    meaning="A key failed for good at a destination: its last attempt failed while other keys were copied, or a retry "
    "cannot help. It is not tried again. In a minute, 100 keys with the same problem have a line each; the others are "
    "counted.",
    action="`s3s3 jobs` shows all dead letters by reason. Fix the cause, then `s3s3 jobs retry`.",
)  # fmt: skip
COPY_FINISHED = Event(
    "copy finished", logging.DEBUG,
    meaning="With `-v`: the outcome of a key at a destination, in `outcome`, with the reason of the decision.",
    action="Nothing.",
)  # fmt: skip
ELECTED_LEADER = Event(
    "elected leader", logging.INFO, is_state=True,
    meaning="This listener enqueues the messages of the channel from now on. The others keep a buffer.",
    action="Nothing. Often repeated: Redis answers too slowly, or several listeners start and stop.",
)  # fmt: skip
LOST_LEADERSHIP = Event(
    "lost leadership", logging.INFO, is_state=True,
    meaning="Another listener enqueues the messages of the channel, or Redis did not answer for longer than the lease.",
    action="Nothing: no message is lost.",
)  # fmt: skip
FIRST_START = Event(
    "first start", logging.WARNING, is_state=True,
    meaning="The first start of this route with this Redis: what was published or written before is not copied.",
    action="Run `s3s3 bucket` once now, even if you ran it before.",
)  # fmt: skip
GAP_DETECTED = Event(
    "gap detected", logging.WARNING, is_state=True,
    meaning="No listener was subscribed to the channel for `duration_s`, or Redis has lost data: changes may have been "
    "missed.",
    action="Nothing: a listener backfills the gap. With `backfill = false`: run `s3s3 bucket`.",
)  # fmt: skip
BACKFILL_STARTED = Event(
    "backfill started", logging.INFO, is_state=True,
    meaning="A gap is backfilled: what the source lists as modified since its start is enqueued, or everything is "
    "compared.",
    action="Nothing.",
)  # fmt: skip
BACKFILL_FINISHED = Event(
    "backfill finished", logging.INFO, is_state=True,
    meaning="The gap is closed at these destinations: `enqueued` keys are on the queue, or everything was compared.",
    action="Nothing.",
)  # fmt: skip
BACKFILL_FAILED = Event(
    "backfill failed", logging.WARNING,
    meaning="The gap stays open and is backfilled again at `next_attempt`.",
    action="Read the reason; `s3s3 check` shows what the stores answer. A complete `s3s3 bucket` closes the gap, too.",
)  # fmt: skip
RECONCILE_FINISHED = Event(
    "reconcile finished", logging.INFO, is_state=True,
    meaning="A listener has compared everything on its schedule; the line has the number of objects and outcomes.",
    action="Nothing. `failed` copies are in `s3s3 jobs`.",
)  # fmt: skip
RECONCILE_INCOMPLETE = Event(
    "reconcile incomplete", logging.WARNING, is_state=True,
    meaning="A listener has compared what it could; the destinations of the line could not be listed.",
    action="`s3s3 check` shows what these stores answer. Only they are compared again, earlier than scheduled.",
)  # fmt: skip
RECONCILE_FAILED = Event(
    "reconcile failed", logging.WARNING,
    meaning="Nothing was compared: the source could not be listed, or Redis is unavailable. It is tried again.",
    action="Read the reason; `s3s3 check` shows what the source and Redis answer.",
)  # fmt: skip
DELETIONS_WITHHELD = Event(
    "deletions withheld", logging.WARNING,
    meaning="A comparison would have deleted more than `max_delete` of a destination, or the source is empty.",
    action="Find out whether the source is right; `s3s3 bucket --dry-run --report FILE` lists the keys. Then see "
    "`max_delete` and `--allow-empty`.",
)  # fmt: skip
ROUTE_NOT_READY = Event(
    "route not ready", logging.WARNING,
    meaning="At its start, a listener cannot use a store of the route. It runs, and works where it can.",
    action="Read the reason, which names the setting where one is wrong.",
)  # fmt: skip
NOTIFICATIONS_FAILED = Event(
    "notifications failed", logging.WARNING,
    meaning="A source of notifications (`source`: a stream, SQS, a webhook) does not work. It is tried until it does; "
    "what it holds is not lost.",
    action="Read the reason; `/readyz` shows it as long as it lasts.",
)  # fmt: skip
NOTIFICATIONS_RECOVERED = Event(
    "notifications recovered", logging.INFO, is_state=True,
    meaning="The source of notifications works again.",
    action="Nothing.",
)  # fmt: skip
REDIS_UNAVAILABLE = Event(
    "Redis unavailable", logging.WARNING,
    meaning="Redis does not answer, or refuses requests. Every call is repeated until it answers. Jobs that run go on; "
    "new ones wait.",
    action="Start Redis, or correct `[pubsub] url`, as the reason says.",
)  # fmt: skip
REDIS_AVAILABLE = Event(
    "Redis available", logging.WARNING,
    meaning="Redis answers again; the work continues by itself.",
    action="Nothing. If it has lost data, `gap detected` follows.",
)  # fmt: skip
OPERATOR_ACTION = Event(
    "operator action", logging.WARNING, is_state=True,
    meaning="A client with the token of `[http]` changed something: the line names the action (retry, drop, pause, "
    "resume, reconcile, enqueue, dismiss) and `operator`, the address that it came from.",
    action="Nothing, if an operator did it. Else change the token, and restrict access to `[http] bind`.",
)  # fmt: skip


#: Every event, by name.
EVENTS = {value.name: value for value in list(globals().values()) if isinstance(value, Event)}
