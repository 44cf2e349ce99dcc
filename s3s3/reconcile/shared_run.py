"""Coordinate the key ranges and the counts of a distributed reconcile in Redis.

Keys, under the route's prefix. They expire a week after the last heartbeat of a participating process, so that a
reconcile continues even if every process was killed:

    distributed             id of the reconcile that was started last
    distributed:ID          hash: options (JSON), started_ms, ended_ms; the counts so far: source_entries,
                            skipped_entries, copied_bytes, `destination_only DEST`, `count DEST OUTCOME`,
                            `proof DEST PROOF`; `error STORE`: why its listing failed
    distributed:ID:ranges   hash: KEY after which a range begins -> TOKEN of its owner, a space, KEY at which it ends.
                            Empty: no lower bound, no owner, no upper bound. Keys in no range have been compared
    distributed:ID:leases   sorted set: the same range starts, by the time when the lease expires (ms; 0: no owner)
    distributed:ID:workers  sorted set: participating processes, by the time of their last heartbeat (ms)

A range shrinks in the same atomic step in which the outcomes of its keys are counted. So each key is counted once, even
if processes are killed.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import LeaseLost
from ..queue.redis_calls import LuaScripts
from ..queue.redis_queue import RedisJobQueue
from .summary import ReconcileSummary

_NUMBERS = ("source_entries", "skipped_entries", "copied_bytes")


@dataclass
class KeyRange:
    """A range of keys, leased to this process.

    Attributes:
        after, until: the range: keys after `after`, up to and including `until`; None: to the last key.
        shortfall: how many ranges without an owner the reconcile lacks for the processes that wait for one.
    """

    after: str
    until: str | None
    shortfall: int
    token: str = field(repr=False)


class RunFinished(Exception):
    """Every range of the distributed reconcile has been compared."""


class SharedRun:
    """A distributed reconcile, for one of its processes.

    Every method may raise RedisUnavailable.

    Attributes:
        options: those of the process that started it.
        started_ms: by Redis's clock.
        is_new: this process started it.
    """

    def __init__(self, jobs: RedisJobQueue, lease_s: float) -> None:
        self._script = LuaScripts(jobs.client, __package__, jobs.prefix)
        self._worker = secrets.token_hex(8)
        self._lease_ms = int(lease_s * 1000)
        self._range_lock = asyncio.Lock()  # a commit changes the name under which a range is renewed
        self.lease_s = lease_s
        self.id = ""
        self.options: dict[str, Any] = {}
        self.started_ms = 0
        self.is_new = False

    async def start(self, options: dict[str, Any], restart: bool = False) -> None:
        """Join the unfinished reconcile, or start one.

        `restart`: discard an unfinished one if none of its processes has sent a heartbeat for 30 s.
        """
        self.id = secrets.token_hex(8)
        reply = await self._call("start", json.dumps(options), int(restart))
        self.id, self.options, self.started_ms = reply[0], json.loads(reply[1]), int(reply[2])
        self.is_new = reply[3] == "1"

    async def discard(self) -> None:
        """Delete the reconcile if no process has taken part yet."""
        await self._call("discard")

    async def acquire_range(self) -> KeyRange | None:
        """Lease a free range; None if there is none. Raises RunFinished."""
        token = secrets.token_hex(8)
        result, *fields = await self._call("acquire", self._worker, token, self._lease_ms)
        if result == "finished":
            raise RunFinished
        return KeyRange(fields[0], fields[1] or None, fields[2], token) if result == "range" else None

    async def commit_progress(
        self, key_range: KeyRange, position: str | None, summary: ReconcileSummary, points: Sequence[str] = ()
    ) -> None:
        """Add counts and move the start of a range, in one atomic step.

        Args:
            position: the last key that was compared; None: the range was compared to its end.
            points: where to split the rest of the range; this process keeps the first piece.

        Raises:
            LeaseLost: another process has the range; nothing was counted.
            RunFinished: this was the last range.
        """
        async with self._range_lock:
            result, *fields = await self._call(
                "commit", self._worker, key_range.token, self._lease_ms, key_range.after,
                "0" if position is None else "1" + position,
                json.dumps(_counts(summary)), json.dumps(summary.errors), *points,
            )  # fmt: skip
            if result == "lost":
                raise _lease_lost(key_range)
            if result == "finished":
                raise RunFinished
            if position is not None:
                key_range.after = position
                key_range.until = points[0] if points else key_range.until
            key_range.shortfall = fields[0]

    async def renew(self, key_range: KeyRange) -> None:
        """Renew the lease of a range. Raises LeaseLost if another process has it."""
        async with self._range_lock:
            if not await self._call("renew", self._worker, key_range.token, self._lease_ms, key_range.after):
                raise _lease_lost(key_range)

    async def release_range(self, key_range: KeyRange) -> None:
        """Release a range, so that another process can acquire it."""
        await self._call("release", self._worker, key_range.token, self._lease_ms, key_range.after)

    async def load_counts(self, summary: ReconcileSummary) -> int:
        """Load the counts of all processes; return the number of ranges left."""
        flat, ranges_left = await self._call("read")
        fields = dict(zip(flat[::2], flat[1::2], strict=True))
        for name, value in fields.items():
            match name.split(" "):
                case ["count", store, outcome]:
                    summary.counts[store][outcome] = int(value)
                case ["proof", store, proof]:
                    summary.proofs[store][proof] = int(value)
                case ["destination_only", store]:
                    summary.destination_only[store] = int(value)
                case ["error", store]:
                    summary.errors[store] = value
        for name in _NUMBERS:
            setattr(summary, name, int(fields.get(name, 0)))
        summary.ended = "ended_ms" in fields
        summary.seconds = max(int(fields.get("ended_ms") or time.time() * 1000) - self.started_ms, 0) / 1000
        return int(ranges_left)

    async def _call(self, command: str, *args: str | int) -> Any:
        return await self._script.run("shared_run", command, self.id, *args)


def _lease_lost(key_range: KeyRange) -> LeaseLost:
    return LeaseLost(f"another process took over the key range after {key_range.after!r}")


def _counts(summary: ReconcileSummary) -> dict[str, int]:
    fields = {name: getattr(summary, name) for name in _NUMBERS}
    fields |= {f"destination_only {store}": count for store, count in summary.destination_only.items()}
    for kind, by_store in (("count", summary.counts), ("proof", summary.proofs)):
        for store, counts in by_store.items():
            fields |= {f"{kind} {store} {word}": count for word, count in counts.items()}
    return fields
