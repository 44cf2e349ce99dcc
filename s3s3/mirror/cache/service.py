"""Assemble and start the cache."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from ...config.mirror import CacheSettings
from ...http_server import Connections, serve
from ...monitoring.metrics import Metrics
from ...s3 import Credentials, Store
from ...s3.transport.limits import LOOKUP_CONNECTIONS, LOOKUP_TIMEOUTS
from ...tasks import cancel
from ...transfer.route_stores import probe_error
from ..access_log import JsonAccessLog
from ..request_stats import CACHE_EVENTS, EventRecorder, RequestStats
from .authorization import AuthorizationCache
from .directory import CacheDirectory
from .downloads import MAX_DOWNLOADS, Downloads
from .eviction import DiskSpace, cache_directory, disk_usage
from .frontend import CacheFrontEnd
from .presigned import Verifier
from .revalidation import Revalidator
from .writer import sweep

log = logging.getLogger(__name__)

CACHE = "mirror.cache"


@dataclass(frozen=True)
class CacheService:
    """The running cache of one process: its parts, port and health."""

    name: str
    store: Store
    directory: CacheDirectory
    downloads: Downloads
    connections: Connections
    port: int
    metrics: Metrics

    def health_problem(self) -> str:
        """Return "": the cache has no background work that could stall."""
        return ""

    async def readiness_problems(self) -> list[str]:
        """Check the store and the directory; return one line for each problem."""
        error = await probe_error(self.store)
        problems = [f"{self.name}: {error}"] if error is not None else []
        if not self.directory.directory.is_dir():
            problems.append(f"{self.name}: directory does not exist: {self.directory.directory}")
        return problems

    async def measure(self) -> None:
        """Update the gauges."""
        self.metrics.mirror_connections[self.name] = self.connections.count
        self.metrics.mirror_cache_filling[self.name] = self.downloads.running
        disk = disk_usage(self.directory.directory)
        self.metrics.mirror_cache_fill_ratio[self.name] = disk.used_bytes / max(disk.size_bytes, 1)


@asynccontextmanager
async def open_cache(
    settings: CacheSettings,
    metrics: Metrics,
    *,
    record_event: EventRecorder | None = None,
    with_access_log: bool = False,
) -> AsyncIterator[CacheService]:
    """Serve the cache during the block, and remove leftovers of dead processes in the background.

    Raises ConfigError if the directory or the address cannot be used.
    """
    directory = cache_directory(settings)
    directory.create()
    stats = RequestStats(CACHE, metrics, record_event, CACHE_EVENTS)
    prefix = settings.store.prefix
    download_store = Store(settings.store, source_prefix=prefix, connections=MAX_DOWNLOADS)
    client_store = Store(settings.store, source_prefix=prefix, connections=LOOKUP_CONNECTIONS, timeouts=LOOKUP_TIMEOUTS)
    async with download_store, client_store:
        disk_space = DiskSpace(directory, settings.max_fill, settings.low_fill)
        downloads = Downloads(download_store, directory, disk_space, metrics, CACHE)
        authorizations = AuthorizationCache(Verifier(settings.store, [Credentials(*pair) for pair in settings.keys]))
        revalidator = Revalidator(client_store, directory)
        cache = CacheFrontEnd(settings, authorizations, client_store, directory, downloads, revalidator, stats)
        connections = Connections()
        access_log = JsonAccessLog if with_access_log else None
        sweeping = asyncio.create_task(_sweep(directory))
        try:
            async with serve(CACHE, settings.host, settings.port, cache.answer, connections, access_log) as port:
                log.info("%s: %s:%d, %s", CACHE, settings.host, port, directory.directory)
                yield CacheService(CACHE, client_store, directory, downloads, connections, port, metrics)
        finally:
            await cancel([sweeping])
            await downloads.close()


async def _sweep(directory: CacheDirectory) -> None:
    removed = await asyncio.to_thread(sweep, directory)
    if removed:
        log.info("%s: removed %d leftover files of dead processes", CACHE, removed)
