"""A Lua script in a module's package, run on a real Redis."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from s3s3.errors import RedisUnavailable
from s3s3.queue import connection
from s3s3.queue.lua_scripts import Script

pytestmark = pytest.mark.real

PACKAGE = "package_with_scripts"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(tmp_path)
    folder = tmp_path / PACKAGE
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "echo.lua").write_text("return {KEYS[1], #KEYS, unpack(ARGV)}")
    (folder / "wrong.lua").write_text("return redis.call('HSET', KEYS[1])")
    return folder


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[Redis]:
    async with connection.connected(redis_url) as made:
        yield made


async def test_it_runs_on_its_key_with_what_it_is_given(client: Redis, package: Path) -> None:
    echo = Script(client, PACKAGE, "echo.lua", "s3s3:{r}:")
    assert await echo("word", b"\xc3\xbc", 7) == ["s3s3:{r}:", 1, "word", "ü", "7"]
    assert await echo() == ["s3s3:{r}:", 1]


async def test_a_redis_that_has_forgotten_it_gets_it_again(client: Redis, package: Path) -> None:
    echo = Script(client, PACKAGE, "echo.lua", "key")
    await echo()
    await client.script_flush()
    assert await echo("a") == ["key", 1, "a"]


async def test_a_script_that_is_wrong_is_a_defect_and_no_redis_that_is_away(client: Redis, package: Path) -> None:
    with pytest.raises(ResponseError, match=r"[Ww]rong number of arg"):
        await Script(client, PACKAGE, "wrong.lua", "key")()


async def test_a_redis_that_is_away_is_told_as_such(package: Path) -> None:
    nobody = connection.connect("redis://127.0.0.1:1/0")
    try:
        with pytest.raises(RedisUnavailable):
            await Script(nobody, PACKAGE, "echo.lua", "key")()
    finally:
        await nobody.aclose()
