"""A source, destinations and a Copier for the tests of this folder."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import pytest

from s3s3.errors import LeaseLost
from s3s3.model import Outcome
from s3s3.monitoring.metrics import Metrics
from s3s3.transfer.budget import MAX_IN_MEMORY_BYTES, MAX_SMALL_BYTES, STREAM_BYTES, BudgetRequest, CopyBudget
from s3s3.transfer.copier import Copier
from tests.contents import random_bytes
from tests.scripted_store import Object, ScriptedStore

KEY = "some/key"
TINY, SMALL, BIG = b"content", random_bytes(MAX_SMALL_BYTES + 1), random_bytes(MAX_IN_MEMORY_BYTES + 1)
SIZES = pytest.mark.parametrize("content", [b"", TINY, SMALL, BIG], ids=["empty", "tiny", "small", "big"])
WHOLE_BUDGET = BudgetRequest(STREAM_BYTES, len(BIG))
PARTS = "0123456789abcdef0123456789abcdef-2"
LOOKS_LIKE_AN_MD5 = "0123456789abcdef0123456789abcdef"


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


def damaged(content: bytes, place: int = -1) -> bytes:
    """Return the content with another byte at a place."""
    changed = bytearray(content)
    changed[place] ^= 1
    return bytes(changed)


def always_valid() -> None:
    """The lease never expires."""


class ExpiringLease:
    """A lease that expires after a number of writes."""

    def __init__(self, times: int) -> None:
        self.left = times

    def __call__(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise LeaseLost("the lease is over")


class Scene:
    """A source with one object, destinations, and a Copier."""

    def __init__(
        self, content: bytes = TINY, *, destinations: int = 1, budget: CopyBudget | None = None, **about: object
    ) -> None:
        self.source = ScriptedStore("ceph", {KEY: Object(content, **about)})  # type: ignore[arg-type]
        self.destinations = [ScriptedStore(f"swift-{number}") for number in range(destinations)]
        self.destination = self.destinations[0]
        self.metrics = Metrics()
        self.budget = budget or CopyBudget(spool_bytes=WHOLE_BUDGET.disk_bytes, memory_bytes=WHOLE_BUDGET.memory_bytes)
        self.transfer = Copier(self.source, self.budget, metrics=self.metrics, route="default")  # type: ignore[arg-type]

    async def copy(
        self, *, compare: bool = False, check_lease: Callable[[], None] = always_valid, isolate_slow: bool = False
    ) -> list[Outcome]:
        outcomes = await self.transfer.copy(
            KEY,
            self.destinations,  # type: ignore[arg-type]
            check_lease=check_lease,
            compare=compare,
            isolate_slow=isolate_slow,
        )
        assert [outcome.destination for outcome in outcomes] == [store.name for store in self.destinations]
        assert self.source.open_streams == 0, "an open stream occupies a connection"
        return outcomes

    async def outcome(self, *, compare: bool = False, check_lease: Callable[[], None] = always_valid) -> Outcome:
        [outcome] = await self.copy(compare=compare, check_lease=check_lease)
        return outcome

    def stored(self, number: int = 0) -> Object:
        return self.destinations[number].objects[KEY]

    def mismatches(self) -> dict[str, float]:
        return {labels[1]: count for labels, count in self.metrics.verify_mismatch.items() if count}
