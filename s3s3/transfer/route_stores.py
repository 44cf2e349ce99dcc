"""Open the source and destinations of one route."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

from ..config import WorkerSettings
from ..errors import S3S3Error, StoreUnavailable
from ..model import Route, matcher
from ..monitoring.metrics import Metrics
from ..s3 import RateLimiter, Store, Timeouts
from ..tasks import timeout
from .budget import CopyBudget
from .copier import Copier
from .server_side_copy import is_same_store
from .unsized_body import spool_body

#: Connections for listings and readiness checks, so that these do not wait for long copies.
EXTRA_CONNECTIONS = 8

#: Time for the listing of a readiness check, in seconds.
PROBE_S = 60.0


@dataclass(frozen=True)
class RouteStores:
    """The open source and destinations of a route, and the copier between them."""

    route: Route
    source: Store
    destinations: Sequence[Store]
    copier: Copier
    metrics: Metrics
    limits: Mapping[str, RateLimiter]

    async def read_error(self, name: str, key: str) -> S3S3Error | None:
        """Test whether a store can be read, by a HEAD of this key; "" or a missing one: by listing one key."""
        store = next(store for store in (self.source, *self.destinations) if store.name == name)
        try:
            if not key or await store.head(key) is None:
                await store.list_after("", 1)
        except S3S3Error as error:
            return error
        return None


def copy_budget(settings: WorkerSettings) -> CopyBudget:
    """Return the memory and disk budget of this process."""
    return CopyBudget(spool_dir=str(settings.spool_dir or ""), spool_bytes=settings.spool_bytes)


@asynccontextmanager
async def opened(
    route: Route, settings: WorkerSettings, metrics: Metrics, budget: CopyBudget | None = None,
    limits: Mapping[str, RateLimiter] = MappingProxyType({}),
) -> AsyncIterator[RouteStores]:  # fmt: skip
    """Open a route's stores, without sending anything; close them at the end.

    Args:
        budget: shared with other routes; None: a budget of its own.
        limits: rate limiters by destination.
    """
    budget = budget or copy_budget(settings)
    connections = settings.concurrency + EXTRA_CONNECTIONS
    async with AsyncExitStack() as stack:
        stores = []
        for endpoint in (route.source, *route.destinations):
            rate_limiter = None if endpoint is route.source else limits.get(endpoint.name)
            timeouts = Timeouts(write_s=settings.lease_s).for_endpoint(endpoint)
            store = Store(
                endpoint, source_prefix=route.source.prefix, connections=connections, timeouts=timeouts,
                rate_limiter=rate_limiter, spool=partial(spool_body, budget),
            )  # fmt: skip
            stores.append(await stack.enter_async_context(store))
        source, *destinations = stores
        server_side = [
            destination.name
            for destination in route.destinations  # a server-side copy keeps the tags, but not the ACL
            if destination.server_side_copy and not destination.copy_acl and is_same_store(route.source, destination)
        ]
        copier = Copier(
            source, budget, metrics=metrics, route=route.name, matches=matcher(route),
            destinations={store.name: store for store in destinations}, server_side=server_side,
            copy_attributes=any(destination.copy_tags or destination.copy_acl for destination in route.destinations),
        )  # fmt: skip
        yield RouteStores(route, source, destinations, copier, metrics, limits)


async def probe_error(store: Store, timeout_s: float = PROBE_S) -> S3S3Error | None:
    """List the start of the bucket for up to `timeout_s`; return the error, or None if the store is available."""
    try:
        async with timeout(timeout_s), aclosing(store.pages()) as pages:
            await anext(pages, None)
    except asyncio.TimeoutError:
        message = f"it has not listed the start of its bucket in {timeout_s:g} s"
        return StoreUnavailable(message, store=store.name, operation="LIST")
    except S3S3Error as error:
        return error
    return None
