"""Copy one key from the source to all destinations.

Nothing is retried here: the store client retries for seconds, the queue for days.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from ..errors import IntegrityError
from ..model import Endpoint, Job, Outcome
from ..monitoring.metrics import Metrics
from ..s3 import Source, Store
from .budget import CopyBudget
from .destination import DestinationCopy, LeaseCheck
from .fanout import gather_or_cancel
from .object_copy import ObjectCopy
from .server_side_copy import ServerSideCopier


class Copier:
    """Copies keys from one source.

    Args:
        source: where the objects are read.
        budget: memory and disk of all copies of this process.
        metrics: counts verification failures, under the name `route`.
        matches: whether the route includes a key; others are never deleted. None: it includes all.
        destinations: of the jobs, by name; `copy` accepts others, too.
        server_side: names of destinations in the source's own store, which copies to them itself.
        copy_attributes: some destination wants the objects' tags or ACLs.
    """

    def __init__(
        self,
        source: Source,
        budget: CopyBudget,
        *,
        metrics: Metrics,
        route: str,
        matches: Callable[[str], bool] | None = None,
        destinations: Mapping[str, Store] = MappingProxyType({}),
        server_side: Collection[str] = (),
        copy_attributes: bool = False,
    ) -> None:
        self.source = source
        self.budget = budget
        self.non_md5_destinations: set[str] = set()
        self._metrics = metrics
        self._route = route
        self._matches = matches
        self._destinations = destinations
        self._attributes_source = source if copy_attributes and isinstance(source, Store) else None
        self._server_side = ServerSideCopier(source, server_side) if server_side else None

    def copy_job(
        self, job: Job, destinations: Sequence[str], check_lease: LeaseCheck, *, isolate_slow: bool = True
    ) -> Coroutine[Any, Any, list[Outcome]]:
        """Run a job: make these destinations equal to the source. Implements a worker's `Copy`.

        `isolate_slow` False: wait for every destination, as a caller without a queue has to.
        """
        stores = [self._destinations[name] for name in destinations]
        return self.copy(
            job.key, stores, check_lease=check_lease, compare=not job.unconditional, isolate_slow=isolate_slow
        )

    async def copy(
        self, key: str, destinations: Sequence[Store],
        *, check_lease: LeaseCheck, compare: bool, isolate_slow: bool = False,
    ) -> list[Outcome]:  # fmt: skip
        """Make the destinations equal to the source's object under `key`; return their outcomes in order.

        Cancellation aborts the requests; a PUT from memory may have been sent as a whole and may still be applied.

        Args:
            check_lease: called before each write; raises LeaseLost where another worker has the job.
            compare: HEAD the destinations first and copy only what differs; False copies unconditionally.
            isolate_slow: fail a destination that holds up the others with DestinationTooSlow.
        """
        source = self._attributes_source
        attributes = None if source is None else SourceAttributes(source, key).headers
        copies = [DestinationCopy(store, key, self._route, attributes) for store in destinations]
        object_copy = ObjectCopy(
            self.source, self.budget, self.non_md5_destinations, key, check_lease, copies,
            isolate_slow=isolate_slow and len(copies) > 1,
        )  # fmt: skip
        pending = copies
        if self._server_side is not None:
            await self._server_side.copy(key, copies, check_lease, compare=compare)
            pending = [copy for copy in copies if copy.outcome is None]
        if pending:
            await (object_copy.compare_and_copy(pending) if compare else object_copy.copy(pending))
        if object_copy.missing:
            await self._propagate_deletion(object_copy.missing, check_lease, compare)
        outcomes = [copy.outcome for copy in copies if copy.outcome is not None]
        assert len(outcomes) == len(copies), "every destination of a finished copy has an outcome"
        errors = {id(outcome.error): outcome.error for outcome in outcomes if isinstance(outcome.error, IntegrityError)}
        for error in errors.values():  # an error of the source is the same for every destination, and counts once
            self._metrics.verify_mismatch[self._route, error.store] += 1
        return outcomes

    async def _propagate_deletion(
        self, missing: Sequence[DestinationCopy], check_lease: LeaseCheck, compare: bool
    ) -> None:
        """Delete an object that a GET at the source did not find, at destinations with `delete = true`."""
        deletions = []
        for copy in missing:
            if copy.store.endpoint.delete and (self._matches is None or self._matches(copy.key)):
                deletions.append(copy.delete(check_lease, compare=compare))
            else:
                copy.record_source_missing()
        await gather_or_cancel(deletions)


class SourceAttributes:
    """Tags and ACL of one source object, read when the first destination wants them."""

    def __init__(self, source: Store, key: str) -> None:
        self._attributes = source.attributes
        self._key = key
        self._reading = asyncio.Lock()
        self._tags: dict[str, str] | None = None
        self._acl: dict[str, str] | None = None

    async def headers(self, destination: Endpoint) -> dict[str, str]:
        """Return request headers for the attributes that the destination copies. Raises StoreError of the source."""
        headers: dict[str, str] = {}
        async with self._reading:
            if destination.copy_tags:
                self._tags = await self._attributes.tags(self._key) if self._tags is None else self._tags
                headers |= self._tags
            if destination.copy_acl:
                self._acl = await self._attributes.acl(self._key) if self._acl is None else self._acl
                headers |= self._acl
        return headers
