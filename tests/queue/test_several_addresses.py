"""Redis is reached if one address of its host answers, whatever the form of the URL."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import redis
import trustme

from s3s3.errors import RedisUnavailable
from s3s3.queue.connection import check_version
from s3s3.scripts.demo.redis_server import RedisServer
from s3s3.scripts.demo.servers import HOST
from tests.addresses import NAME, resolve_to, silent_address
from tests.queue.test_connection import client_of, new_cluster
from tests.queue.test_redis_urls import sentinel, tls_server
from tests.s3.loops import event_loop_policy  # noqa: F401
from tests.waiting import eventually

pytestmark = pytest.mark.real


@pytest.fixture
def silent() -> Iterator[tuple[str, int]]:
    with silent_address() as address:
        yield address


async def test_the_next_address_of_a_server_is_used(
    redis_url: str, silent: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    port = int(redis_url.rpartition(":")[2].partition("/")[0])
    resolve_to(monkeypatch, silent, (HOST, port))
    async with client_of(redis_url.replace(HOST, NAME)) as client:
        assert await check_version(client)


async def test_a_server_of_which_no_address_answers_is_unavailable(
    silent: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("s3s3.queue.connection.CONNECT_TIMEOUT_S", 0.5)
    resolve_to(monkeypatch, silent, silent)
    async with client_of(f"redis://{NAME}") as client:
        with pytest.raises(RedisUnavailable, match="cannot be reached"):
            await check_version(client)


async def test_tls_compares_the_certificate_with_the_name(
    silent: tuple[str, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert(NAME)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
    with tls_server(tmp_path) as (_, port):
        resolve_to(monkeypatch, silent, (HOST, int(port)))
        async with client_of(f"rediss://{NAME}/0?ssl_ca_certs={tmp_path}/ca.pem") as client:
            assert await check_version(client)
        async with client_of(f"rediss://{HOST}:{port}/0?ssl_ca_certs={tmp_path}/ca.pem") as client:
            with pytest.raises(RedisUnavailable, match="certificate verify failed"):
                await check_version(client)


async def test_the_next_address_of_a_sentinel_is_used(
    redis_server: RedisServer, silent: tuple[str, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with sentinel(tmp_path, redis_server.port) as port:
        resolve_to(monkeypatch, silent, (HOST, port))
        async with client_of(f"redis+sentinel://{NAME}/mymaster") as client:
            assert await check_version(client)


async def test_the_next_address_of_a_cluster_is_used(silent: tuple[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(new_cluster(lambda: RedisServer(options={"cluster-enabled": "yes"}))) as server:
        with redis.Redis.from_url(server.url) as node:
            node.execute_command("CLUSTER ADDSLOTS", *range(16384))
            eventually(lambda: node.execute_command("CLUSTER INFO")["cluster_state"] == "ok")
        resolve_to(monkeypatch, silent, (HOST, server.port))
        async with client_of(f"redis+cluster://{NAME}:{server.port}") as client:
            await client.set("a", "b")
            assert await client.get("a") == "b"
