"""The stores of one route, opened together, and the copying between them as a worker and the metrics see it."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from types import MappingProxyType
from typing import Any

from ..config import WorkerSettings
from ..errors import S3S3Error
from ..model import Job, Outcome, Route, matcher
from ..monitoring.metrics import Metrics
from ..s3 import RateLimiter, Store, Timeouts
from .budget import CopyBudget
from .copier import Copier, one_store

log = logging.getLogger(__name__)

CONNECTIONS_BESIDE_COPIES = 8
"""For listings and readiness checks, so that they need not wait for a long copy to end."""


class RouteStores:
    """A route's source and destinations, and the one road for every copy between them."""

    def __init__(
        self,
        route: Route,
        source: Store,
        destinations: Sequence[Store],
        transfer: Copier,
        metrics: Metrics,
        limits: Mapping[str, RateLimiter] = MappingProxyType({}),
    ) -> None:
        self.route = route
        self.metrics = metrics
        self.limits = limits
        self.source = source
        self.destinations = tuple(destinations)
        self._by_name = {store.name: store for store in destinations}
        self._transfer = transfer

    def copy(
        self, job: Job, destinations: Sequence[str], check_lease: Callable[[], None], *, wait_for_all: bool = False
    ) -> Coroutine[Any, Any, list[Outcome]]:
        """Do a job: make these destinations hold what the source holds. This is a worker's `Copy`.

        `wait_for_all`: none is left behind, however long it holds up the others; for who has no queue.
        """
        stores = [self._by_name[name] for name in destinations]
        return self._transfer.copy(
            job.key, stores, check_lease=check_lease, look=not job.unconditional, wait_for_all=wait_for_all
        )


def copy_budget(settings: WorkerSettings) -> CopyBudget:
    """Return the room that a process may take for its copies."""
    return CopyBudget(spool_dir=str(settings.spool_dir), spool_bytes=settings.spool_bytes)


@asynccontextmanager
async def opened(
    route: Route,
    settings: WorkerSettings,
    metrics: Metrics,
    room: CopyBudget | None = None,
    limits: Mapping[str, RateLimiter] = MappingProxyType({}),
) -> AsyncIterator[RouteStores]:
    """Open a route's stores; close them at the end. Nothing is sent yet.

    Args:
        room: what the copies of several routes share; None: a room of their own.
        limits: of destinations, by name.
    """
    timeouts = Timeouts(write_s=settings.lease_s)
    connections = settings.concurrency + CONNECTIONS_BESIDE_COPIES
    async with AsyncExitStack() as stack:
        source, *destinations = [
            await stack.enter_async_context(
                Store(
                    endpoint,
                    source_prefix=route.source.prefix,
                    connections=connections,
                    timeouts=timeouts,
                    rate_limiter=None if endpoint is route.source else limits.get(endpoint.name),
                )
            )
            for endpoint in (route.source, *route.destinations)
        ]
        within = [
            there.name
            for there in route.destinations  # a store that copies by itself keeps the tags, but no ACL
            if there.server_side_copy and not there.copy_acl and one_store(route.source, there)
        ]
        transfer = Copier(
            source,
            room or copy_budget(settings),
            metrics=metrics,
            route=route.name,
            matches=matcher(route),
            within=within,
            marks=any(there.copy_tags or there.copy_acl for there in route.destinations),
        )
        yield RouteStores(route, source, destinations, transfer, metrics, limits)


async def refused(store: Store) -> S3S3Error | None:
    """Ask the store for the beginning of its bucket; return what is wrong, or None."""
    pages = store.pages()
    try:
        async for _ in pages:
            break
    except S3S3Error as error:
        return error
    finally:
        await pages.aclose()
    return None
