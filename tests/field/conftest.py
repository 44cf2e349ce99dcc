from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest

from s3s3.scripts.demo.servers import StoreServer
from tests.faults.conftest import gateway
from tests.field.workplace import Workplace, shorten_delays, workplace

__all__ = ["gateway"]


@pytest.fixture
async def place(
    gateway: StoreServer, new_bucket: Callable[..., str], redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Workplace]:
    """Two empty buckets, with proxies before them and short delays."""
    shorten_delays(monkeypatch)
    async with workplace(gateway, new_bucket, redis_url) as place:
        yield place
