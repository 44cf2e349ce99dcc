"""Connections are shared, and slots are never lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from s3s3.s3.transport.errors import ConnectFailed
from s3s3.s3.transport.limits import Timeouts
from s3s3.s3.transport.pool import Pool
from tests.s3.loops import event_loop_policy  # noqa: F401
from tests.s3.raw_server import RawServer, eventually, respond, response


@asynccontextmanager
async def pool_of(server: RawServer, connections: int, **timeouts: float) -> AsyncIterator[Pool]:
    pool = Pool("127.0.0.1", server.port, tls=None, connections=connections, timeouts=Timeouts(**timeouts))
    try:
        yield pool
    finally:
        await pool.close()


async def test_the_slot_of_a_cancelled_waiter_goes_to_the_next() -> None:
    async with RawServer([respond(response())]) as server, pool_of(server, 1) as pool:
        connection = await pool.acquire()
        leaving, next_one = (asyncio.create_task(pool.acquire()) for _ in range(2))
        await asyncio.sleep(0)
        pool.release(connection)
        leaving.cancel()
        pool.release(await asyncio.wait_for(next_one, 5))
        assert leaving.cancelled()


async def test_a_failed_connect_releases_its_slot() -> None:
    async with RawServer([]) as server:
        pass
    async with pool_of(server, 2) as pool:
        for _ in range(5):
            with pytest.raises(ConnectFailed):
                await asyncio.wait_for(pool.acquire(), 5)


async def test_a_connection_is_never_used_by_two_requests() -> None:
    async with RawServer([respond(response())]) as server, pool_of(server, 2) as pool:
        in_use: set[int] = set()

        async def use() -> None:
            connection = await pool.acquire()
            assert id(connection) not in in_use
            in_use.add(id(connection))
            await asyncio.sleep(0.001)
            in_use.discard(id(connection))
            pool.release(connection)

        await asyncio.gather(*(use() for _ in range(50)))
        assert server.connections == 2


async def test_a_connection_that_was_idle_too_long_is_not_reused() -> None:
    async with RawServer([respond(response())]) as server, pool_of(server, 2, keep_s=0.05, read_s=0.2) as pool:
        first = await pool.acquire()
        pool.release(first)
        await asyncio.sleep(0.1)
        second = await pool.acquire()
        assert second is not first
        pool.release(second)
        await eventually(lambda: second.closed)  # closed by the timer


async def test_an_idle_connection_closed_by_the_peer_is_not_reused() -> None:
    async with RawServer([respond(response())]) as server, pool_of(server, 2) as pool:
        first = await pool.acquire()
        pool.release(first)
        for task in tuple(server._tasks):
            task.cancel()
        await eventually(lambda: first.closed)
        second = await pool.acquire()
        assert second is not first
        pool.release(second)


@pytest.mark.parametrize("steps", range(4))
async def test_a_cancellation_during_connect_is_not_lost(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """asyncio.wait_for loses it in Python 3.10 and 3.11."""
    loop = asyncio.get_running_loop()
    made: asyncio.Future[None] = loop.create_future()
    create_connection = type(loop).create_connection

    async def create_later(*args: Any, **kwargs: Any) -> Any:
        pair = await create_connection(*args, **kwargs)
        await made
        return pair

    async with RawServer([respond(response())]) as server, pool_of(server, 1) as pool:
        monkeypatch.setattr(type(loop), "create_connection", create_later)
        leaving = asyncio.create_task(pool.acquire())
        await asyncio.sleep(0.1)
        made.set_result(None)
        for _ in range(steps):
            await asyncio.sleep(0)
        if leaving.cancel():
            with pytest.raises(asyncio.CancelledError):
                await leaving
