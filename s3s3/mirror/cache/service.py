"""The cache of one process, opened as the configuration says."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from ...config.mirror import CacheSettings
from ...monitoring.metrics import Metrics
from ...s3 import Credentials, Store
from ...s3.transport.pool import ASKING, ASKING_CONNECTIONS
from ...tasks import cancel
from ...transfer.route_stores import probe_error
from ..access_log import JsonAccessLog
from ..http_server import Bounds, Connections, connections_at_hand, serving
from ..request_stats import OF_CACHE, Line, RequestStats
from .directory import CacheDirectory
from .downloads import MAX_FILLS, Downloads
from .eviction import disk_of, folder_of, room_in
from .frontend import CacheFrontEnd
from .presigned import Verifier
from .writer import sweep

log = logging.getLogger(__name__)

CACHE = "mirror.cache"


@dataclass(frozen=True)
class CacheService:
    """The address that the cache's clients come to."""

    name: str
    store: Store
    folder: CacheDirectory
    fills: Downloads
    connections: Connections
    port: int
    metrics: Metrics

    def health_problem(self) -> str:
        """Return "": it waits for nobody."""
        return ""

    async def readiness_problems(self) -> list[str]:
        """Ask the store and look at the directory; return what is wrong, a line each."""
        error = await probe_error(self.store)
        wrong = [f"{self.name}: {error}"] if error is not None else []
        if not self.folder.directory.is_dir():
            wrong.append(f"{self.name}: {self.folder.directory} has gone")
        return wrong

    async def measure(self) -> None:
        """Bring the gauges up to date."""
        self.metrics.mirror_connections[self.name] = self.connections.open
        self.metrics.mirror_cache_filling[self.name] = self.fills.under_way
        disk = disk_of(self.folder.directory)
        self.metrics.mirror_cache_fill_ratio[self.name] = disk.used_bytes / max(disk.size_bytes, 1)


@asynccontextmanager
async def cache_front(
    settings: CacheSettings, metrics: Metrics, *, line: Line | None = None, with_access_log: bool = False
) -> AsyncIterator[CacheService]:
    """Open it. It answers at once, and removes what dead processes have left beside that.

    Raises:
        ConfigError: the directory or the address cannot be had.
    """
    folder = folder_of(settings)
    folder.make()
    figures = RequestStats(CACHE, metrics, line, OF_CACHE)
    prefix = settings.store.prefix
    reading = Store(settings.store, source_prefix=prefix, connections=MAX_FILLS)
    asking = Store(settings.store, source_prefix=prefix, connections=ASKING_CONNECTIONS, timeouts=ASKING)
    async with reading, asking:
        fills = Downloads(reading, folder, room_in(folder, settings), metrics, CACHE)
        verifier = Verifier(settings.store, [Credentials(*pair) for pair in settings.keys])
        cache = CacheFrontEnd(settings, verifier, asking, folder, fills, figures)
        connections = Connections(Bounds(connections=connections_at_hand()))
        access_log = JsonAccessLog if with_access_log else None
        sweeping = asyncio.create_task(_sweep(folder))
        try:
            async with serving(CACHE, settings.host, settings.port, cache.answer, connections, access_log) as port:
                log.info("%s: %s:%d, %s", CACHE, settings.host, port, folder.directory)
                yield CacheService(CACHE, asking, folder, fills, connections, port, metrics)
        finally:
            await cancel([sweeping])
            await fills.close()


async def _sweep(folder: CacheDirectory) -> None:
    removed = await asyncio.to_thread(sweep, folder)
    if removed:
        log.info("%s: %d files that dead processes had left are removed", CACHE, removed)
