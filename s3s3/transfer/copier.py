"""One key copied: what the source holds under it now is made to be what the destinations hold.

`ordinary` is the road of every copy, `within` a short cut where source and destination are in one store. Nothing is
tried again here: the store does so for seconds, the queue for days.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence

from ..errors import IntegrityError
from ..model import Endpoint, Outcome
from ..monitoring.metrics import Metrics
from ..s3 import Source, Store
from .budget import CopyBudget
from .destination import DestinationCopy, LeaseCheck
from .fanout import gather_or_cancel
from .object_copy import ObjectCopy
from .server_side_copy import ServerSideCopier, one_store
from .size_policy import AT_ONCE_BYTES, SMALL_BYTES, STREAM_BYTES

__all__ = ["AT_ONCE_BYTES", "SMALL_BYTES", "STREAM_BYTES", "Copier", "one_store"]


def _any(_: str) -> bool:
    """The route is about every key."""
    return True


class Copier:
    """Copies keys from one source.

    Args:
        source: where they are.
        room: shared by everything that copies in this process.
        metrics: count what does not verify, under the name `route`.
        matches: whether the route is about this key; what it is not about is never deleted.
        marks: some destination wants the objects' tags or ACLs.
        within: names of the destinations that are in the source's own store, and are to be copied to by that.
    """

    def __init__(
        self,
        source: Source,
        room: CopyBudget,
        *,
        metrics: Metrics,
        route: str,
        matches: Callable[[str], bool] = _any,
        within: Collection[str] = (),
        marks: bool = False,
    ) -> None:
        self.source = source
        self.room = room
        self.non_md5_destinations: set[str] = set()
        self._metrics = metrics
        self._route = route
        self._matches = matches
        self._marked_source = source if marks and isinstance(source, Store) else None
        self._within = ServerSideCopier(source, within) if within else None

    async def copy(
        self, key: str, destinations: Sequence[Store], *, check_lease: LeaseCheck, look: bool, wait_for_all: bool = True
    ) -> list[Outcome]:
        """Make the destinations hold what the source holds under `key` now; return the outcome of each, in order.

        Cancelled, it ends its requests; a PUT from memory may have been sent whole by then, and may yet be carried out.

        Args:
            permit: called before each write; raises LeaseLost where it is not ours any more.
            look: compare first, and copy only what differs. Without, it is copied unseen.
            wait_for_all: without, a destination that holds up the others fails with LeftBehind.
        """
        marks = None if self._marked_source is None else SourceAttributes(self._marked_source, key)
        targets = [DestinationCopy(store, key, self._route, marks) for store in destinations]
        road = ObjectCopy(self.source, self.room, self.non_md5_destinations, key, check_lease, targets, wait_for_all)
        ahead = targets
        if self._within is not None:
            await self._within.copy(key, targets, check_lease, look=look)
            ahead = [target for target in targets if target.outcome is None]
        if ahead:
            await road.settle(ahead, road.look if look else road.run)
        if road.gone:
            await self._carry_deletion_over(road.gone, check_lease, look)
        outcomes = [target.outcome for target in targets if target.outcome is not None]
        assert len(outcomes) == len(targets), "a copy that ends leaves nothing open"
        self._count_damage(outcomes)
        return outcomes

    async def _carry_deletion_over(
        self, targets: Sequence[DestinationCopy], check_lease: LeaseCheck, look: bool
    ) -> None:
        """Delete what a GET at the source said that there is no more, where that is asked for."""
        deleting = []
        for target in targets:
            if target.store.endpoint.delete and self._matches(target.key):
                deleting.append(target.delete(check_lease, look=look))
            else:
                target.source_is_gone()
        await gather_or_cancel(deleting)

    def _count_damage(self, outcomes: Sequence[Outcome]) -> None:
        """Count bytes, lengths and MD5s that were not as promised; once where the source alone failed all."""
        errors = {id(outcome.error): outcome.error for outcome in outcomes if outcome.error is not None}
        for error in errors.values():
            if isinstance(error, IntegrityError):
                self._metrics.verify_mismatch[self._route, error.store] += 1


class SourceAttributes:
    """What destinations are to be asked for beside the object."""

    def __init__(self, source: Store, key: str) -> None:
        self._marks = source.marks
        self._key = key
        self._asking = asyncio.Lock()
        self._tags: dict[str, str] | None = None
        self._acl: dict[str, str] | None = None

    async def headers(self, destination: Endpoint) -> dict[str, str]:
        """Return the headers that ask for what this destination is to have. Raises what the source refuses with."""
        headers: dict[str, str] = {}
        async with self._asking:
            if destination.copy_tags:
                self._tags = await self._marks.tags(self._key) if self._tags is None else self._tags
                headers |= self._tags
            if destination.copy_acl:
                self._acl = await self._marks.acl(self._key) if self._acl is None else self._acl
                headers |= self._acl
        return headers
