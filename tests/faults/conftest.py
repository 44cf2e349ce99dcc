from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from s3s3.scripts.demo.redis_server import RedisServer
from s3s3.scripts.demo.servers import Server, StoreServer
from tests.conftest import running
from tests.faults import duration
from tests.faults.fleet import new_redis


@pytest.fixture(scope="session")
def gateway(request: pytest.FixtureRequest) -> StoreServer:
    """The quickest real store that can be had here: Ceph, or else Swift."""
    has_ceph = shutil.which("radosgw") is not None and os.geteuid() == 0
    store: StoreServer = request.getfixturevalue("ceph" if has_ceph else "swift")
    return store


@pytest.fixture
def own_redis(started_servers: list[Server]) -> Iterator[RedisServer]:
    """A Redis that no other test knows of, to be killed."""
    with running(new_redis, started_servers) as server:
        yield server


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """In the long form any of these may take as long as all of them are to take."""
    if duration.minutes():
        for item in items:
            if item.path.is_relative_to(Path(__file__).parent):
                item.add_marker(pytest.mark.timeout(60 * duration.minutes() + 600), append=False)
