"""A run that several processes share: which ranges of keys are left, who compares which, what was counted so far.

Keys, under the route's prefix. They are kept for a week after the last sign of life, so that a run of which every
process was killed goes on where it was:

    distributed             the id of the run that was begun last
    distributed:ID          hash: options (JSON), began_ms, ended_ms; what a tally counts, so far: source_entries,
                            skipped_entries, copied_bytes, `destination_only DEST`, `count DEST WORD`,
                            `proof DEST WORD`;
                            `error STORE`, a listing that broke off
    distributed:ID:ranges   hash: the name after which a range begins -> who has it, a space, the name with which it
                            ends; "" for the beginning, nobody and the end. What is in no range was compared
    distributed:ID:leases   sorted set: the same names, by when they may be taken by others (ms; 0: now)
    distributed:ID:workers  sorted set: who takes part, by the last sign of life (ms)

A range shrinks as its keys are compared, in the same step in which what became of them is counted: so each is counted
once, whoever is killed.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import LeaseLost
from ..queue.lua_scripts import LuaScripts
from ..queue.redis_queue import RedisJobQueue
from .summary import ReconcileSummary


@dataclass
class KeyRange:
    """A range of keys that this process compares.

    Attributes:
        after: it begins with the first key after this.
        until: it ends with this key; None: with the last.
        wanting: so many ranges are too few in the whole run.
    """

    after: str
    until: str | None
    wanting: int
    token: str = field(repr=False)


_NUMBERS = ("source_entries", "skipped_entries", "copied_bytes")


class RunFinished(Exception):
    """Every range of the run was compared."""


class SharedRun:
    """One run, as one of its processes sees it.

    Attributes:
        id: the run's.
        options: what it was begun with; whoever takes part does the same.
        began_ms: when, by Redis's clock.
        is_new: this process has begun it.
    """

    def __init__(self, jobs: RedisJobQueue, lease_s: float) -> None:
        self._scripts = LuaScripts(jobs.client, __package__, jobs.prefix)
        self._worker = secrets.token_hex(8)
        self._lease_ms = int(lease_s * 1000)
        self._one_call = asyncio.Lock()  # a range that shrinks meanwhile would be renewed under the name it had
        self.lease_s = lease_s
        self.id = ""
        self.options: dict[str, Any] = {}
        self.began_ms = 0
        self.is_new = False

    async def begin(self, options: dict[str, Any], afresh: bool = False) -> None:
        """Begin a run, or take part in the one that has not ended. `afresh`: not in one of which nobody is alive.

        Raises RedisUnavailable, as everything here does.
        """
        self.id = secrets.token_hex(8)
        answer = await self._call("begin", json.dumps(options), int(afresh))
        self.id, self.options, self.began_ms = answer[0], json.loads(answer[1]), int(answer[2])
        self.is_new = answer[3] == "1"

    async def forget(self) -> None:
        """Forget a run in which nobody took part yet."""
        await self._call("forget")

    async def take(self) -> KeyRange | None:
        """Take a range; None where others have all that are left. Raises Ended."""
        token = secrets.token_hex(8)
        word, *fields = await self._call("take", self._worker, token, self._lease_ms)
        if word == "ended":
            raise RunFinished
        return KeyRange(fields[0], fields[1] or None, fields[2], token) if word == "range" else None

    async def go_on(
        self, held: KeyRange, position: str | None, tally: ReconcileSummary, points: Sequence[str] = ()
    ) -> None:
        """Say that a range was compared up to `position` (None: to its end), and what was counted on the way.

        Args:
            points: where the rest of it is cut; this process keeps the first piece.

        Raises:
            LeaseLost: it is somebody else's, who counts what is compared there.
            Ended: nothing is left.
        """
        async with self._one_call:
            word, *fields = await self._call(
                "go_on", self._worker, held.token, self._lease_ms, held.after,
                "0" if position is None else "1" + position,
                _in_turn(_counts(tally)), _in_turn(tally.errors.items()), *points,
            )  # fmt: skip
            if word == "lost":
                raise LeaseLost(f"the range after {held.after!r} is somebody else's now")
            if word == "ended":
                raise RunFinished
            if position is not None:
                held.after = position
                held.until = points[0] if points else held.until
            held.wanting = fields[0]

    async def renew(self, held: KeyRange) -> bool:
        """Keep a range; return whether it is still ours."""
        async with self._one_call:
            return bool(await self._call("renew", self._worker, held.token, self._lease_ms, held.after))

    async def leave(self, held: KeyRange) -> None:
        """Give a range back, to whoever takes it next."""
        await self._call("leave", self._worker, held.token, self._lease_ms, held.after)

    async def state(self, tally: ReconcileSummary) -> int:
        """Put what was counted so far into the tally; return how many ranges are left."""
        flat, left = await self._call("state")
        fields = dict(zip(flat[::2], flat[1::2], strict=True))
        for name, value in fields.items():
            kind, _, rest = name.partition(" ")
            store, _, word = rest.partition(" ")
            if kind == "count":
                tally.counts[store][word] = int(value)
            elif kind == "proof":
                tally.proofs[store][word] = int(value)
            elif kind == "destination_only":
                tally.destination_only[store] = int(value)
            elif kind == "error":
                tally.errors[store] = value
        for name in _NUMBERS:
            setattr(tally, name, int(fields.get(name, 0)))
        tally.ended = "ended_ms" in fields
        tally.seconds = max(int(fields.get("ended_ms") or time.time() * 1000) - self.began_ms, 0) / 1000
        return int(left)

    async def _call(self, word: str, *args: str | int) -> Any:
        return await self._scripts.run("shared_run", word, self.id, *args)


def _counts(tally: ReconcileSummary) -> Iterable[tuple[str, int]]:
    for name in _NUMBERS:
        yield name, getattr(tally, name)
    for store, count in tally.destination_only.items():
        yield f"destination_only {store}", count
    for kind, by_store in (("count", tally.counts), ("proof", tally.proofs)):
        for store, counts in by_store.items():
            for word, count in counts.items():
                yield f"{kind} {store} {word}", count


def _in_turn(pairs: Iterable[tuple[str, Any]]) -> str:
    return json.dumps([part for pair in pairs for part in pair])
