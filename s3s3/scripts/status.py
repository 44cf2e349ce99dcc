"""The status page, as every daemon serves it: of all that one configuration names."""

from __future__ import annotations

from redis.asyncio import Redis

from ..config import Config
from ..web.snapshot import watches
from ..web.status import Status


def status_of(settings: Config, client: Redis | None) -> Status | None:
    """Return the page, None where there is none, or no Redis to read it from."""
    if settings.http is None or client is None:
        return None
    lease_s = settings.worker.lease_s
    of_routes = watches(client, settings.routes, lease_s)
    return Status([*of_routes, *watches(client, settings.mirror.routes, lease_s, "mirror")], settings.http.token)
