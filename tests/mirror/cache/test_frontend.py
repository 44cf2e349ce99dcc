"""The cache over real sockets, in front of a real store."""

from __future__ import annotations

import asyncio
import email
import hashlib
import re
import shutil
import socket
import threading
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yarl

from s3s3.mirror.cache import downloads
from s3s3.mirror.cache.cached_object import CachedObject
from s3s3.mirror.cache.directory import CacheDirectory
from s3s3.mirror.cache.writer import EntryWriter, keep
from s3s3.model import Endpoint, Secret
from s3s3.scripts.demo.swift_server import SwiftServer
from tests.faults.kinds import Bandwidth, Flip, Truncated, getting
from tests.faults.proxy import Proxy
from tests.mirror.cache.client import BIG, MIB, CacheClient, Cached, Put, until

pytestmark = pytest.mark.real


@pytest.mark.parametrize("version", ["s3", "s3v4"])
async def test_a_miss_leads_to_the_store_and_a_hit_comes_from_the_disk(
    cached: Cached, put: Put, store: Endpoint, version: str
) -> None:
    about = {"ContentType": "application/x-thing", "Metadata": {"own": "kept"}, "ContentEncoding": "x-odd"}
    put("a b/ü+c", BIG, **about)
    client = await cached()
    url = client.url("a b/ü+c", version=version)
    status, headers, _ = await client.ask(url)
    assert (status, headers["X-Cache"]) == (302, "miss")
    assert headers["Location"].startswith(f"http://127.0.0.1:{store.port}/{store.bucket_name}/a%20b/%C3%BC%2Bc?")
    assert await client.follow(headers["Location"]) == BIG
    status, headers, body = await client.kept(url)
    assert (status, body) == (200, BIG)
    assert headers["ETag"] == f'"{hashlib.md5(BIG).hexdigest()}"'
    assert (headers["Content-Type"], headers["x-amz-meta-own"]) == ("application/x-thing", "kept")
    assert headers["Content-Encoding"] == "x-odd"
    assert client.fills() == 1


# -- who may


async def test_a_url_that_was_good_is_refused_once_it_has_expired_although_the_object_is_kept(
    cached: Cached, put: Put
) -> None:
    put("key")
    client = await cached()
    await client.kept(client.url("key"))
    for version in ("s3", "s3v4"):
        url = client.url("key", version=version, expires_s=2)
        assert (await client.ask(url))[0] == 200
        await asyncio.sleep(2.1)
        status, headers, body = await client.ask(url)
        assert (status, headers["Content-Type"].partition(";")[0]) == (403, "application/xml")
        assert b"<Code>AccessDenied</Code><Message>Request has expired</Message>" in body
    assert client.count("refused") == 2


@pytest.mark.parametrize("version", ["s3", "s3v4"])
async def test_a_wrong_signature_is_refused_although_the_object_is_kept(cached: Cached, put: Put, version: str) -> None:
    put("key")
    client = await cached()
    good = client.url("key", version=version)
    await client.kept(good)
    other = client.url("other", version=version)
    moved = other.replace("/other?", "/key?")
    others_key = client.url("key", version=version, secret="wrong")
    for_head = client.url("key", version=version, method="head_object")
    no_signature = re.sub(r"ignature=[^&]*", "ignature=", good)
    for wrong in (moved, others_key, for_head, no_signature, good.partition("?")[0], good.replace("tester", "teste2")):
        status, _, body = await client.ask(wrong)
        assert status == 403, wrong
        assert b"<Error>" in body and b"content" not in body
    assert (await client.ask(good))[0] == 200


@pytest.mark.parametrize("version", ["s3", "s3v4"])
async def test_a_signed_url_with_an_authorization_is_refused_as_s3_does(cached: Cached, put: Put, version: str) -> None:
    put("key")
    client = await cached()
    url = client.url("key", version=version)
    await client.kept(url)
    status, _, body = await client.ask(url, Authorization="Bearer x")
    assert (status, b"<Code>InvalidArgument</Code>" in body) == (400, True)


async def test_a_url_of_the_store_is_good_at_the_cache_and_its_own_query_leads_back(
    cached: Cached, put: Put, store: Endpoint
) -> None:
    """The same path at another host, as clients of the predecessor have it."""
    put("key")
    client = await cached()
    there = f"http://127.0.0.1:{store.port}"
    for version in ("s3", "s3v4"):
        url = client.url("key", version=version, at=there)
        status, headers, _ = await client.ask(url)
        if status == 302:
            assert headers["Location"] == url.replace(client.base, there)
            assert await client.follow(headers["Location"]) == b"content"
        assert (await client.kept(url))[2] == b"content"


async def test_a_path_may_leave_the_bucket_out(cached: Cached, put: Put, store: Endpoint) -> None:
    put("key")
    client = await cached()
    url = client.url("key").replace(f"/{store.bucket_name}/key", "/key")
    _, headers, _ = await client.ask(url)
    assert await client.follow(headers["Location"]) == b"content"
    assert (await client.kept(url))[2] == b"content"


async def test_other_pairs_of_keys_may_be_good_here_whether_the_store_knows_them_or_not(
    cached: Cached, put: Put, store: Endpoint
) -> None:
    put("key")
    client = await cached(keys=(("A-READER", Secret("its secret")), ("ANOTHER", Secret("x"))))
    reader = replace(store, access_key_id="A-READER", secret_access_key=Secret("its secret"))
    client.store = reader
    for version in ("s3", "s3v4"):
        url = client.url("key", version=version)
        status, headers, body = await client.ask(url)
        if status == 302:
            assert await client.follow(headers["Location"]) == b"content", "signed by the store's own pair"
            status, _, body = await client.kept(url)
        assert (status, body) == (200, b"content")
        assert (await client.ask(client.url("key", version=version, secret="x")))[0] == 403, "the other's secret"
        client.store = replace(reader, access_key_id="UNKNOWN")
        assert b"InvalidAccessKeyId" in (await client.ask(client.url("key", version=version)))[2]
        client.store = reader


# -- misses


async def test_fifty_misses_at_once_are_one_download(cached: Cached, put: Put, store: Endpoint) -> None:
    put("key", BIG)
    with Proxy(store.port or 0) as proxy:
        client = await cached(store=proxy.through(store))
        url = client.url("key")
        answers = await asyncio.gather(*(client.ask(url) for _ in range(50)))
        assert {status for status, _, _ in answers} <= {200, 302}
        assert (await client.kept(url))[2] == BIG
        assert proxy.requests["GET"] == 1


async def test_fifty_who_wait_read_along_with_one_download(cached: Cached, put: Put, store: Endpoint) -> None:
    put("key", BIG)
    with Proxy(store.port or 0) as proxy:
        client = await cached(store=proxy.through(store), streams=True)
        url = client.url("key")
        answers = await asyncio.gather(*(client.ask(url) for _ in range(50)))
        assert {(status, body) for status, _, body in answers} == {(200, BIG)}
        assert {headers["X-Cache"] for _, headers, _ in answers} == {"streamed"}
        assert proxy.requests["GET"] == 1
        assert (await client.kept(url))[2] == BIG


@pytest.mark.parametrize("streams", [False, True])
async def test_two_caches_of_one_directory_download_once(
    cached: Cached, put: Put, store: Endpoint, streams: bool
) -> None:
    put("key", BIG)
    with Proxy(store.port or 0) as proxy:
        one, other = [await cached(store=proxy.through(store), streams=streams) for _ in range(2)]
        answers = await asyncio.gather(*(client.ask(client.url("key")) for client in (one, other) * 10))
        if streams:
            assert {(status, body) for status, _, body in answers} == {(200, BIG)}
        for client in (one, other):
            assert (await client.kept(client.url("key")))[2] == BIG
        assert proxy.requests["GET"] == 1


@pytest.mark.parametrize("streams", [False, True])
async def test_what_the_store_refuses_is_not_kept_and_the_client_hears_it_from_the_store(
    cached: Cached, put: Put, store: Endpoint, streams: bool
) -> None:
    client = await cached(streams=streams)
    url = client.url("there-is-none")
    status, headers, _ = await client.ask(url)
    assert status == 302
    async with client.http.get(yarl.URL(headers["Location"], encoded=True)) as got:
        assert got.status == 404
    put("there-is-none")
    assert (await client.kept(url))[2] == b"content"
    refused = await cached(store=replace(store, bucket_name="there-is-no-bucket"), streams=streams)
    assert (await refused.ask(refused.url("key")))[0] == 302
    assert refused.fills() == 0


@pytest.mark.parametrize("streams", [False, True])
async def test_a_403_of_the_store_is_not_kept(cached: Cached, put: Put, store: Endpoint, streams: bool) -> None:
    put("key")
    client = await cached(store=replace(store, secret_access_key=Secret("changed")), streams=streams)
    status, headers, _ = await client.ask(client.url("key"))
    assert status == 302
    async with client.http.get(yarl.URL(headers["Location"], encoded=True)) as got:
        assert got.status == 403
    await until(lambda: client.fills("failed") == 1)
    assert [path for path in client.front.folder.directory.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("content", [b"content", BIG, b""], ids=["small", "big", "empty"])
async def test_nobody_waits_for_the_disk(
    cached: Cached, put: Put, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    written = threading.Event()

    def slow(folder: CacheDirectory, filling: EntryWriter, about: CachedObject) -> None:
        written.wait(30)
        keep(folder, filling, about)

    monkeypatch.setattr(downloads, "keep", slow)
    put("key", content)
    client = await cached(streams=True)
    try:
        for _ in range(2):
            assert (await client.ask(client.url("key")))[2] == content
        assert client.count("streamed") == 2
    finally:
        written.set()
    assert (await client.kept(client.url("key")))[2] == content


async def test_the_beginning_is_given_on_before_the_rest_has_come(cached: Cached, put: Put, store: Endpoint) -> None:
    put("key", BIG)
    with Proxy(store.port or 0) as proxy:
        client = await cached(store=proxy.through(store), streams=True)
        with proxy.injecting(Bandwidth(bytes_per_s=MIB, of=getting)):
            began_s = time.monotonic()
            async with client.http.get(yarl.URL(client.url("key"), encoded=True)) as got:
                assert await got.content.readexactly(1) == BIG[:1]
                assert time.monotonic() - began_s < 1.0
        assert (await client.ask(client.url("key")))[2] == BIG


async def test_what_is_small_and_damaged_leads_to_the_store(cached: Cached, put: Put, store: Endpoint) -> None:
    put("key", b"content")
    with Proxy(store.port or 0) as proxy:
        client = await cached(store=proxy.through(store), streams=True)
        with proxy.injecting(Flip(of=getting)):
            status, headers, body = await client.ask(client.url("key"))
        assert (status, body) == (302, b"")
        assert await client.follow(headers["Location"]) == b"content"


async def test_what_is_damaged_on_the_way_is_not_kept_and_nobody_gets_all_of_it(
    cached: Cached, put: Put, store: Endpoint
) -> None:
    put("key", BIG)
    with Proxy(store.port or 0) as proxy:
        client = await cached(store=proxy.through(store), streams=True)
        with proxy.injecting(Flip(of=getting)):
            for _ in range(3):
                with pytest.raises(aiohttp.ClientError):
                    await client.ask(client.url("key"))
        assert (client.fills(), client.fills("failed")) == (0, 3)
        assert (await client.ask(client.url("key")))[2] == BIG


async def test_what_is_cut_off_on_the_way_is_not_kept(cached: Cached, put: Put, store: Endpoint) -> None:
    put("key", BIG)
    with Proxy(store.port or 0) as proxy:
        client = await cached(store=proxy.through(store))
        with proxy.injecting(Truncated(kept_bytes=MIB, of=getting)):
            assert (await client.ask(client.url("key")))[0] == 302
            await until(lambda: client.fills("failed") == 1)
        assert list((client.front.folder.directory / "filling").iterdir()) == []
        assert (await client.kept(client.url("key")))[2] == BIG


async def test_who_ends_waits_for_what_is_being_written(
    cached: Cached, put: Put, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread goes on when nobody waits for it, and the number of a file that is closed is soon another file's."""
    put("key", BIG)
    client = await cached()
    open_still: list[bool] = []

    def slow(folder: CacheDirectory, filling: EntryWriter, about: CachedObject) -> None:
        began.set()
        time.sleep(0.5)
        open_still.append(filling.file >= 0)
        keep(folder, filling, about)

    began = threading.Event()
    monkeypatch.setattr(downloads, "keep", slow)
    await client.ask(client.url("key"))
    await until(began.is_set)
    await client.front.fills.close()
    assert open_still == [True]


async def test_a_part_can_be_read_along(cached: Cached, put: Put) -> None:
    put("key", BIG)
    client = await cached(streams=True)
    status, headers, body = await client.ask(client.url("key"), Range="bytes=3000000-3000099")
    assert (status, body) == (206, BIG[3_000_000:3_000_100])
    assert headers["Content-Range"] == f"bytes 3000000-3000099/{len(BIG)}"


async def test_an_empty_object(cached: Cached, put: Put) -> None:
    put("empty", b"")
    for streams in (True, False):
        client = await cached(streams=streams)
        status, _, body = await client.ask(client.url("empty"))
        assert (status, body) == (200, b"")
        assert (await client.kept(client.url("empty")))[2] == b""


# -- hits


@pytest.mark.parametrize(
    ("asked", "status", "expected"),
    [
        ("bytes=0-0", 206, BIG[:1]),
        ("bytes=100-199", 206, BIG[100:200]),
        (f"bytes={len(BIG) - 5}-", 206, BIG[-5:]),
        ("bytes=-7", 206, BIG[-7:]),
        (f"bytes=1-{MIB * 3}", 206, BIG[1 : MIB * 3 + 1]),
        ("bytes=0-99999999999", 206, BIG),
        (f"bytes={len(BIG)}-", 416, b""),
        ("bytes=-0", 416, b""),
        ("bytes=5-2", 200, BIG),
        ("bytes=x", 200, BIG),
        ("lines=1-2", 200, BIG),
        ("bytes=0-,0-,0-", 200, BIG),
        ("bytes=" + ",".join(["0-0"] * 100), 200, BIG),
    ],
)
async def test_one_range(hit: tuple[CacheClient, str], asked: str, status: int, expected: bytes) -> None:
    client, url = hit
    got, headers, body = await client.ask(url, Range=asked)
    assert (got, body) == (status, expected)
    if status == 206:
        begin = BIG.index(expected[:64]) if len(expected) >= 64 else None
        assert headers["Content-Range"].endswith(f"/{len(BIG)}")
        assert begin is None or headers["Content-Length"] == str(len(expected))
    if status == 416:
        assert headers["Content-Range"] == f"bytes */{len(BIG)}"


async def test_several_ranges(hit: tuple[CacheClient, str]) -> None:
    client, url = hit
    status, headers, body = await client.ask(url, Range=f"bytes=0-9, {MIB}-{3 * MIB}, -5")
    assert status == 206
    boundary = headers["Content-Type"].partition("boundary=")[2]
    message = email.message_from_bytes(
        f"Content-Type: multipart/byteranges; boundary={boundary}\r\n\r\n".encode() + body
    )
    parts: Any = message.get_payload()
    assert [part["Content-Range"] for part in parts] == [
        f"bytes 0-9/{len(BIG)}", f"bytes {MIB}-{3 * MIB}/{len(BIG)}", f"bytes {len(BIG) - 5}-{len(BIG) - 1}/{len(BIG)}"
    ]  # fmt: skip
    assert len(body) == int(headers["Content-Length"])
    assert all(part["Content-Type"] == "application/x-thing" for part in parts)
    assert BIG[MIB : 3 * MIB + 1] in body


async def test_conditions(hit: tuple[CacheClient, str]) -> None:
    client, url = hit
    _, headers, _ = await client.ask(url)
    etag, modified = headers["ETag"], headers["Last-Modified"]
    before, after = "Mon, 05 Oct 2009 21:09:27 GMT", "Mon, 05 Oct 2099 21:09:27 GMT"
    for sent, status in (
        ({"If-None-Match": etag}, 304),
        ({"If-None-Match": f'"x", W/{etag}'}, 304),
        ({"If-None-Match": "*"}, 304),
        ({"If-None-Match": '"x"'}, 200),
        ({"If-None-Match": '"x"', "If-Modified-Since": after}, 200),
        ({"If-Modified-Since": modified}, 304),
        ({"If-Modified-Since": before}, 200),
        ({"If-Modified-Since": "yesterday"}, 200),
        ({"If-Match": etag}, 200),
        ({"If-Match": '"x"'}, 412),
        ({"If-Unmodified-Since": before}, 412),
        ({"If-Unmodified-Since": modified}, 200),
        ({"Range": "bytes=0-1", "If-Range": etag}, 206),
        ({"Range": "bytes=0-1", "If-Range": '"x"'}, 200),
        ({"Range": "bytes=0-1", "If-Range": modified}, 206),
        ({"Range": "bytes=0-1", "If-Range": after}, 200),
    ):
        got, headers, body = await client.ask(url, **sent)
        assert got == status, sent
        if status == 304:
            assert (headers["ETag"], body) == (etag, b"")


async def test_head(hit: tuple[CacheClient, str], cached: Cached) -> None:
    client, _ = hit
    url = client.url("key", method="head_object")
    status, headers, body = await client.ask(url, "HEAD")
    assert (status, headers["Content-Length"], headers["Content-Type"], body) == (
        200, str(len(BIG)), "application/x-thing", b"")  # fmt: skip
    missing = client.url("missing", method="head_object")
    assert (await client.ask(missing, "HEAD"))[0] == 302
    assert client.count("hit") >= 2


async def test_what_a_client_has_said_in_place_of_the_objects_own_headers_is_signed_and_said(
    hit: tuple[CacheClient, str],
) -> None:
    client, _ = hit
    for version in ("s3", "s3v4"):
        url = client.url(
            "key", version=version, ResponseContentType="text/x; charset=utf-8", ResponseCacheControl="no-cache",
            ResponseContentDisposition='attachment; filename="a b.txt"',
        )  # fmt: skip
        status, headers, _ = await client.ask(url)
        assert (status, headers["Content-Type"]) == (200, "text/x; charset=utf-8")
        assert headers["Content-Disposition"] == 'attachment; filename="a b.txt"'
        assert (await client.ask(url.replace("no-cache", "no-store")))[0] == 403


async def test_a_version_is_the_stores_business(hit: tuple[CacheClient, str]) -> None:
    client, _ = hit
    for version in ("s3", "s3v4"):
        url = client.url("key", version=version, VersionId="null")
        status, headers, _ = await client.ask(url)
        assert status == 302
        assert "versionId=null" in headers["Location"]


async def test_other_methods_are_refused(hit: tuple[CacheClient, str]) -> None:
    client, url = hit
    for method in ("PUT", "POST", "DELETE", "OPTIONS"):
        assert (await client.ask(url, method))[0] == 405


@pytest.mark.parametrize(
    "key", ["../../etc/passwd", "a/../b", "k" * 1024, "日本/ü", "new\nline", "x//y", "a%2Fb?c", "."]
)
async def test_odd_keys_stay_within_the_directory(cached: Cached, store: Endpoint, tmp_path: Path, key: str) -> None:
    client = await cached()
    url = client.base + (await client.front.store.location(key, signed_for_s=60)).partition(f":{store.port}")[2]
    there = await client.front.store.location(key, method="PUT", signed_for_s=60)
    async with client.http.put(
        yarl.URL(there, encoded=True), data=b"content", skip_auto_headers=["Content-Type"]
    ) as got:
        assert got.status == 200
    assert (await client.kept(url))[2] == b"content"
    assert not (tmp_path.parent / "etc").exists() and set(within(tmp_path)) == {"cache"}


async def test_a_key_that_is_too_long_is_none(cached: Cached) -> None:
    client = await cached()
    status, _, body = await client.ask(client.url("k" * 1025))
    assert (status, b"KeyTooLong" in body) == (400, True)


# -- what changes


async def test_an_object_that_has_changed_is_fetched_anew(cached: Cached, put: Put, store: Endpoint) -> None:
    put("key", b"before")
    client = await cached(revalidate_s=0)
    url = client.url("key")
    assert (await client.kept(url))[2] == b"before"
    put("key", b"after")
    status, headers, _ = await client.ask(url)
    assert status == 302
    assert await client.follow(headers["Location"]) == b"after"
    assert (await client.kept(url))[2] == b"after"
    bodies = [path for path in client.front.folder.directory.glob("objects/*/*") if path.suffix != ".json"]
    assert len(bodies) == 1


async def test_an_object_that_is_the_same_costs_a_head_after_a_while_and_no_get(
    cached: Cached, put: Put, store: Endpoint
) -> None:
    put("key", BIG)
    with Proxy(store.port or 0) as proxy:
        client = await cached(store=proxy.through(store), revalidate_s=1)
        await client.kept(client.url("key"))
        assert (await client.ask(client.url("key")))[0] == 200
        assert proxy.requests["HEAD"] == 0
        await asyncio.sleep(1.1)
        answers = await asyncio.gather(*(client.ask(client.url("key")) for _ in range(20)))
        assert {status for status, _, _ in answers} == {200}
        assert (proxy.requests["HEAD"], proxy.requests["GET"]) == (1, 1)


async def test_an_object_that_is_gone_is_not_given_out_any_more(
    cached: Cached, put: Put, swift: SwiftServer, store: Endpoint
) -> None:
    put("key")
    client = await cached(revalidate_s=0)
    await client.kept(client.url("key"))
    swift.boto3_client().delete_object(Bucket=store.bucket_name, Key="key")
    assert (await client.ask(client.url("key")))[0] == 302
    assert not any(path.is_file() for path in client.front.folder.directory.glob("objects/*/*"))


async def test_while_the_store_is_away_what_is_kept_is_given_out(cached: Cached, put: Put, store: Endpoint) -> None:
    put("key")
    with Proxy(store.port or 0) as proxy:
        client = await cached(store=proxy.through(store), revalidate_s=0)
        url = client.url("key")
        await client.kept(url)
    assert (await client.ask(url))[2] == b"content"


# -- the disk


async def test_an_object_that_is_removed_while_it_is_sent_is_sent_to_its_end(hit: tuple[CacheClient, str]) -> None:
    client, url = hit
    reader, writer = await asyncio.open_connection("127.0.0.1", client.front.port, limit=64 * 1024)
    path = url.removeprefix(client.base)
    writer.write(f"GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode())
    await reader.readuntil(b"\r\n\r\n")
    stored = client.front.folder.open("key")
    assert stored is not None
    client.front.folder.remove(client.front.folder.name("key"), stored.about)
    stored.close()
    assert await asyncio.wait_for(reader.read(-1), 20) == BIG
    writer.close()
    assert (await client.ask(url))[0] == 302


async def test_a_client_that_takes_nothing_is_dropped(
    hit: tuple[CacheClient, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("s3s3.mirror.cache.sendfile.STALLED_AFTER_S", 0.5)
    client, url = hit
    connector = client.http.connector
    assert connector is not None
    with socket.create_connection(("127.0.0.1", client.front.port)) as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.sendall(f"GET {url.removeprefix(client.base)} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
        await until(lambda: client.front.connections.open >= 1)
        await until(lambda: client.front.connections.open == len(connector._conns))


async def test_where_there_is_no_room_nothing_is_kept_and_everybody_is_sent_to_the_store(
    cached: Cached, put: Put
) -> None:
    put("key", BIG)
    for streams in (False, True):
        client = await cached(max_fill=0.0, low_fill=0.0, streams=streams)
        status, headers, _ = await client.ask(client.url("key"))
        assert status == 302
        assert await client.follow(headers["Location"]) == BIG
        await until(partial(lambda client: client.fills("not kept") == 1, client))


async def test_a_disk_that_is_full_all_of_a_sudden_harms_nobody(cached: Cached, put: Put, small_disk: Path) -> None:
    """Room was taken for the body, but something else has taken all that its description would need."""
    put("key", b"content" * 1000)
    client = await cached(directory=small_disk / "cache", streams=True)
    hog = small_disk / "hog"
    with hog.open("wb", buffering=0) as hogging, pytest.raises(OSError, match="No space"):
        while True:
            hogging.write(bytes(4096))
    status, headers, _ = await client.ask(client.url("key"))
    assert status == 302
    assert await client.follow(headers["Location"]) == b"content" * 1000
    await until(lambda: client.fills("not kept") == 1)
    hog.unlink()
    assert (await client.kept(client.url("key")))[2] == b"content" * 1000
    hidden = [path for path in client.front.folder.directory.rglob(".*") if path.is_file()]
    assert hidden == []


async def test_a_directory_that_has_gone_is_said(cached: Cached, put: Put) -> None:
    put("key")
    client = await cached()
    assert await client.front.readiness_problems() == []
    shutil.rmtree(client.front.folder.directory)
    assert "has gone" in "".join(await client.front.readiness_problems())
    status, headers, _ = await client.ask(client.url("key"))
    assert (status, await client.follow(headers["Location"])) == (302, b"content")


async def test_behind_nginx_the_file_is_named_and_not_sent(cached: Cached, put: Put) -> None:
    put("key", BIG, ContentType="text/x")
    put("described", BIG, Metadata={"own": "kept"})
    client = await cached(accel_prefix="/s3s3-cache/")
    _, headers, body = await client.kept(client.url("key"))
    there = client.front.folder.directory / headers["X-Accel-Redirect"].removeprefix("/s3s3-cache/")
    assert (there.read_bytes(), body, headers["Content-Type"]) == (BIG, b"", "text/x")
    url = client.url("key")
    assert (await client.ask(url, X_S3S3_Sendfile="own"))[2] == BIG, "nginx has not found the file"
    assert (await client.ask(url, If_Range=headers["ETag"], Range="bytes=0-1"))[2] == BIG[:2]
    assert (await client.kept(client.url("described")))[2] == BIG, "nginx would not send its metadata"


def within(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]
