"""Copy a missed object unless it already exists."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from ..errors import S3S3Error, StoreError, StoreUnavailable
from ..model import Job, Outcome, Result
from ..s3 import ObjectInfo, Store
from ..tasks import timeout
from ..transfer.copier import Copier

#: Time limit of one copy (s): a source that sends a few bytes at a time must not occupy a slot indefinitely.
MAX_COPY_S = 6 * 3600.0

OnOutcome = Callable[[str, Outcome], Awaitable[None]]


class MirrorCopy:
    """A worker's `Copy` for misses of one destination.

    One process at a time works on a key, and starts with a HEAD. So each object is read once, however many front ends
    request it. What the source refuses for good has the outcome `extraneous` instead of a dead letter, because any
    client can request any number of such keys.

    Args:
        on_outcome: awaited with each outcome before the queue publishes it to waiting requests.
        fresh_for_s: an older copy is made again; None: copies do not expire.
        max_copy_s: time limit of one copy.
    """

    def __init__(
        self,
        store: Store,
        transfer: Copier,
        *,
        on_outcome: OnOutcome | None = None,
        fresh_for_s: float | None = None,
        max_copy_s: float = MAX_COPY_S,
    ) -> None:
        self._store = store
        self._transfer = transfer
        self._on_outcome = on_outcome
        self._fresh_for_s = fresh_for_s
        self._max_copy_s = max_copy_s

    async def __call__(self, job: Job, destinations: Sequence[str], check_lease: Callable[[], None]) -> list[Outcome]:
        """Copy the object to the destination. See `s3s3.worker.worker.Copy`."""
        outcome = await self._copy(job.key, check_lease)
        error = outcome.error
        if isinstance(error, StoreError) and not error.store and not error.retriable:
            outcome = outcome._replace(result=Result.EXTRANEOUS)
        if self._on_outcome is not None:
            await self._on_outcome(job.key, outcome)
        return [outcome]

    async def _copy(self, key: str, check_lease: Callable[[], None]) -> Outcome:
        try:
            if is_fresh(await self._store.head(key), self._store, self._fresh_for_s):
                return Outcome(self._store.name, key, Result.SAME, Result.SAME.value)
            async with timeout(self._max_copy_s):
                return (await self._transfer.copy(key, [self._store], check_lease=check_lease, compare=False))[0]
        except asyncio.TimeoutError:
            error: S3S3Error = StoreUnavailable(f"the copy took more than {self._max_copy_s:g} s", key=key)
            return Outcome(self._store.name, key, Result.FAILED, str(error), error=error, indeterminate=True)
        except S3S3Error as failure:
            return Outcome(self._store.name, key, Result.FAILED, str(failure), error=failure)


def is_fresh(info: ObjectInfo | None, store: Store, fresh_for_s: float | None) -> bool:
    """Whether a copy exists and may be served: some stores do not delete expired copies."""
    if info is None:
        return False
    return fresh_for_s is None or store.source_time_ms() - info.modified_ms < fresh_for_s * 1000
