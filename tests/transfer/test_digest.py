from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import AsyncIterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s3s3.transfer.digest import BATCH_BYTES, Digest, md5_of, md5_of_chunks

MIB = bytes(1024 * 1024)


async def of(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


@settings(deadline=None)
@given(st.lists(st.binary()))
def test_digest_of_chunks_equals_md5_of_the_whole(chunks: list[bytes]) -> None:
    assert asyncio.run(md5_of_chunks(of(*chunks))) == hashlib.md5(b"".join(chunks)).digest()


async def test_large_chunks_are_hashed_in_order() -> None:
    chunks = [bytes([number]) * 300_000 for number in range(40)]

    assert await md5_of_chunks(of(*chunks)) == hashlib.md5(b"".join(chunks)).digest()


@pytest.mark.parametrize("content", [b"", b"abc", MIB * 2])
async def test_content_in_memory_has_the_same_md5_with_and_without_a_thread(content: bytes) -> None:
    assert await md5_of(content) == hashlib.md5(content).digest()


async def test_event_loop_is_not_blocked_by_hashing() -> None:
    hold = threading.Event()
    digest = Digest(also=lambda _: hold.wait(10))

    await asyncio.wait_for(digest.add(MIB), 1)

    hold.set()
    assert await digest.end() == hashlib.md5(MIB).digest()


async def test_at_most_two_batches_are_kept_while_the_thread_is_slow() -> None:
    hold = threading.Event()
    digest = Digest(also=lambda _: hold.wait(10))
    chunk = bytes(BATCH_BYTES)
    await digest.add(chunk)

    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(digest.add(chunk), 0.05)

    hold.set()
    assert await digest.end() == hashlib.md5(chunk * 2).digest()


async def test_error_of_the_also_function_is_raised() -> None:
    def refuse(_: bytes) -> None:
        raise OSError("full")

    digest = Digest(also=refuse)
    await digest.add(MIB)

    with pytest.raises(OSError, match="full"):
        await digest.end()


async def test_wait_for_thread_waits_and_discards_the_error() -> None:
    hold, done = threading.Event(), []

    def fail_later(_: bytes) -> None:
        hold.wait(10)
        done.append(True)
        raise OSError("full")

    digest = Digest(also=fail_later)
    await digest.add(MIB)
    asyncio.get_running_loop().call_later(0.05, hold.set)

    await digest.wait_for_thread()

    assert done == [True]
