"""The store against a scripted server that misbehaves."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from urllib.parse import quote, unquote_to_bytes

import pytest

from s3s3.errors import (
    AccessDenied,
    IntegrityError,
    InvalidKey,
    LeaseLost,
    NoSuchBucket,
    StoreRefused,
    StoreUnavailable,
    TooLarge,
)
from s3s3.s3 import ObjectStream, PutResult, Store, Timeouts
from tests.s3.loops import event_loop_policy  # noqa: F401
from tests.s3.raw_server import DATE, RawServer, Talk, answer, error, eventually, says

ODD_KEYS = [
    "a//b",
    "/leading",
    "//",
    "..",
    ".",
    "../x",
    "a/../b",
    "a/./b",
    "100%",
    "%2F",
    "a+b",
    "a b",
    "a\nb",
    "a\tb",
    "😀/ü",
    "a?b=c",
    "a#b",
    "a;b",
    "\x01\x7f",
    "\ufffe",
    "trailing/",
    "~-._",
    "a\\b",
    "é" * 512,
    "e\u0301",
]


async def put(
    store: Store, body: bytes | Callable[[], AsyncIterator[bytes]] = b"content", key: str = "key", **options: Any
) -> PutResult:
    if isinstance(body, bytes):
        options = {"size_bytes": len(body), "md5": hashlib.md5(body).digest(), **options}
    return await store.put(key, body, **{"size_bytes": 7, "md5": b"m" * 16, "headers": {}, **options})


async def cut_off(talk: Talk) -> None:
    """Read the request, then go without a word."""
    await talk.read_body()
    await talk.close()


async def reset(talk: Talk) -> None:
    await talk.read_body()
    await talk.reset()


async def keep_silent(talk: Talk) -> None:
    await asyncio.sleep(3600)


def in_chunks(*chunks: bytes, then: Exception | None = None) -> Callable[[], AsyncIterator[bytes]]:
    async def body() -> AsyncIterator[bytes]:
        for chunk in chunks:
            yield chunk
            await asyncio.sleep(0.01)
        if then is not None:
            raise then

    return body


@pytest.mark.parametrize("path_style", [True, False], ids=["path style", "virtual host"])
async def test_every_kind_of_key_goes_out_exactly_percent_encoded(path_style: bool) -> None:
    async with RawServer([says(answer())]) as server:
        host = "127.0.0.1" if path_style else "localhost"
        base = b"/bucket/" if path_style else b"/"
        endpoint = {"path_style": path_style, "host": host, "bucket_name": "bucket"}
        async with server.store(endpoint=endpoint) as store:
            store._requester._pool._host = "127.0.0.1"  # not every resolver knows bucket.localhost
            for key in ODD_KEYS:
                await store.fetch(key, 0)
                await put(store, key=key)
        targets = [talk.target for talk in server.talks]
        assert targets == [base + quote(key, safe="/-._~").encode() for key in ODD_KEYS for _ in ("GET", "PUT")]
        assert all(unquote_to_bytes(target[len(base) :]).decode() in ODD_KEYS for target in targets)
        expected = f"{'' if path_style else 'bucket.'}{host}:{server.port}".encode()
        assert {talk.headers["host"] for talk in server.talks} == {expected}


@pytest.mark.parametrize("key", ["", "x" * 1025, "é" * 513, "\ud800"])
async def test_what_is_no_key_is_refused_before_anything_is_sent(key: str) -> None:
    async with RawServer([says(answer())]) as server, server.store() as store:
        for operation in (store.get(key), store.head(key), store.delete(key), put(store, key=key)):
            with pytest.raises(InvalidKey):
                await operation
    assert server.connections == 0


async def test_a_destinations_prefix_replaces_the_sources() -> None:
    async with RawServer([says(answer())]) as server:
        async with server.store(endpoint={"prefix": "copies/"}, source_prefix="originals/") as store:
            async with await store.get("originals/a") as reading:
                assert reading.info.key == "originals/a"
            with pytest.raises(InvalidKey, match="not under the route's prefix"):
                await store.get("elsewhere/a")
            with pytest.raises(InvalidKey):
                await store.delete("")
        async with server.store(endpoint={"prefix": ""}, source_prefix="originals/") as store:
            with pytest.raises(InvalidKey, match="empty key"):  # it would be the bucket
                await store.delete("originals/")
    assert [talk.target for talk in server.talks] == [b"/bucket/copies/a"]


async def test_only_the_headers_that_are_needed_are_sent() -> None:
    async with RawServer([says(answer())]) as server, server.store() as store:
        await store.fetch("key", 0)
        await store.head("key")
        await store.delete("key")
        await put(store, b"content")
    sent = [set(talk.headers) for talk in server.talks]
    signed = {"host", "date", "authorization"}
    assert sent == [signed | {"accept-encoding"}, signed, signed, signed | {"content-length", "content-md5"}]
    assert server.talks[0].headers["accept-encoding"] == b"identity"
    assert server.talks[3].headers["content-md5"] == b"mgNkuembtIDdJeHwKEyFVQ=="


async def test_headers_arrive_as_the_bytes_they_came_as() -> None:
    described: dict[str, Any] = {
        "content_type": "text/plain; charset=x",
        "content_encoding": "gzip",
        "cache_control": "no-cache",
        "expires": "soon",
        "content_language": "de",
        "content_disposition": 'attachment; filename="a b"',
        "x_amz_meta_one": "\udcff\udc80 raw",
        "x_amz_meta_s3s3_source_etag": "abc-2",
        "x_amz_storage_class": "STANDARD",
        "server": "raw",
        "etag": '"9a0364b9e99bb480dd25e1f0284c8555"',
        "last_modified": DATE,
    }
    scripts = [says(answer(body=b"content", **described)), says(answer())]
    async with RawServer(scripts) as server, server.store() as store:
        reading = await store.get("key")
        await put(store, await reading.body(), headers=reading.info.headers)
    assert reading.info.recorded_etag == "abc-2"
    assert set(reading.info.headers) == {
        *("content-type", "content-encoding", "cache-control", "expires", "content-language", "content-disposition"),
        "x-amz-meta-one",
    }
    assert (reading.info.size_bytes, reading.info.etag) == (7, "9a0364b9e99bb480dd25e1f0284c8555")
    assert reading.info.modified_ms == 1_791_234_567_000
    sent = server.talks[1].headers
    assert sent["x-amz-meta-one"] == b"\xff\x80 raw"
    assert sent["content-encoding"] == b"gzip"
    assert server.talks[1].body == b"content"


@pytest.mark.parametrize("value", ["a\r\nx-amz-acl: public-read", "a\nb", "a\rb", "a\0b"])
async def test_a_header_cannot_begin_another(value: str) -> None:
    async with RawServer([says(answer())]) as server, server.store() as store:
        with pytest.raises(StoreRefused, match="line break"):
            await put(store, headers={"x-amz-meta-a": value})
    assert server.talks == []


async def test_what_the_endpoint_wants_for_new_objects_is_sent() -> None:
    wanted = {"storage_class": "COLD", "acl": "public-read", "server_side_encryption": "AES256"}
    async with RawServer([says(answer())]) as server, server.store(endpoint=wanted) as store:
        await put(store)
    headers = server.talks[0].headers
    assert headers["x-amz-storage-class"] == b"COLD"
    assert headers["x-amz-acl"] == b"public-read"
    assert headers["x-amz-server-side-encryption"] == b"AES256"


async def test_connections_are_kept_and_shared_up_to_the_limit() -> None:
    async with RawServer([says(answer(body=b"x" * 100))]) as server, server.store(connections=3) as store:
        for _ in range(3):
            await asyncio.gather(*(store.fetch(f"key{n}", 1000) for n in range(20)))
    assert len(server.talks) == 60
    assert server.connections == 3


async def test_a_cancelled_request_gives_its_place_to_the_next() -> None:
    async with RawServer([keep_silent, says(answer())]) as server, server.store(connections=1) as store:
        first = asyncio.create_task(store.fetch("a", 10))
        await asyncio.sleep(0.05)
        waiting = asyncio.create_task(store.fetch("b", 10))
        also_waiting = asyncio.create_task(store.fetch("c", 10))
        await asyncio.sleep(0.05)
        waiting.cancel()
        first.cancel()
        await asyncio.wait_for(also_waiting, 5)
        await asyncio.wait_for(store.fetch("d", 10), 5)


async def test_a_closed_kept_connection_costs_no_attempt_and_no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    async def answer_and_go(talk: Talk) -> None:
        talk.say(answer(body=b"x"))
        await talk.writer.drain()
        await talk.reader.readuntil(b"\r\n\r\n")  # the next request comes in before the connection goes
        await talk.close()

    monkeypatch.setattr("s3s3.s3.request.INITIAL_BACKOFF_S", 1000)
    async with RawServer([answer_and_go, says(answer(body=b"y"))]) as server, server.store(connections=1) as store:
        assert (await store.fetch("a", 10))[1] == b"x"
        assert (await store.fetch("b", 10))[1] == b"y"
    assert server.connections == 2


@pytest.mark.parametrize("missing", [1, 5, 7])
async def test_a_short_body_is_tried_again_and_never_taken_for_whole(missing: int) -> None:
    async def cut_short(talk: Talk) -> None:
        talk.say(answer(body=b"content")[:-missing])
        await talk.close()

    async with RawServer([cut_short, cut_short, says(answer(body=b"content"))]) as server, server.store() as store:
        assert (await store.fetch("key", 100))[1] == b"content"
    async with RawServer([cut_short]) as server, server.store() as store:
        with pytest.raises(IntegrityError, match="ended early; 7 bytes were announced"):
            await store.fetch("key", 100)
        assert len(server.talks) == 3
        reading = await store.get("key")
        with pytest.raises(IntegrityError):
            await reading.body()
        reading = await store.get("key")
        with pytest.raises(IntegrityError):
            async for _ in reading.chunks(2):
                pass


async def test_more_bytes_than_were_announced_are_an_error() -> None:
    async with RawServer([says(answer(body=b"content", content_length="5"))]) as server, server.store() as store:
        with pytest.raises(StoreUnavailable, match="more bytes than the response announced"):
            await store.fetch("key", 100)


async def test_a_reset_in_the_body_is_tried_again() -> None:
    async def break_off(talk: Talk) -> None:
        talk.say(answer(body=b"content")[:-3])
        await talk.writer.drain()
        await asyncio.sleep(0.05)
        await talk.reset()

    async with RawServer([break_off, says(answer(body=b"content"))]) as server, server.store() as store:
        assert (await store.fetch("key", 100))[1] == b"content"
    async with RawServer([break_off]) as server, server.store() as store:
        reading = await store.get("key")
        with pytest.raises(StoreUnavailable, match="lost"):
            await reading.body()


async def test_an_object_above_the_limit_is_handed_out_unread() -> None:
    async with RawServer([says(answer(body=b"x" * 1_000_000))]) as server, server.store(connections=1) as store:
        reading, body = await store.fetch("key", 999_999)
        assert body is None
        assert b"".join([chunk async for chunk in reading.chunks(70_000)]) == b"x" * 1_000_000
        reading, body = await store.fetch("key", 1_000_000)
        assert body == b"x" * 1_000_000
        assert server.connections == 1


async def test_a_reading_closed_unread_costs_its_connection_only() -> None:
    async with RawServer([says(answer(body=b"x" * 1_000_000))]) as server, server.store(connections=1) as store:
        for _ in range(3):
            async with await store.get("key"):
                pass
        reading = await store.get("key")
        await reading.close()
        with pytest.raises(StoreUnavailable, match="closed before its end"):
            await reading.body()
    assert server.connections == len(server.talks) == 4


async def test_a_slow_reader_holds_the_store_back() -> None:
    sent = 0

    async def pour(talk: Talk) -> None:
        nonlocal sent
        size = 64 * 1024 * 1024
        talk.say(answer(content_length=str(size)))
        for _ in range(size // 65536):
            talk.say(b"x" * 65536)
            await talk.writer.drain()
            sent += 65536

    async with RawServer([pour]) as server, server.store() as store:
        reading = await store.get("key")
        await asyncio.sleep(0.3)
        assert sent < 16 * 1024 * 1024
        size = 0
        async for chunk in reading.chunks(262_144):
            size += len(chunk)
            assert len(chunk) < 2 * 1024 * 1024
        assert size == 64 * 1024 * 1024


async def test_an_object_without_a_length_is_refused() -> None:
    async def say_chunks(talk: Talk) -> None:
        talk.say(answer(content_length=None, transfer_encoding="chunked") + b"3\r\nabc\r\n0\r\n\r\n")

    async with RawServer([say_chunks]) as server, server.store() as store:
        with pytest.raises(StoreRefused, match="has no Content-Length"):
            await store.get("key")


async def test_a_404_to_a_head_is_none() -> None:
    scripts = [says(answer(404)), says(answer(content_length="5", etag='"a"'))]
    async with RawServer(scripts) as server, server.store() as store:
        assert await store.head("key") is None
        described = await store.head("key")
        assert described is not None
        assert (described.size_bytes, described.etag) == (5, "a")
    assert server.connections == 1


@pytest.mark.parametrize(
    ("headers", "is_encrypted"),
    [
        ({}, False),
        ({"x_amz_server_side_encryption": "AES256"}, False),
        ({"x_amz_server_side_encryption": "aws:kms"}, True),
        ({"x_amz_server_side_encryption": "aws:kms:dsse"}, True),
        ({"x_amz_server_side_encryption_customer_algorithm": "AES256"}, True),
    ],
)
async def test_the_encryption_header_tells_that_an_etag_is_no_md5(headers: dict[str, Any], is_encrypted: bool) -> None:
    async with RawServer([says(answer(**headers))]) as server, server.store() as store:
        described = await store.head("key")
        assert described is not None
        assert (
            described.encrypted
            is (await store.get("key")).info.encrypted
            is (await put(store)).encrypted
            is is_encrypted
        )


# writes


async def test_a_failed_put_is_sent_again_and_says_that_one_was_unanswered() -> None:
    async with RawServer([cut_off, says(answer(etag='"e"'))]) as server, server.store() as store:
        assert await put(store) == PutResult("e", encrypted=False, indeterminate=True)
        assert await put(store) == PutResult("e", encrypted=False, indeterminate=False)
    assert [talk.body for talk in server.talks] == [b"content"] * 3


@pytest.mark.parametrize("misbehave", [cut_off, reset])
async def test_a_write_that_never_gets_an_answer_is_unanswered(misbehave: Callable[[Talk], Awaitable[Any]]) -> None:
    async with RawServer([misbehave]) as server, server.store() as store:
        for operation in (put(store), store.delete("key"), put(store, body=in_chunks(b"content"))):
            with pytest.raises(StoreUnavailable) as caught:
                await operation
            assert caught.value.indeterminate
    assert len(server.talks) == 7  # a streamed body is sent once


async def test_reading_is_never_unanswered() -> None:
    async with RawServer([cut_off]) as server, server.store() as store:
        for operation in (store.get("key"), store.head("key")):
            with pytest.raises(StoreUnavailable) as caught:
                await operation
            assert not caught.value.indeterminate


async def test_a_write_that_was_never_sent_is_not_unanswered() -> None:
    async with RawServer([cut_off]) as server:
        store = server.store()
    async with store:
        with pytest.raises(StoreUnavailable, match=f"nothing listens on 127.0.0.1:{server.port}") as caught:
            await put(store)
        assert not caught.value.indeterminate


@pytest.mark.parametrize(("status", "indeterminate"), [(500, True), (502, True), (504, True), (503, False)])
async def test_an_answer_that_a_gateway_made_up_leaves_a_write_unanswered(status: int, indeterminate: bool) -> None:
    async with RawServer([says(answer(status))]) as server, server.store() as store:
        with pytest.raises(StoreUnavailable) as caught:
            await put(store)
        assert caught.value.indeterminate is indeterminate
    assert len(server.talks) == 3


async def test_a_refusal_does_not_forget_that_an_earlier_attempt_was_unanswered() -> None:
    async with RawServer([cut_off, says(error(403, "AccessDenied"))]) as server, server.store() as store:
        with pytest.raises(AccessDenied) as caught:
            await put(store)
        assert caught.value.indeterminate


async def test_the_permit_is_asked_before_every_attempt() -> None:
    asked = 0

    def check_lease() -> None:
        nonlocal asked
        asked += 1
        if asked == 2:
            raise LeaseLost

    for operation in ("put", "delete"):
        async with RawServer([cut_off]) as server, server.store() as store:
            asked = 0
            with pytest.raises(LeaseLost):
                await (
                    put(store, check_lease=check_lease)
                    if operation == "put"
                    else store.delete("key", check_lease=check_lease)
                )
        assert len(server.talks) == 1


async def test_the_permit_is_asked_only_when_the_request_can_go_out_at_once() -> None:
    asked: list[str] = []
    async with RawServer([keep_silent, says(answer())]) as server, server.store(connections=1) as store:
        blocking = asyncio.create_task(store.fetch("a", 10))
        await asyncio.sleep(0.05)
        waiting = asyncio.create_task(put(store, check_lease=lambda: asked.append("asked")))
        await asyncio.sleep(0.05)
        assert asked == []
        blocking.cancel()
        await waiting
        assert asked == ["asked"]
    assert len(server.talks) == 2


async def test_a_delete_of_what_is_not_there_is_done() -> None:
    async with RawServer([says(answer(204)), says(error(404, "NoSuchKey"))]) as server, server.store() as store:
        await store.delete("key")
        await store.delete("key")
    async with RawServer([says(error(404, "NoSuchBucket"))]) as server, server.store() as store:
        with pytest.raises(NoSuchBucket):
            await store.delete("key")


@pytest.mark.parametrize("etag", ['"abc"', "abc", "&quot;abc&quot;", "&#34;abc&#34;\n"])
async def test_a_copy_within_the_store_tells_its_etag(etag: str) -> None:
    said = f"<CopyObjectResult><ETag>{etag}</ETag></CopyObjectResult>".encode()
    async with RawServer([says(answer(body=said))]) as server, server.store() as store:
        assert (await store.copy("a/key +%", "bucket", etag="e")).etag == "abc"
    sent = server.talks[0].headers
    assert sent["x-amz-copy-source"] == b"/bucket/a/key%20%2B%25"
    assert sent["x-amz-copy-source-if-match"] == b'"e"'
    assert "x-amz-metadata-directive" not in sent


async def test_a_copy_within_the_store_whose_200_holds_an_error_has_failed() -> None:
    async with RawServer([says(error(200, "NoSuchBucket"))]) as server, server.store() as store:
        with pytest.raises(NoSuchBucket):
            await store.copy("key", "bucket", etag="e")


async def test_a_200_with_an_error_in_it_is_that_error() -> None:
    scripts = [says(error(200, "InternalError")), says(answer(etag='"e"'))]
    async with RawServer(scripts) as server, server.store() as store:
        assert (await put(store)).etag == "e"
    async with RawServer([says(error(200, "EntityTooLarge"))]) as server, server.store() as store:
        with pytest.raises(TooLarge):
            await put(store)


async def test_a_streamed_body_arrives_whole() -> None:
    chunks = [bytes([n]) * 300_000 for n in range(20)] + [b"", b"end"]
    whole = b"".join(chunks)
    async with RawServer([says(answer(etag='"e"'))]) as server, server.store() as store:
        written = await put(store, body=in_chunks(*chunks), size_bytes=len(whole))
        assert written == PutResult("e", encrypted=False, indeterminate=False)
        await put(store, body=in_chunks(), size_bytes=0)
    assert server.talks[0].body == whole
    assert "transfer-encoding" not in server.talks[0].headers
    assert server.talks[1].body == b""
    assert server.connections == 1


@pytest.mark.parametrize(
    "chunks", [(b"12345", b"67890"), (b"1234567890",), (b"x",), ()], ids=["whole", "one", "short", "nothing"]
)
async def test_an_iterator_that_raises_keeps_the_body_from_being_complete(chunks: tuple[bytes, ...]) -> None:
    """Also where it raises only after its last chunk: an MD5 that differs is known no earlier."""
    async with RawServer([says(answer())]) as server, server.store() as store:
        for lost in (LeaseLost(), IntegrityError("the MD5 differs")):
            with pytest.raises(type(lost)) as caught:
                await put(store, body=in_chunks(*chunks, then=lost), size_bytes=10)
            assert caught.value is lost
        await eventually(lambda: server.connections == 2 and all(talk.broke_off for talk in server.talks))
        assert all(len(talk.body) < 10 for talk in server.talks)
        await put(store)  # the store still works


@pytest.mark.parametrize("size_bytes", [6, 8])
async def test_a_streamed_body_of_another_length_than_promised_is_damaged(size_bytes: int) -> None:
    async with RawServer([says(answer())]) as server, server.store() as store:
        with pytest.raises(IntegrityError) as caught:
            await put(store, body=in_chunks(b"cont", b"ent"), size_bytes=size_bytes)
        await eventually(lambda: server.talks[0].broke_off)
        assert not caught.value.indeterminate


@pytest.mark.parametrize("goes", [True, False])
async def test_an_answer_before_the_body_ends_wins(goes: bool) -> None:
    async def refuse_at_once(talk: Talk) -> None:
        talk.say(error(403, "AccessDenied", "not here"))
        await talk.writer.drain()
        if goes:
            talk.writer.write_eof()

    taken = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal taken
        while True:
            taken += 1
            yield b"x" * 65536
            await asyncio.sleep(0.002)

    async with RawServer([refuse_at_once]) as server, server.store() as store:
        with pytest.raises(AccessDenied, match="not here") as caught:
            await put(store, body=endless, size_bytes=1024**4)
        assert not caught.value.indeterminate
        assert taken < 200
        server._scripts[0] = says(answer(etag='"e"'))
        assert (await asyncio.wait_for(put(store), 5)).etag == "e"  # on another connection
        assert server.connections == len(server.talks) == 2


async def test_a_200_before_the_body_ends_is_no_success() -> None:
    async def praise_at_once(talk: Talk) -> None:
        talk.say(answer(etag='"e"'))
        await talk.writer.drain()

    async with RawServer([praise_at_once]) as server, server.store() as store:
        with pytest.raises(StoreUnavailable, match="reported success before it had the whole body") as caught:
            await put(store, body=in_chunks(*[b"x" * 65536] * 100), size_bytes=6_553_600)
        assert caught.value.indeterminate


async def test_the_iterator_is_closed_when_the_store_no_longer_wants_it() -> None:
    closed = False

    async def body() -> AsyncIterator[bytes]:
        nonlocal closed
        try:
            while True:
                yield b"x" * 65536
                await asyncio.sleep(0.001)
        finally:
            closed = True

    async def refuse(talk: Talk) -> None:
        talk.say(error(403, "AccessDenied"))

    async with RawServer([refuse]) as server, server.store() as store:
        with pytest.raises(AccessDenied):
            await put(store, body=body, size_bytes=1024**3)
        assert closed


async def test_an_interim_answer_is_not_the_answer() -> None:
    interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nlink: x\r\n\r\n"
    async with RawServer([says(interim + answer(etag='"e"'))]) as server, server.store() as store:
        assert (await put(store)).etag == "e"


async def test_a_connection_that_the_store_closes_is_not_used_again() -> None:
    async with RawServer([says(answer(body=b"x", connection="close"))]) as server, server.store() as store:
        for _ in range(3):
            await store.fetch("key", 10)
    assert server.connections == 3


# time


async def test_a_silent_store_is_given_up() -> None:
    quick = Timeouts(connect_s=1, read_s=0.2, write_s=0.2)
    async with RawServer([keep_silent]) as server, server.store(timeouts=quick) as store:
        with pytest.raises(StoreUnavailable, match="did not answer in time") as caught:
            await asyncio.wait_for(store.get("key"), 5)
        assert not caught.value.indeterminate
        with pytest.raises(StoreUnavailable) as caught:
            await asyncio.wait_for(put(store), 5)
        assert caught.value.indeterminate


async def test_a_slow_store_is_waited_for_while_bytes_move() -> None:
    async def drip(talk: Talk) -> None:
        talk.say(answer(content_length="8"))
        for _ in range(8):
            await asyncio.sleep(0.2)
            talk.say(b"x")

    async with RawServer([drip]) as server, server.store(timeouts=Timeouts(read_s=1.2)) as store:
        assert (await store.fetch("key", 10))[1] == b"x" * 8


async def test_a_slow_upload_is_waited_for_while_bytes_move() -> None:
    async def read_slowly(talk: Talk) -> None:
        for _ in range(32):
            await talk.reader.readexactly(500_000)
            await asyncio.sleep(0.1)
        talk.say(answer(etag='"e"'))
        await talk.close()

    body = b"x" * 16_000_000
    async with RawServer([read_slowly]) as server, server.store(timeouts=Timeouts(read_s=2)) as store:
        started = asyncio.get_running_loop().time()
        assert (await put(store, body)).etag == "e"
        assert asyncio.get_running_loop().time() - started > 3
    assert len(server.talks) == 1


async def test_a_put_in_memory_ends_in_time_even_while_bytes_move() -> None:
    async def drip(talk: Talk) -> None:
        for byte in answer():
            await asyncio.sleep(0.05)
            talk.say(bytes([byte]))

    async with RawServer([drip]) as server, server.store(timeouts=Timeouts(read_s=5, write_s=0.3)) as store:
        with pytest.raises(StoreUnavailable, match="in time"):
            await asyncio.wait_for(put(store), 5)


async def test_a_source_that_takes_its_time_is_not_the_destinations_fault() -> None:
    async def slow() -> AsyncIterator[bytes]:
        yield b"cont"
        await asyncio.sleep(1.5)
        yield b"ent"

    async with RawServer([says(answer(etag='"e"'))]) as server, server.store(timeouts=Timeouts(read_s=0.8)) as store:
        assert (await put(store, body=slow)).etag == "e"


async def test_a_destination_that_takes_nothing_is_given_up() -> None:
    async def take_nothing(talk: Talk) -> None:
        talk.writer.transport.pause_reading()  # type: ignore[attr-defined]  # a socket's reads, too
        await asyncio.sleep(3600)

    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b"x" * 1_000_000

    async with RawServer([take_nothing]) as server, server.store(timeouts=Timeouts(read_s=0.3)) as store:
        with pytest.raises(StoreUnavailable, match="in time"):
            await asyncio.wait_for(put(store, body=endless, size_bytes=1024**4), 20)


async def test_the_stores_clock_is_learned_from_its_answers() -> None:
    async with RawServer([says(answer())]) as server, server.store() as store:
        await store.get("key")
        assert 0 <= store.source_time_ms() - 1_791_234_567_000 < 2000


# what is left behind


async def test_nothing_is_left_open_by_a_store_that_was_closed() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        async with RawServer([says(answer(body=b"x" * 1_000_000))]) as server:
            async with server.store() as store:
                reading = await store.get("key")
                assert isinstance(reading, ObjectStream)
                await store.fetch("key", 10_000_000)
            with pytest.raises(StoreUnavailable):
                await reading.body()
        del store, reading
        gc.collect()
