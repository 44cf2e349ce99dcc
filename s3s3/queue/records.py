"""Read the records of keys: what the queue knows of a key, and the keys in each state."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, NamedTuple

from .admin import KEYS_PER_CALL, QueueAdmin
from .base import FailedAttempt
from .redis_calls import translate_errors

#: Keys that are read, at most, to find one page of keys in a state.
MAX_KEYS_READ = 2000


class KeyState(str, Enum):
    """The states in which keys can be listed."""

    QUEUED = "queued"
    RUNNING = "running"
    WAITING = "waiting"
    PARKED = "parked"
    RECHECK = "recheck"


class Circuit(NamedTuple):
    """An open circuit of a store, or an operator's pause.

    Attributes:
        since_ms: when it opened (Unix time).
        probe_at_ms: when the next probe starts, or the current one times out; None while it is paused.
        probe: the key that probes the store now; "" for none.
    """

    store: str
    since_ms: int
    reason: str
    probe_at_ms: int | None
    probe: str
    is_paused: bool


@dataclass(frozen=True)
class KeyRecord:
    """What the queue knows of one key. All times are Unix times in ms by Redis's clock.

    Attributes:
        phase: queued, running or waiting; "" without a record: nothing is left to do.
        destinations: still to be made equal to the source.
        lane: fresh or bulk.
        attempts: counted failures by destination.
        failed_ms: the last failure at any of these destinations.
        retry_at_ms: when the retry is due; None for none.
        parked: stores whose circuit it waits for.
        recheck_at_ms: when it is compared again after an unanswered write or a takeover.
        rerun: destinations that were notified while it is running.
        owner: the process that runs it, as HOST:PID.
        renewed_s: the age of its lease's last renewal.
        failures: the failed attempts by destination, oldest first; only the latest of many.
    """

    key: str
    phase: str = ""
    destinations: tuple[str, ...] = ()
    lane: str = ""
    attempts: Mapping[str, int] | None = None
    notified_ms: int | None = None
    failed_ms: int | None = None
    retry_at_ms: int | None = None
    parked: tuple[str, ...] = ()
    recheck_at_ms: int | None = None
    rerun: tuple[str, ...] = ()
    owner: str = ""
    renewed_s: float | None = None
    failures: Mapping[str, Sequence[FailedAttempt]] = field(default_factory=dict)


class Records(NamedTuple):
    """Records in the order of their keys, the open circuits by store, and the time in Redis."""

    now_ms: int
    circuits: Mapping[str, Circuit]
    records: Sequence[KeyRecord]


class KeyPage(NamedTuple):
    """A page of keys; `cursor` leads to the next one, "" after the last."""

    records: Records
    cursor: str


async def read_records(jobs: QueueAdmin, keys: Sequence[str]) -> Records:
    """Return the records of keys; up to `KEYS_PER_CALL` are read in one step. Raises RedisUnavailable."""
    stores = " ".join(jobs.stores)
    records: list[KeyRecord] = []
    while True:
        batch = keys[len(records) : len(records) + KEYS_PER_CALL]
        now_ms, circuits, found = await jobs.run_script("records", stores, *batch)
        records += [_record(key, *parts) for key, parts in zip(batch, found, strict=True)]
        if len(records) == len(keys):
            break
    opened = {
        store: Circuit(store, int(since), reason, int(at) if at and not paused else None, probe, bool(paused))
        for store, since, reason, at, probe, paused in circuits
    }
    return Records(int(now_ms), opened, records)


async def list_keys(
    jobs: QueueAdmin, state: KeyState, *, cursor: str = "", limit: int = 50, store: str = ""
) -> KeyPage:
    """Return a page of the keys in a state. While jobs run, a key may come twice, or be left out.

    Args:
        cursor: of the page before; "" for the first page.
        limit: the approximate number of keys, up to `KEYS_PER_CALL`. PARKED may return more.
        store: for PARKED, the store that the keys wait for.

    Raises:
        ValueError: this is no cursor of such a list.
        RedisUnavailable: Redis did not respond.
    """
    limit = min(max(limit, 1), KEYS_PER_CALL)
    if state in (KeyState.QUEUED, KeyState.RUNNING):
        return await _list_lanes(jobs, state, cursor, limit)
    position = int(cursor or 0)
    found: Any
    with translate_errors():
        if state is KeyState.PARKED:
            after, found = await jobs.client.sscan(f"{jobs.prefix}parked:{store}", position, count=limit)
            next_cursor = str(after) if after else ""
        else:
            name = jobs.prefix + ("rechecks" if state is KeyState.RECHECK else "retries")
            found = await jobs.client.zrange(name, position, position + limit - 1)
            next_cursor = str(position + len(found)) if len(found) == limit else ""
    return KeyPage(await read_records(jobs, list(found)), next_cursor)


async def _list_lanes(jobs: QueueAdmin, state: KeyState, cursor: str, limit: int) -> KeyPage:
    """List the entries of both lanes, the fresh one first. A cursor is LANE:ID of the last entry that was read."""
    lane, _, after = (cursor or "fresh:").partition(":")
    if lane not in ("fresh", "bulk"):
        raise ValueError("no such lane")
    found: list[KeyRecord] = []
    records, read = await read_records(jobs, ()), 0
    while read < MAX_KEYS_READ and len(found) < limit:
        with translate_errors():
            entries: Any = await jobs.client.xrange(
                jobs.prefix + lane, min=f"({after}" if after else "-", count=min(limit, KEYS_PER_CALL)
            )
        read += len(entries)
        keys = [fields.get("key", "") for _, fields in entries]
        records = await read_records(jobs, keys)
        found += [record for record in records.records if record.phase == state.value and record.lane == lane]
        if entries:
            after = str(entries[-1][0])
        elif lane == "fresh":
            lane, after = "bulk", ""
        else:
            return KeyPage(records._replace(records=found), "")
    return KeyPage(records._replace(records=found), f"{lane}:{after}")


def _record(key: str, pairs: Sequence[str], recheck_at_ms: int, parked: str, renewed_ms: int) -> KeyRecord:
    fields = dict(zip(pairs[::2], pairs[1::2], strict=True))

    def time_ms(name: str) -> int | None:
        return int(fields[name]) if fields.get(name) else None

    phase = fields.get("phase", "")
    attempts = (part.rpartition("=") for part in fields.get("attempts", "").split())
    failures: dict[str, list[FailedAttempt]] = {}
    for line in fields.get("failures", "").splitlines():
        name, _, text = line.partition(" ")
        failures.setdefault(name, []).append(FailedAttempt(**json.loads(text)))
    return KeyRecord(
        key,
        phase,
        tuple(fields.get("destinations", "").split()),
        fields.get("lane", ""),
        {name: int(count) for name, _, count in attempts},
        time_ms("notified_ms"),
        time_ms("failed_ms"),
        time_ms("retry_at_ms") if phase == "waiting" else None,
        tuple(parked.split()),
        recheck_at_ms if recheck_at_ms >= 0 else None,
        tuple(fields.get("rerun", "").split()),
        ":".join(fields.get("token", "").split(":")[:-1]),
        renewed_ms / 1000 if renewed_ms >= 0 else None,
        failures,
    )
