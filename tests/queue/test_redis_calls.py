"""Lua scripts of a package, run on a real Redis."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from s3s3.errors import RedisUnavailable
from s3s3.queue import connection
from s3s3.queue.redis_calls import LuaScripts

pytestmark = pytest.mark.real

PACKAGE = "package_with_scripts"


@pytest.fixture(autouse=True)
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    folder = tmp_path / PACKAGE
    (folder / "more").mkdir(parents=True)
    (folder / "__init__.py").touch()
    (folder / "echo.lua").write_text("return {KEYS[1], #KEYS, unpack(ARGV)}")
    (folder / "wrong.lua").write_text("return redis.call('HSET', KEYS[1])")
    (folder / "more" / "shared.lua").write_text("local function first() return ARGV[1] end\n")
    (folder / "more" / "read.lua").write_text(
        "return {first(), redis.call('XREADGROUP', 'GROUP', 'g', 'c', 'STREAMS', KEYS[1], '>')}"
    )


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[Redis]:
    async with connection.connected(redis_url) as made:
        yield made


async def test_a_script_receives_its_key_and_arguments(client: Redis) -> None:
    scripts = LuaScripts(client, PACKAGE, "s3s3:{r}:")
    assert await scripts.run("echo", "word", b"\xc3\xbc", 7) == ["s3s3:{r}:", 1, "word", "ü", "7"]
    assert await scripts.run("echo") == ["s3s3:{r}:", 1]


async def test_a_script_that_redis_lost_is_sent_again(client: Redis) -> None:
    scripts = LuaScripts(client, PACKAGE, "key")
    await scripts.run("echo")
    await client.script_flush()
    assert await scripts.run("echo", "a") == ["key", 1, "a"]


async def test_the_prelude_and_fixed_arguments_come_first_and_missing_groups_are_created(client: Redis) -> None:
    async def create_group() -> None:
        await client.xgroup_create("stream", "g", mkstream=True)

    options: dict[str, Any] = {"folder": "more", "prelude": "shared", "args": ("fixed",)}
    scripts = LuaScripts(client, PACKAGE, "stream", on_no_group=create_group, **options)
    assert await scripts.run("read") == ["fixed", None]
    await client.delete("stream")
    with pytest.raises(ResponseError, match="NOGROUP"):
        await LuaScripts(client, PACKAGE, "stream", **options).run("read")


async def test_an_error_in_a_script_is_a_defect_and_not_an_outage(client: Redis) -> None:
    with pytest.raises(ResponseError, match=r"[Ww]rong number of arg"):
        await LuaScripts(client, PACKAGE, "key").run("wrong")


async def test_an_unreachable_redis_raises_redis_unavailable() -> None:
    unreachable = connection.connect("redis://127.0.0.1:1/0")
    try:
        with pytest.raises(RedisUnavailable):
            await LuaScripts(unreachable, PACKAGE, "key").run("echo")
    finally:
        await unreachable.aclose()
