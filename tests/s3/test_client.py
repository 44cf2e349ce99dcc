"""The S3 client with a scripted server."""

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
from tests.s3.raw_server import DATE, RawServer, ReceivedRequest, error_response, eventually, respond, response

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


#: What `put` announces for a stream, whatever its content is.
MD5 = hashlib.md5(b"content").hexdigest()


async def put(
    store: Store, body: bytes | Callable[[], AsyncIterator[bytes]] = b"content", key: str = "key", **options: Any
) -> PutResult:
    if isinstance(body, bytes):
        options = {"size_bytes": len(body), "md5": hashlib.md5(body).digest(), **options}
    return await store.put(key, body, **{"size_bytes": 7, "md5": bytes.fromhex(MD5), "headers": {}, **options})


async def cut_off(received: ReceivedRequest) -> None:
    """Read the request, then close without a response."""
    await received.read_body()
    await received.close()


async def reset(received: ReceivedRequest) -> None:
    await received.read_body()
    await received.reset()


async def keep_silent(received: ReceivedRequest) -> None:
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
async def test_every_kind_of_key_is_sent_percent_encoded(path_style: bool) -> None:
    async with RawServer([respond(response())]) as server:
        host = "127.0.0.1" if path_style else "localhost"
        base = b"/bucket/" if path_style else b"/"
        endpoint = {"path_style": path_style, "host": host, "bucket_name": "bucket"}
        async with server.store(endpoint=endpoint) as store:
            store._requester._pool._host = "127.0.0.1"  # not every resolver knows bucket.localhost
            for key in ODD_KEYS:
                await store.fetch(key, 0)
                await put(store, key=key)
        targets = [received.target for received in server.requests]
        assert targets == [base + quote(key, safe="/-._~").encode() for key in ODD_KEYS for _ in ("GET", "PUT")]
        assert all(unquote_to_bytes(target[len(base) :]).decode() in ODD_KEYS for target in targets)
        expected = f"{'' if path_style else 'bucket.'}{host}:{server.port}".encode()
        assert {received.headers["host"] for received in server.requests} == {expected}


@pytest.mark.parametrize("key", ["", "x" * 1025, "é" * 513, "\ud800"])
async def test_an_invalid_key_is_refused_before_anything_is_sent(key: str) -> None:
    async with RawServer([respond(response())]) as server, server.store() as store:
        for operation in (store.get(key), store.head(key), store.delete(key), put(store, key=key)):
            with pytest.raises(InvalidKey):
                await operation
    assert server.connections == 0


async def test_the_prefix_of_a_destination_replaces_that_of_the_source() -> None:
    async with RawServer([respond(response())]) as server:
        async with server.store(endpoint={"prefix": "copies/"}, source_prefix="originals/") as store:
            async with await store.get("originals/a") as reading:
                assert reading.info.key == "originals/a"
            with pytest.raises(InvalidKey, match="not under the route's prefix"):
                await store.get("elsewhere/a")
            with pytest.raises(InvalidKey):
                await store.delete("")
        async with server.store(endpoint={"prefix": ""}, source_prefix="originals/") as store:
            with pytest.raises(InvalidKey, match="empty key"):  # it would address the bucket
                await store.delete("originals/")
    assert [received.target for received in server.requests] == [b"/bucket/copies/a"]


async def test_only_necessary_headers_are_sent() -> None:
    async with RawServer([respond(response())]) as server, server.store() as store:
        await store.fetch("key", 0)
        await store.head("key")
        await store.delete("key")
        await put(store, b"content")
    sent = [set(received.headers) for received in server.requests]
    signed = {"host", "date", "authorization"}
    assert sent == [signed | {"accept-encoding"}, signed, signed, signed | {"content-length", "content-md5"}]
    assert server.requests[0].headers["accept-encoding"] == b"identity"
    assert server.requests[3].headers["content-md5"] == b"mgNkuembtIDdJeHwKEyFVQ=="


async def test_header_bytes_are_preserved() -> None:
    described: dict[str, Any] = {
        "content_type": "text/plain; charset=x",
        "content_encoding": "gzip",
        "cache_control": "no-cache",
        "expires": "soon",
        "content_language": "de",
        "content_disposition": 'attachment; filename="a b"',
        "x_amz_meta_one": "\udcff\udc80 raw",
        "x_amz_meta_s3s3_source_etag": "abc-2",
        "x_amz_meta_s3s3_source_headers": "0123",
        "x_amz_storage_class": "STANDARD",
        "server": "raw",
        "etag": '"9a0364b9e99bb480dd25e1f0284c8555"',
        "last_modified": DATE,
    }
    scripts = [respond(response(body=b"content", **described)), respond(response())]
    async with RawServer(scripts) as server, server.store() as store:
        reading = await store.get("key")
        await put(store, await reading.body(), headers=reading.info.headers)
    assert (reading.info.recorded_etag, reading.info.recorded_headers) == ("abc-2", "0123")
    assert reading.info.records == {
        "x-amz-meta-s3s3-source-etag": "abc-2", "x-amz-meta-s3s3-source-headers": "0123",
    }  # fmt: skip
    assert set(reading.info.headers) == {
        *("content-type", "content-encoding", "cache-control", "expires", "content-language", "content-disposition"),
        "x-amz-meta-one",
    }
    assert (reading.info.size_bytes, reading.info.etag) == (7, "9a0364b9e99bb480dd25e1f0284c8555")
    assert reading.info.modified_ms == 1_791_234_567_000
    sent = server.requests[1].headers
    assert sent["x-amz-meta-one"] == b"\xff\x80 raw"
    assert sent["content-encoding"] == b"gzip"
    assert server.requests[1].body == b"content"


@pytest.mark.parametrize("value", ["a\r\nx-amz-acl: public-read", "a\nb", "a\rb", "a\0b"])
async def test_a_header_value_with_a_line_break_is_refused(value: str) -> None:
    async with RawServer([respond(response())]) as server, server.store() as store:
        with pytest.raises(StoreRefused, match="line break"):
            await put(store, headers={"x-amz-meta-a": value})
    assert server.requests == []


async def test_the_settings_of_an_endpoint_for_new_objects_are_sent() -> None:
    wanted = {"storage_class": "COLD", "acl": "public-read", "server_side_encryption": "AES256"}
    async with RawServer([respond(response())]) as server, server.store(endpoint=wanted) as store:
        await put(store)
    headers = server.requests[0].headers
    assert headers["x-amz-storage-class"] == b"COLD"
    assert headers["x-amz-acl"] == b"public-read"
    assert headers["x-amz-server-side-encryption"] == b"AES256"


async def test_connections_are_reused_up_to_the_limit() -> None:
    async with RawServer([respond(response(body=b"x" * 100))]) as server, server.store(connections=3) as store:
        for _ in range(3):
            await asyncio.gather(*(store.fetch(f"key{n}", 1000) for n in range(20)))
    assert len(server.requests) == 60
    assert server.connections == 3


async def test_a_cancelled_request_releases_its_slot() -> None:
    async with RawServer([keep_silent, respond(response())]) as server, server.store(connections=1) as store:
        first = asyncio.create_task(store.fetch("a", 10))
        await asyncio.sleep(0.05)
        waiting = asyncio.create_task(store.fetch("b", 10))
        also_waiting = asyncio.create_task(store.fetch("c", 10))
        await asyncio.sleep(0.05)
        waiting.cancel()
        first.cancel()
        await asyncio.wait_for(also_waiting, 5)
        await asyncio.wait_for(store.fetch("d", 10), 5)


async def test_a_stale_connection_is_replaced_without_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    async def answer_and_go(received: ReceivedRequest) -> None:
        received.write(response(body=b"x"))
        await received.writer.drain()
        await received.reader.readuntil(b"\r\n\r\n")  # close only after the next request
        await received.close()

    monkeypatch.setattr("s3s3.s3.request.INITIAL_BACKOFF_S", 1000)
    async with RawServer([answer_and_go, respond(response(body=b"y"))]) as server, server.store(connections=1) as store:
        assert (await store.fetch("a", 10))[1] == b"x"
        assert (await store.fetch("b", 10))[1] == b"y"
    assert server.connections == 2


@pytest.mark.parametrize("missing", [1, 5, 7])
async def test_a_truncated_body_is_read_again_and_never_accepted(missing: int) -> None:
    async def cut_short(received: ReceivedRequest) -> None:
        received.write(response(body=b"content")[:-missing])
        await received.close()

    async with RawServer([cut_short, cut_short, respond(response(body=b"content"))]) as server, server.store() as store:
        assert (await store.fetch("key", 100))[1] == b"content"
    async with RawServer([cut_short]) as server, server.store() as store:
        with pytest.raises(IntegrityError, match="ended early; 7 bytes were announced"):
            await store.fetch("key", 100)
        assert len(server.requests) == 3
        reading = await store.get("key")
        with pytest.raises(IntegrityError):
            await reading.body()
        reading = await store.get("key")
        with pytest.raises(IntegrityError):
            async for _ in reading.chunks(2):
                pass


async def test_more_bytes_than_announced_are_an_error() -> None:
    async with RawServer([respond(response(body=b"content", content_length="5"))]) as server, server.store() as store:
        with pytest.raises(StoreUnavailable, match="more bytes than the response announced"):
            await store.fetch("key", 100)


async def test_a_body_is_read_again_after_a_reset() -> None:
    async def break_off(received: ReceivedRequest) -> None:
        received.write(response(body=b"content")[:-3])
        await received.writer.drain()
        await asyncio.sleep(0.05)
        await received.reset()

    async with RawServer([break_off, respond(response(body=b"content"))]) as server, server.store() as store:
        assert (await store.fetch("key", 100))[1] == b"content"
    async with RawServer([break_off]) as server, server.store() as store:
        reading = await store.get("key")
        with pytest.raises(StoreUnavailable, match="lost"):
            await reading.body()


async def test_an_object_above_the_limit_is_returned_unread() -> None:
    async with RawServer([respond(response(body=b"x" * 1_000_000))]) as server, server.store(connections=1) as store:
        reading, body = await store.fetch("key", 999_999)
        assert body is None
        assert b"".join([chunk async for chunk in reading.chunks(70_000)]) == b"x" * 1_000_000
        reading, body = await store.fetch("key", 1_000_000)
        assert body == b"x" * 1_000_000
        assert server.connections == 1


async def test_closing_an_unread_stream_closes_only_its_connection() -> None:
    async with RawServer([respond(response(body=b"x" * 1_000_000))]) as server, server.store(connections=1) as store:
        for _ in range(3):
            async with await store.get("key"):
                pass
        reading = await store.get("key")
        await reading.close()
        with pytest.raises(StoreUnavailable, match="closed before its end"):
            await reading.body()
    assert server.connections == len(server.requests) == 4


async def test_a_slow_reader_applies_backpressure() -> None:
    sent = 0

    async def pour(received: ReceivedRequest) -> None:
        nonlocal sent
        size = 64 * 1024 * 1024
        received.write(response(content_length=str(size)))
        for _ in range(size // 65536):
            received.write(b"x" * 65536)
            await received.writer.drain()
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
    async def say_chunks(received: ReceivedRequest) -> None:
        received.write(response(content_length=None, transfer_encoding="chunked") + b"3\r\nabc\r\n0\r\n\r\n")

    async with RawServer([say_chunks]) as server, server.store() as store:
        with pytest.raises(StoreRefused, match="has no Content-Length"):
            await store.get("key")


async def test_head_returns_none_on_404() -> None:
    scripts = [respond(response(404)), respond(response(content_length="5", etag='"a"', x_amz_request_id="1"))]
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
async def test_an_encryption_header_marks_the_etag_as_not_an_md5(headers: dict[str, Any], is_encrypted: bool) -> None:
    async with RawServer([respond(response(etag=f'"{MD5}"', **headers))]) as server, server.store() as store:
        described = await store.head("key")
        assert described is not None
        assert (
            described.encrypted
            is (await store.get("key")).info.encrypted
            is (await put(store, b"", size_bytes=0)).encrypted
            is is_encrypted
        )


# writes


async def test_a_put_is_repeated_and_reports_the_attempt_without_a_response() -> None:
    async with RawServer([cut_off, respond(response())]) as server, server.store() as store:
        assert await put(store) == PutResult(MD5, encrypted=False, indeterminate=True)
        assert await put(store) == PutResult(MD5, encrypted=False, indeterminate=False)
    assert [received.body for received in server.requests] == [b"content"] * 3


@pytest.mark.parametrize("misbehave", [cut_off, reset])
async def test_a_write_without_a_response_is_indeterminate(
    misbehave: Callable[[ReceivedRequest], Awaitable[Any]],
) -> None:
    async with RawServer([misbehave]) as server, server.store() as store:
        for operation in (put(store), store.delete("key"), put(store, body=in_chunks(b"content"))):
            with pytest.raises(StoreUnavailable) as caught:
                await operation
            assert caught.value.indeterminate
    assert len(server.requests) == 7  # a streamed body is sent once


async def test_a_read_is_never_indeterminate() -> None:
    async with RawServer([cut_off]) as server, server.store() as store:
        for operation in (store.get("key"), store.head("key")):
            with pytest.raises(StoreUnavailable) as caught:
                await operation
            assert not caught.value.indeterminate


async def test_a_write_that_was_not_sent_is_not_indeterminate() -> None:
    async with RawServer([cut_off]) as server:
        store = server.store()
    async with store:
        with pytest.raises(StoreUnavailable, match=f"nothing listens on 127.0.0.1:{server.port}") as caught:
            await put(store)
        assert not caught.value.indeterminate


@pytest.mark.parametrize(("status", "indeterminate"), [(500, True), (502, True), (504, True), (503, False)])
async def test_a_gateway_error_leaves_a_write_indeterminate(status: int, indeterminate: bool) -> None:
    async with RawServer([respond(response(status))]) as server, server.store() as store:
        with pytest.raises(StoreUnavailable) as caught:
            await put(store)
        assert caught.value.indeterminate is indeterminate
    assert len(server.requests) == 3


async def test_an_error_keeps_indeterminate_of_an_earlier_attempt() -> None:
    async with RawServer([cut_off, respond(error_response(403, "AccessDenied"))]) as server, server.store() as store:
        with pytest.raises(AccessDenied) as caught:
            await put(store)
        assert caught.value.indeterminate


async def test_the_lease_is_checked_before_every_attempt() -> None:
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
        assert len(server.requests) == 1


async def test_the_lease_is_checked_after_the_wait_for_a_connection() -> None:
    asked: list[str] = []
    async with RawServer([keep_silent, respond(response())]) as server, server.store(connections=1) as store:
        blocking = asyncio.create_task(store.fetch("a", 10))
        await asyncio.sleep(0.05)
        waiting = asyncio.create_task(put(store, check_lease=lambda: asked.append("asked")))
        await asyncio.sleep(0.05)
        assert asked == []
        blocking.cancel()
        await waiting
        assert asked == ["asked"]
    assert len(server.requests) == 2


async def test_deleting_a_missing_object_succeeds() -> None:
    async with (
        RawServer([respond(response(204)), respond(error_response(404, "NoSuchKey"))]) as server,
        server.store() as store,
    ):
        await store.delete("key")
        await store.delete("key")
    async with RawServer([respond(error_response(404, "NoSuchBucket"))]) as server, server.store() as store:
        with pytest.raises(NoSuchBucket):
            await store.delete("key")


@pytest.mark.parametrize("etag", ['"abc"', "abc", "&quot;abc&quot;", "&#34;abc&#34;\n"])
async def test_a_server_side_copy_returns_its_etag(etag: str) -> None:
    body = f"<CopyObjectResult><ETag>{etag}</ETag></CopyObjectResult>".encode()
    async with RawServer([respond(response(body=body))]) as server, server.store() as store:
        assert (await store.copy("a/key +%", "bucket", etag="e")).etag == "abc"
    sent = server.requests[0].headers
    assert sent["x-amz-copy-source"] == b"/bucket/a/key%20%2B%25"
    assert sent["x-amz-copy-source-if-match"] == b'"e"'
    assert "x-amz-metadata-directive" not in sent


async def test_a_server_side_copy_fails_if_its_200_contains_an_error() -> None:
    async with RawServer([respond(error_response(200, "NoSuchBucket"))]) as server, server.store() as store:
        with pytest.raises(NoSuchBucket):
            await store.copy("key", "bucket", etag="e")


async def test_an_error_in_a_200_is_raised() -> None:
    scripts = [respond(error_response(200, "InternalError")), respond(response())]
    async with RawServer(scripts) as server, server.store() as store:
        assert (await put(store)).etag == MD5
    async with RawServer([respond(error_response(200, "EntityTooLarge"))]) as server, server.store() as store:
        with pytest.raises(TooLarge):
            await put(store)


async def test_a_streamed_body_is_sent_completely() -> None:
    chunks = [bytes([n]) * 300_000 for n in range(20)] + [b"", b"end"]
    whole = b"".join(chunks)
    async with RawServer([respond(response())]) as server, server.store() as store:
        written = await put(store, body=in_chunks(*chunks), size_bytes=len(whole))
        assert written == PutResult(MD5, encrypted=False, indeterminate=False)
        await put(store, body=in_chunks(), size_bytes=0)
    assert server.requests[0].body == whole
    assert "transfer-encoding" not in server.requests[0].headers
    assert server.requests[1].body == b""
    assert server.connections == 1


@pytest.mark.parametrize(
    "chunks", [(b"12345", b"67890"), (b"1234567890",), (b"x",), ()], ids=["whole", "one", "short", "nothing"]
)
async def test_a_body_whose_iterator_raises_is_never_complete(chunks: tuple[bytes, ...]) -> None:
    """Even after its last chunk: only then is a wrong MD5 known."""
    async with RawServer([respond(response())]) as server, server.store() as store:
        for lost in (LeaseLost(), IntegrityError("the MD5 differs")):
            with pytest.raises(type(lost)) as caught:
                await put(store, body=in_chunks(*chunks, then=lost), size_bytes=10)
            assert caught.value is lost
        await eventually(lambda: server.connections == 2 and all(received.is_truncated for received in server.requests))
        assert all(len(received.body) < 10 for received in server.requests)
        await put(store)  # the store still works


@pytest.mark.parametrize("size_bytes", [6, 8])
async def test_a_streamed_body_of_the_wrong_length_is_an_integrity_error(size_bytes: int) -> None:
    async with RawServer([respond(response())]) as server, server.store() as store:
        with pytest.raises(IntegrityError) as caught:
            await put(store, body=in_chunks(b"cont", b"ent"), size_bytes=size_bytes)
        await eventually(lambda: server.requests and server.requests[0].is_truncated)
        assert not caught.value.indeterminate


@pytest.mark.parametrize("goes", [True, False])
async def test_a_response_before_the_end_of_the_body_counts(goes: bool) -> None:
    async def refuse_at_once(received: ReceivedRequest) -> None:
        received.write(error_response(403, "AccessDenied", "not here"))
        await received.writer.drain()
        if goes:
            received.writer.write_eof()

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
        server._scripts[0] = respond(response())
        assert (await asyncio.wait_for(put(store), 5)).etag == MD5  # on another connection
        assert server.connections == len(server.requests) == 2


async def test_a_200_before_the_end_of_the_body_is_an_error() -> None:
    async def praise_at_once(received: ReceivedRequest) -> None:
        received.write(response())
        await received.writer.drain()

    async with RawServer([praise_at_once]) as server, server.store() as store:
        with pytest.raises(StoreUnavailable, match="reported success before it had the whole body") as caught:
            await put(store, body=in_chunks(*[b"x" * 65536] * 100), size_bytes=6_553_600)
        assert caught.value.indeterminate


async def test_the_iterator_is_closed_after_an_early_response() -> None:
    closed = False

    async def body() -> AsyncIterator[bytes]:
        nonlocal closed
        try:
            while True:
                yield b"x" * 65536
                await asyncio.sleep(0.001)
        finally:
            closed = True

    async def refuse(received: ReceivedRequest) -> None:
        received.write(error_response(403, "AccessDenied"))

    async with RawServer([refuse]) as server, server.store() as store:
        with pytest.raises(AccessDenied):
            await put(store, body=body, size_bytes=1024**3)
        assert closed


async def test_informational_responses_are_skipped() -> None:
    interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nlink: x\r\n\r\n"
    async with RawServer([respond(interim + response(etag=f'"{MD5}"'))]) as server, server.store() as store:
        assert (await put(store)).etag == MD5


async def test_a_connection_with_close_is_not_reused() -> None:
    async with RawServer([respond(response(body=b"x", connection="close"))]) as server, server.store() as store:
        for _ in range(3):
            await store.fetch("key", 10)
    assert server.connections == 3


# timeouts


async def test_a_store_that_does_not_respond_times_out() -> None:
    quick = Timeouts(connect_s=1, read_s=0.2, write_s=0.2)
    async with RawServer([keep_silent]) as server, server.store(timeouts=quick) as store:
        with pytest.raises(StoreUnavailable, match="did not answer in time") as caught:
            await asyncio.wait_for(store.get("key"), 5)
        assert not caught.value.indeterminate
        with pytest.raises(StoreUnavailable) as caught:
            await asyncio.wait_for(put(store), 5)
        assert caught.value.indeterminate


async def test_a_slow_response_does_not_time_out_while_bytes_arrive() -> None:
    async def drip(received: ReceivedRequest) -> None:
        received.write(response(content_length="8"))
        for _ in range(8):
            await asyncio.sleep(0.2)
            received.write(b"x")

    async with RawServer([drip]) as server, server.store(timeouts=Timeouts(read_s=1.2)) as store:
        assert (await store.fetch("key", 10))[1] == b"x" * 8


@pytest.mark.long
async def test_a_slow_upload_does_not_time_out_while_bytes_are_sent() -> None:
    async def read_slowly(received: ReceivedRequest) -> None:
        for _ in range(32):
            await received.reader.readexactly(500_000)
            await asyncio.sleep(0.1)
        received.write(response())
        await received.close()

    body = b"x" * 16_000_000
    async with RawServer([read_slowly]) as server, server.store(timeouts=Timeouts(read_s=2)) as store:
        started = asyncio.get_running_loop().time()
        await put(store, body)
        assert asyncio.get_running_loop().time() - started > 3
    assert len(server.requests) == 1


async def test_a_put_from_memory_times_out_even_while_bytes_arrive() -> None:
    async def drip(received: ReceivedRequest) -> None:
        for byte in response():
            await asyncio.sleep(0.05)
            received.write(bytes([byte]))

    async with RawServer([drip]) as server, server.store(timeouts=Timeouts(read_s=5, write_s=0.3)) as store:
        with pytest.raises(StoreUnavailable, match="in time"):
            await asyncio.wait_for(put(store), 5)


async def test_waiting_for_the_source_does_not_time_out_the_destination() -> None:
    async def slow() -> AsyncIterator[bytes]:
        yield b"cont"
        await asyncio.sleep(1.5)
        yield b"ent"

    async with (
        RawServer([respond(response())]) as server,
        server.store(timeouts=Timeouts(read_s=0.8)) as store,
    ):
        assert (await put(store, body=slow)).etag == MD5


async def test_a_destination_that_reads_nothing_times_out() -> None:
    async def take_nothing(received: ReceivedRequest) -> None:
        received.writer.transport.pause_reading()  # type: ignore[attr-defined]  # a socket's reads, too
        await asyncio.sleep(3600)

    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b"x" * 1_000_000

    async with RawServer([take_nothing]) as server, server.store(timeouts=Timeouts(read_s=0.3)) as store:
        with pytest.raises(StoreUnavailable, match="in time"):
            await asyncio.wait_for(put(store, body=endless, size_bytes=1024**4), 20)


async def test_the_clock_of_the_store_is_learned_from_its_responses() -> None:
    async with RawServer([respond(response())]) as server, server.store() as store:
        await store.get("key")
        assert 0 <= store.source_time_ms() - 1_791_234_567_000 < 2000


# cleanup


async def test_a_closed_store_leaves_nothing_open() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        async with RawServer([respond(response(body=b"x" * 1_000_000))]) as server:
            async with server.store() as store:
                reading = await store.get("key")
                assert isinstance(reading, ObjectStream)
                await store.fetch("key", 10_000_000)
            with pytest.raises(StoreUnavailable):
                await reading.body()
        del store, reading
        gc.collect()
