"""Connections to Redis: URLs, errors, versions, retries, Sentinel and Cluster."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest
import redis
import uvloop
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from s3s3.errors import ConfigError, RedisTooOld, RedisUnavailable
from s3s3.model import Lane
from s3s3.queue import redis_calls
from s3s3.queue.base import Disposition, DispositionKind, JobRequest
from s3s3.queue.connection import check_version, connect, connected
from s3s3.queue.records import KeyState, list_keys, read_records
from s3s3.queue.redis_calls import RedisRetry, translate_errors
from s3s3.queue.redis_queue import RedisJobQueue
from s3s3.scripts.demo.process import Process, ServerFailed
from s3s3.scripts.demo.redis_server import RedisServer, find_redis_server
from s3s3.scripts.demo.servers import HOST, free_ports
from tests.waiting import until

real = pytest.mark.real


@asynccontextmanager
async def client_of(url: str) -> AsyncIterator[Redis]:
    client = connect(url)
    try:
        yield client
    finally:
        await client.aclose()


# -- URLs


@pytest.mark.parametrize(
    "url",
    [
        "http://:sesame@host",
        "redis+sentinel://:sesame@host:26379",
        "redis+sentinel://:sesame@host:26379/",
        "redis+sentinel://:sesame@host:port/service",
        "redis+sentinel://:ses/ame@host:26379/service",
        "redis://:ses/ame@host",
        "redis://host:1/0?password=sesame&max_connections=x",
    ],
)
def test_an_invalid_url_is_a_config_error_without_the_password(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        connect(url)
    assert "[pubsub] url" in str(caught.value)
    assert "ses" not in str(caught.value).replace("service", "").replace("these", "")
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    "url",
    ["redis://host", "rediss://u:p@host:1/2", "unix:///run/redis.sock", "redis+sentinel://h1,h2:1/s/3",
     "rediss+sentinel://:p@[::1]:1/s", "redis+cluster://host:7000"],
)  # fmt: skip
async def test_connecting_sends_nothing(url: str) -> None:
    await connect(url).aclose()


# -- errors


def refusing_url() -> str:
    (port,) = free_ports(1)
    return f"redis://{HOST}:{port}/0"


async def test_an_unreachable_redis_is_unavailable() -> None:
    async with client_of(refusing_url()) as client:
        with pytest.raises(RedisUnavailable, match="cannot be reached"), translate_errors():
            await client.ping()


@pytest.mark.parametrize(
    "text",
    [
        "LOADING Redis is loading the dataset in memory",
        "READONLY You can't write against a read only replica.",
        "ERR Error running script (call to f_1): @user_script:2: @user_script: 2: -READONLY You can't write against",
        "MISCONF Redis is configured to save RDB snapshots",
        "CLUSTERDOWN The cluster is down",
        "UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)",
        "BUSY Redis is busy running a script.",
    ],
)
def test_a_temporary_error_is_unavailable(text: str) -> None:
    with pytest.raises(RedisUnavailable, match="temporarily"), translate_errors():
        raise ResponseError(text)


@pytest.mark.parametrize("text", ["WRONGTYPE Operation against a key", "ERR unknown command", "BUSYGROUP exists"])
def test_a_permanent_error_is_a_defect(text: str) -> None:
    with pytest.raises(ResponseError), translate_errors():
        raise ResponseError(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("DB index is out of range", "does not have this database"),
        ("invalid DB index", "does not have this database"),
        ("NOPERM User weak has no permissions to run the 'evalsha' command", "lacks permissions"),
        ("ERR Error running script (call to f_1): @user_script:2: The user executing the script can't run this command",
         "lacks permissions"),
        ("The user executing the script can't access at least one of the keys mentioned in the command",
         "lacks permissions"),
        ("ACL failure in script: User weak has no permissions to run the 'set' command", "lacks permissions"),
    ],
)  # fmt: skip
def test_an_error_that_needs_another_url_or_user_names_the_setting(text: str, message: str) -> None:
    with pytest.raises(RedisUnavailable, match=rf"{message}.*\[pubsub\] url"), translate_errors():
        raise ResponseError(text)


async def test_a_server_that_is_not_a_redis_is_recognised() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await reader.read()
        writer.close()

    server = await asyncio.start_server(answer, HOST, 0)
    async with server, client_of(f"redis://{HOST}:{server.sockets[0].getsockname()[1]}/0") as client:
        with pytest.raises(RedisUnavailable, match=r"not a Redis.*\[pubsub\] url"):
            await check_version(client)


async def test_a_missing_database_is_recognised(redis_server: RedisServer) -> None:
    async with client_of(redis_server.url.rpartition("/")[0] + "/99") as client:
        with pytest.raises(RedisUnavailable, match="does not have this database"):
            await check_version(client)


async def test_a_user_without_permission_to_run_scripts_is_recognised(redis_url: str) -> None:
    async with client_of(redis_url) as admin:
        await admin.acl_setuser("weak", enabled=True, passwords=["+weak"], categories=["+@read"], keys=["*"],
                                commands=["+info", "+ping"])  # fmt: skip
        try:
            async with client_of(redis_url.replace("//", "//weak:weak@")) as client:
                with pytest.raises(RedisUnavailable, match="lacks permissions"):
                    await RedisJobQueue(client, "default", ("dest",)).enqueue([JobRequest("k", ("dest",))], Lane.FRESH)
        finally:
            await admin.acl_deluser("weak")


@pytest.fixture
def enqueue_one(redis_url: str) -> Callable[[], Any]:
    async def enqueue() -> None:
        async with client_of(redis_url) as client:
            await RedisJobQueue(client, "default", ("dest",)).enqueue([JobRequest("k", ("dest",))], Lane.FRESH)

    return enqueue


@real
def test_a_connection_lost_before_the_first_command_is_unavailable(redis_server: RedisServer) -> None:
    """uvloop raises a RuntimeError. (asyncio's own loop, which s3s3 does not use, fails in Python 3.13.0.)"""

    async def write_on_a_lost_connection() -> None:
        _, writer = await asyncio.open_connection(HOST, redis_server.port)
        writer.transport.abort()
        await asyncio.sleep(0.1)
        with translate_errors():
            writer.writelines([b"PING\r\n"])
            await writer.drain()

    with pytest.raises(RedisUnavailable, match="cannot be reached"):
        uvloop.run(write_on_a_lost_connection())


def test_an_unrelated_runtime_error_passes_unchanged() -> None:
    with pytest.raises(RuntimeError, match="of s3s3"), translate_errors():
        raise RuntimeError("a defect of s3s3")


async def test_a_redis_out_of_memory_is_unavailable(redis_url: str, enqueue_one: Callable[[], Any]) -> None:
    async with client_of(redis_url) as client:
        await client.config_set("maxmemory", 1)
        try:
            with pytest.raises(RedisUnavailable, match="maxmemory"), translate_errors():
                await client.set("name", "value")
            with pytest.raises(RedisUnavailable):
                await enqueue_one()
        finally:
            await client.config_set("maxmemory", 0)
        await enqueue_one()


@real
async def test_a_demoted_master_is_unavailable_to_scripts_and_blocking_reads(
    redis_url: str, enqueue_one: Callable[[], Any]
) -> None:
    await enqueue_one()
    async with client_of(redis_url) as client, client_of(redis_url) as wait_until_blocked:
        jobs = RedisJobQueue(wait_until_blocked, "default", ("dest",))
        waiting = asyncio.create_task(jobs.poll_outcomes("run", 5))

        async def is_blocked() -> bool:
            return bool((await client.info("clients"))["blocked_clients"])

        await until(is_blocked)
        await client.replicaof(HOST, "1")
        try:
            with pytest.raises(RedisUnavailable):
                await waiting
            with pytest.raises(RedisUnavailable):
                await enqueue_one()
        finally:
            await client.replicaof("NO", "ONE")
        await enqueue_one()


@real
async def test_a_wrong_password_is_unavailable_and_names_the_setting() -> None:
    with RedisServer(options={"requirepass": "sesame"}) as server:
        async with client_of(server.url) as client:
            with pytest.raises(RedisUnavailable, match=r"\[pubsub\] url"):
                await check_version(client)
        async with connected(server.url.replace("//", "//:sesame@")) as client:
            assert await client.ping()


# -- versions


class InfoClient:
    """A client that responds to INFO."""

    def __init__(self, server: dict[str, Any]) -> None:
        self.server = server

    async def info(self, section: str) -> dict[str, Any]:
        return self.server


@pytest.mark.parametrize("version", ["5.0.14", "6.0.20", "2.8"])
async def test_an_old_redis_is_refused(version: str) -> None:
    with pytest.raises(RedisTooOld, match=version):
        await check_version(InfoClient({"redis_version": version}))  # type: ignore[arg-type]


@pytest.mark.parametrize("version", ["6.2.0", "7.0.15", "8.2.1-rc1", "10.0"])
async def test_a_newer_redis_is_accepted(version: str) -> None:
    assert await check_version(InfoClient({"redis_version": version})) == version  # type: ignore[arg-type]
    assert await check_version(InfoClient({"node": {"redis_version": version}})) == version  # type: ignore[arg-type]


@real
async def test_a_checked_connection_is_closed_at_the_end(redis_url: str) -> None:
    async with connected(redis_url) as client:
        assert await client.ping()
    with pytest.raises(RedisUnavailable):
        async with connected(refusing_url()):
            pass


# -- retries


class Failing:
    """A call that fails the first `times` times."""

    def __init__(self, times: int) -> None:
        self.times = times
        self.calls = 0

    async def __call__(self) -> str:
        self.calls += 1
        if self.calls <= self.times:
            raise RedisUnavailable("Redis cannot be reached")
        return "response"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_calls, "INITIAL_BACKOFF_S", 0.001)
    monkeypatch.setattr(redis_calls, "MAX_BACKOFF_S", 0.002)


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if record.name == "s3s3.queue.redis_calls"]


async def test_a_call_is_retried_until_redis_responds_and_the_outage_is_logged_once(
    quick: None, caplog: pytest.LogCaptureFixture
) -> None:
    call = Failing(20)
    assert await RedisRetry().run(call) == "response"
    assert call.calls == 21
    assert messages(caplog) == [
        "Redis unavailable: Redis cannot be reached", "Redis available",
    ]  # fmt: skip


async def test_a_call_that_succeeds_logs_nothing(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    assert await RedisRetry().run(Failing(0)) == "response"
    assert messages(caplog) == []


async def test_callers_that_share_a_retry_log_an_outage_once(quick: None, caplog: pytest.LogCaptureFixture) -> None:
    retry, call = RedisRetry(), Failing(100)
    await asyncio.gather(*(retry.run(call) for _ in range(30)))
    assert len(messages(caplog)) == 2
    await retry.run(Failing(1))
    assert len(messages(caplog)) == 4


async def test_after_a_stop_there_are_no_retries() -> None:
    stop, retry = asyncio.Event(), RedisRetry()
    retrying = asyncio.create_task(retry.run(Failing(1000), stop))
    await asyncio.sleep(0.05)
    assert not retrying.done()
    stop.set()
    with pytest.raises(RedisUnavailable):
        await asyncio.wait_for(retrying, 5)
    with pytest.raises(RedisUnavailable):
        await retry.run(Failing(1), stop)
    assert await retry.run(Failing(0), stop) == "response"


async def test_another_error_is_raised_without_a_retry() -> None:
    async def defect() -> None:
        raise ValueError("a defect")

    with pytest.raises(ValueError, match="a defect"):
        await RedisRetry().run(defect)


# -- Sentinel and Cluster


async def use_every_operation(client: Redis) -> None:
    """Call every operation of the queue through this client."""
    jobs = RedisJobQueue(client, "default", ("dest",), recheck_delay_s=0.0)
    await check_version(client)
    await jobs.check()
    assert (await jobs.claim(1, 1, 1, 0.01)).jobs == []
    await jobs.enqueue([JobRequest("k", ("dest",))], Lane.FRESH, "run")
    (job,) = (await jobs.claim(1, 1, 1, 0)).jobs
    assert await jobs.renew([job]) == set()
    assert await jobs.finish(
        job, {"dest": Disposition(DispositionKind.DEAD_LETTER, event="{}", reason="no")}, recheck=True
    )
    assert await jobs.poll_outcomes("run", 0) == ["{}"]
    assert await jobs.poll_outcomes("run", 0.01) == []
    assert [letter.key async for letter in jobs.dead_letters("dest")] == ["k"]
    assert await jobs.redrive("dest", ["k"]) == 1
    assert await jobs.dead_letter("dest", "k") is None
    assert await jobs.dead_letter_page("dest", 0, 10) == (0, [])
    for state in KeyState:
        await list_keys(jobs, state, store="dest")
    assert (await read_records(jobs, ["k"])).records[0].phase == "queued"
    await jobs.promote_due()
    await jobs.trip_circuit("dest", "down", "k")
    counts = await jobs.stats()
    assert (counts.bulk, counts.circuits) == (1, {"dest": "down"})
    await jobs.pause()
    await jobs.resume()
    await jobs.remove_consumer()


def new_cluster(make: Callable[[], RedisServer], attempts: int = 5) -> RedisServer:
    """Start a cluster of one node. It also listens on its port + 10000, which may be in use."""
    server = make()
    try:
        server.start()
    except ServerFailed:
        server.close()
        if attempts == 1:
            raise
        return new_cluster(make, attempts - 1)
    return server


@real
async def test_the_queue_works_in_a_cluster() -> None:
    with closing(new_cluster(lambda: RedisServer(options={"cluster-enabled": "yes"}))) as server:
        with redis.Redis.from_url(server.url) as node:
            node.execute_command("CLUSTER ADDSLOTS", *range(16384))
        url = server.url.replace("redis://", "redis+cluster://").removesuffix("/0")

        async def up() -> bool:
            with redis.Redis.from_url(server.url) as node:
                return bool(node.execute_command("CLUSTER INFO")["cluster_state"] == "ok")

        await until(up)
        async with client_of(url) as client:
            await use_every_operation(client)


@pytest.fixture
def sentinel_url(redis_server: RedisServer, redis_url: str, tmp_path: Path) -> Iterator[str]:
    (port,) = free_ports(1)
    configuration = tmp_path / "sentinel.conf"
    configuration.write_text(
        f"bind {HOST}\nport {port}\ndir {tmp_path}\nsentinel monitor mymaster {HOST} {redis_server.port} 1\n"
    )

    def ready() -> bool:
        with redis.Redis(port=port) as sentinel:
            try:
                return bool(sentinel.ping())
            except redis.ConnectionError:
                return False

    process = Process(
        "sentinel", [find_redis_server(), configuration, "--sentinel"], log=tmp_path / "sentinel.log", ready=ready
    )
    process.start()
    try:
        process.wait_ready()
        yield f"redis+sentinel://localhost:1,{HOST}:{port}/mymaster/0"
    finally:
        process.kill()


@real
async def test_the_queue_works_through_a_sentinel(sentinel_url: str) -> None:
    async with client_of(sentinel_url) as client:
        await use_every_operation(client)
    async with client_of(sentinel_url.replace("mymaster", "unknown")) as client:
        with pytest.raises(RedisUnavailable):
            await check_version(client)
