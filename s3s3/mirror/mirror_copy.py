"""What a worker does with a miss: look whether somebody else has copied it, and copy it unseen where not."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from ..errors import S3S3Error, StoreError, StoreUnavailable
from ..model import Job, Outcome, Result
from ..s3 import ObjectInfo, Store
from ..tasks import timeout
from ..transfer.copier import Copier

MAX_COPY_S = 6 * 3600.0
"""A source that trickles must not keep its slot for ever."""

Settled = Callable[[str, Outcome], Awaitable[None]]


class MirrorCopy:
    """A worker's `Copy` for a route whose misses fill one destination.

    A key is worked on by one process at a time, and its copy begins with a HEAD, so that each object is read once
    however many fronts ask for it. What the source definitely refuses is *left*: it is no dead letter, since any client
    can ask for any number of such keys.

    Args:
        settled: told of each outcome before the queue is, so that whoever the queue wakes finds it.
        fresh_for_s: a copy that is older is made again; None: copies keep for ever.
    """

    def __init__(
        self,
        store: Store,
        transfer: Copier,
        *,
        settled: Settled | None = None,
        fresh_for_s: float | None = None,
        longest_s: float = MAX_COPY_S,
    ) -> None:
        self._store = store
        self._transfer = transfer
        self._settled = settled
        self._fresh_for_s = fresh_for_s
        self._longest_s = longest_s

    async def __call__(self, job: Job, destinations: Sequence[str], check_lease: Callable[[], None]) -> list[Outcome]:
        """Make the destination hold the object. See `s3s3.worker.worker.Copy`."""
        outcome = await self._outcome(job.key, check_lease)
        error = outcome.error
        if isinstance(error, StoreError) and not error.store and not error.retriable:
            outcome = outcome._replace(result=Result.EXTRANEOUS)
        if self._settled is not None:
            await self._settled(job.key, outcome)
        return [outcome]

    async def _outcome(self, key: str, check_lease: Callable[[], None]) -> Outcome:
        try:
            if is_fresh(await self._store.head(key), self._store, self._fresh_for_s):
                return Outcome(self._store.name, key, Result.SAME, Result.SAME.value)
            async with timeout(self._longest_s):
                return (await self._transfer.copy(key, [self._store], check_lease=check_lease, compare=False))[0]
        except asyncio.TimeoutError:
            error: S3S3Error = StoreUnavailable(f"the copy was not done within {self._longest_s:g} s", key=key)
            return Outcome(self._store.name, key, Result.FAILED, str(error), error=error, indeterminate=True)
        except S3S3Error as failure:
            return Outcome(self._store.name, key, Result.FAILED, str(failure), error=failure)


def is_fresh(held: ObjectInfo | None, store: Store, fresh_for_s: float | None) -> bool:
    """Whether the store holds a copy that may be served: not every store deletes by itself what has had its time."""
    if held is None:
        return False
    return fresh_for_s is None or store.source_time_ms() - held.modified_ms < fresh_for_s * 1000
