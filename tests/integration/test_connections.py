"""Idle connections to the daemon's servers are bounded, and take no file descriptor that copying needs."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from s3s3.scripts.demo.servers import free_ports
from s3s3.scripts.demo.swift_server import SwiftServer
from tests.integration.commands import Listener, eventually
from tests.integration.objects import keys_of
from tests.integration.test_listen import Place
from tests.integration.test_sources import takes, webhook_table, with_tables

pytestmark = pytest.mark.real

OPEN_FILES = 256


class LimitedListener(Listener):
    """A listener that may open `OPEN_FILES` files."""

    def _start(self) -> None:
        self._command = ["sh", "-c", f'ulimit -n {OPEN_FILES}; exec "$@"', "-", *self._command]
        super()._start()


@contextmanager
def idle_connections(port: int, count: int) -> Iterator[list[socket.socket]]:
    with ExitStack() as stack:
        yield [stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=60)) for _ in range(count)]


@pytest.mark.long
def test_more_idle_connections_than_files_do_not_stop_copying(
    swift: SwiftServer, new_bucket: Callable[..., str], redis_url: str, tmp_path: Path
) -> None:
    place = Place(swift, new_bucket, redis_url, tmp_path)
    (webhook_port,) = free_ports(1)
    config = with_tables(place.config(), webhook_table(webhook_port))
    keys = [f"k{number}" for number in range(60)]
    for key in keys:
        place.put(key)
    with LimitedListener(config) as listener:
        takes(listener, f"webhook 127.0.0.1:{webhook_port}")
        pid = listener.process.pid
        with idle_connections(place.port, 300), idle_connections(webhook_port, 300) as connections:
            place.publish(*keys)
            eventually(lambda: keys_of(place.client, place.there.bucket_name) == set(keys), "all copied", every_s=0.2)
            assert place.http("/healthz") == (200, "ok\n")
            assert len(list(Path(f"/proc/{pid}/fd").iterdir())) < OPEN_FILES
            assert connections[-1].recv(1) == b"", "idle connections are closed"
        assert listener.stop() == 0
    assert "Too many open files" not in listener.log.read_text()
