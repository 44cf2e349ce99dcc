"""The cache over real sockets, with a real store."""

from __future__ import annotations

import asyncio
import email
import hashlib
import os
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
from s3s3.mirror.cache.directory import CacheDirectory, CachedObject
from s3s3.mirror.cache.writer import EntryWriter, commit
from s3s3.model import Endpoint, Secret
from s3s3.scripts.demo.swift_server import SwiftServer
from tests.faults import lies
from tests.faults.kinds import Bandwidth, Flip, Truncated, getting
from tests.faults.lies import MAINTENANCE, PAGE, PAGE_WITH_ETAG, Page
from tests.faults.proxy import Proxy
from tests.mirror.cache.client import BIG, MIB, CacheClient, PutObject, StartCache, until

pytestmark = pytest.mark.real


@pytest.mark.parametrize("version", ["s3", "s3v4"])
async def test_a_miss_is_redirected_to_the_store_and_a_hit_is_sent_from_disk(
    start_cache: StartCache, put: PutObject, store: Endpoint, version: str
) -> None:
    options = {"ContentType": "application/x-thing", "Metadata": {"own": "value"}, "ContentEncoding": "x-odd"}
    put("a b/ü+c", BIG, **options)
    client = await start_cache()
    url = client.url("a b/ü+c", version=version)
    status, headers, _ = await client.fetch(url)
    assert (status, headers["X-Cache"]) == (302, "miss")
    assert headers["Location"].startswith(f"http://127.0.0.1:{store.port}/{store.bucket_name}/a%20b/%C3%BC%2Bc?")
    assert await client.follow(headers["Location"]) == BIG
    status, headers, body = await client.until_hit(url)
    assert (status, body) == (200, BIG)
    assert headers["ETag"] == f'"{hashlib.md5(BIG).hexdigest()}"'
    assert (headers["Content-Type"], headers["x-amz-meta-own"]) == ("application/x-thing", "value")
    assert headers["Content-Encoding"] == "x-odd"
    assert client.downloads() == 1


# -- authorization


@pytest.mark.long
async def test_an_expired_url_is_refused_although_the_object_is_cached(start_cache: StartCache, put: PutObject) -> None:
    put("key")
    client = await start_cache()
    await client.until_hit(client.url("key"))
    for version in ("s3", "s3v4"):
        url = client.url("key", version=version, expires_s=2)
        assert (await client.fetch(url))[0] == 200
        await asyncio.sleep(2.1)
        status, headers, body = await client.fetch(url)
        assert (status, headers["Content-Type"].partition(";")[0]) == (403, "application/xml")
        assert b"<Code>AccessDenied</Code><Message>Request has expired</Message>" in body
    assert client.count("refused") == 2


@pytest.mark.parametrize("version", ["s3", "s3v4"])
async def test_a_wrong_signature_is_refused_although_the_object_is_cached(
    start_cache: StartCache, put: PutObject, version: str
) -> None:
    put("key")
    client = await start_cache()
    good = client.url("key", version=version)
    await client.until_hit(good)
    other = client.url("other", version=version)
    moved = other.replace("/other?", "/key?")
    others_key = client.url("key", version=version, secret="wrong")
    for_head = client.url("key", version=version, method="head_object")
    no_signature = re.sub(r"ignature=[^&]*", "ignature=", good)
    for wrong in (moved, others_key, for_head, no_signature, good.partition("?")[0], good.replace("tester", "teste2")):
        status, _, body = await client.fetch(wrong)
        assert status == 403, wrong
        assert b"<Error>" in body and b"content" not in body
    assert (await client.fetch(good))[0] == 200


@pytest.mark.parametrize("version", ["s3", "s3v4"])
async def test_a_presigned_url_with_an_authorization_header_is_refused_as_in_s3(
    start_cache: StartCache, put: PutObject, version: str
) -> None:
    put("key")
    client = await start_cache()
    url = client.url("key", version=version)
    await client.until_hit(url)
    status, _, body = await client.fetch(url, Authorization="Bearer x")
    assert (status, b"<Code>InvalidArgument</Code>" in body) == (400, True)


async def test_a_url_signed_for_the_store_works_and_is_redirected_unchanged(
    start_cache: StartCache, put: PutObject, store: Endpoint
) -> None:
    """Clients of the predecessor replace the host only."""
    put("key")
    client = await start_cache()
    base = f"http://127.0.0.1:{store.port}"
    for version in ("s3", "s3v4"):
        url = client.url("key", version=version, at=base)
        status, headers, _ = await client.fetch(url)
        if status == 302:
            assert headers["Location"] == url.replace(client.base, base)
            assert await client.follow(headers["Location"]) == b"content"
        assert (await client.until_hit(url))[2] == b"content"


async def test_a_path_may_omit_the_bucket(start_cache: StartCache, put: PutObject, store: Endpoint) -> None:
    put("key")
    client = await start_cache()
    url = client.url("key").replace(f"/{store.bucket_name}/key", "/key")
    _, headers, _ = await client.fetch(url)
    assert await client.follow(headers["Location"]) == b"content"
    assert (await client.until_hit(url))[2] == b"content"


async def test_further_credentials_work_although_the_store_does_not_know_them(
    start_cache: StartCache, put: PutObject, store: Endpoint
) -> None:
    put("key")
    client = await start_cache(keys=(("A-READER", Secret("its secret")), ("ANOTHER", Secret("x"))))
    reader = replace(store, access_key_id="A-READER", secret_access_key=Secret("its secret"))
    client.store = reader
    for version in ("s3", "s3v4"):
        url = client.url("key", version=version)
        status, headers, body = await client.fetch(url)
        if status == 302:
            assert await client.follow(headers["Location"]) == b"content", (
                "the redirect is signed with the store's own credentials"
            )
            status, _, body = await client.until_hit(url)
        assert (status, body) == (200, b"content")
        assert (await client.fetch(client.url("key", version=version, secret="x")))[0] == 403, (
            "the secret of another pair"
        )
        client.store = replace(reader, access_key_id="UNKNOWN")
        assert b"InvalidAccessKeyId" in (await client.fetch(client.url("key", version=version)))[2]
        client.store = reader


# -- misses


async def test_fifty_concurrent_misses_cause_one_download(
    start_cache: StartCache, put: PutObject, store: Endpoint
) -> None:
    put("key", BIG)
    with Proxy(store.port or 0) as proxy:
        client = await start_cache(store=proxy.through(store))
        url = client.url("key")
        answers = await asyncio.gather(*(client.fetch(url) for _ in range(50)))
        assert {status for status, _, _ in answers} <= {200, 302}
        assert (await client.until_hit(url))[2] == BIG
        assert proxy.requests["GET"] == 1


async def test_fifty_clients_read_one_running_download(
    start_cache: StartCache, put: PutObject, store: Endpoint
) -> None:
    put("key", BIG)
    with Proxy(store.port or 0) as proxy:
        client = await start_cache(store=proxy.through(store), streams=True)
        url = client.url("key")
        answers = await asyncio.gather(*(client.fetch(url) for _ in range(50)))
        assert {(status, body) for status, _, body in answers} == {(200, BIG)}
        assert {headers["X-Cache"] for _, headers, _ in answers} == {"streamed"}
        assert proxy.requests["GET"] == 1
        assert (await client.until_hit(url))[2] == BIG


@pytest.mark.parametrize("streams", [False, True])
async def test_two_caches_that_share_a_directory_download_once(
    start_cache: StartCache, put: PutObject, store: Endpoint, streams: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("s3s3.mirror.cache.frontend.MAX_DOWNLOAD_WAIT_S", 60)  # until the other one's download ends
    put("key", BIG)
    with Proxy(store.port or 0) as proxy:
        first, second = [await start_cache(store=proxy.through(store), streams=streams) for _ in range(2)]
        answers = await asyncio.gather(*(client.fetch(client.url("key")) for client in (first, second) * 10))
        if streams:
            assert {(status, body) for status, _, body in answers} == {(200, BIG)}
        for client in (first, second):
            assert (await client.until_hit(client.url("key")))[2] == BIG
        assert proxy.requests["GET"] == 1


@pytest.mark.parametrize("streams", [False, True])
async def test_a_refusal_by_the_store_is_not_cached_and_the_client_gets_it_from_the_store(
    start_cache: StartCache, put: PutObject, store: Endpoint, streams: bool
) -> None:
    client = await start_cache(streams=streams)
    url = client.url("missing")
    status, headers, _ = await client.fetch(url)
    assert status == 302
    async with client.http.get(yarl.URL(headers["Location"], encoded=True)) as got:
        assert got.status == 404
    put("missing")
    assert (await client.until_hit(url))[2] == b"content"
    refused = await start_cache(store=replace(store, bucket_name="missing-bucket"), streams=streams)
    assert (await refused.fetch(refused.url("key")))[0] == 302
    assert refused.downloads() == 0


@pytest.mark.parametrize("streams", [False, True])
async def test_a_403_from_the_store_is_not_cached(
    start_cache: StartCache, put: PutObject, store: Endpoint, streams: bool
) -> None:
    put("key")
    client = await start_cache(store=replace(store, secret_access_key=Secret("changed")), streams=streams)
    status, headers, _ = await client.fetch(client.url("key"))
    assert status == 302
    async with client.http.get(yarl.URL(headers["Location"], encoded=True)) as got:
        assert got.status == 403
    await until(lambda: client.downloads("failed") == 1)
    assert [path for path in client.service.directory.directory.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("content", [b"content", BIG, b""], ids=["small", "big", "empty"])
async def test_clients_do_not_wait_for_the_disk(
    start_cache: StartCache, put: PutObject, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    written = threading.Event()

    def slow(directory: CacheDirectory, writer: EntryWriter, metadata: CachedObject) -> None:
        written.wait(30)
        commit(directory, writer, metadata)

    monkeypatch.setattr(downloads, "commit", slow)
    put("key", content)
    client = await start_cache(streams=True)
    try:
        for _ in range(2):
            assert (await client.fetch(client.url("key")))[2] == content
        assert client.count("streamed") == 2
    finally:
        written.set()
    assert (await client.until_hit(client.url("key")))[2] == content


async def test_the_first_bytes_are_sent_before_the_last_arrive(
    start_cache: StartCache, put: PutObject, store: Endpoint
) -> None:
    put("key", BIG)
    with Proxy(store.port or 0) as proxy:
        client = await start_cache(store=proxy.through(store), streams=True)
        with proxy.injecting(Bandwidth(bytes_per_s=MIB, of=getting)):
            start_s = time.monotonic()
            async with client.http.get(yarl.URL(client.url("key"), encoded=True)) as got:
                assert await got.content.readexactly(1) == BIG[:1]
                assert time.monotonic() - start_s < 1.0
        assert (await client.fetch(client.url("key")))[2] == BIG


async def test_a_damaged_small_object_leads_to_a_redirect(
    start_cache: StartCache, put: PutObject, store: Endpoint
) -> None:
    put("key", b"content")
    with Proxy(store.port or 0) as proxy:
        client = await start_cache(store=proxy.through(store), streams=True)
        with proxy.injecting(Flip(of=getting)):
            status, headers, body = await client.fetch(client.url("key"))
        assert (status, body) == (302, b"")
        assert await client.follow(headers["Location"]) == b"content"


async def test_a_damaged_download_is_not_cached_and_not_sent_completely(
    start_cache: StartCache, put: PutObject, store: Endpoint
) -> None:
    put("key", BIG)
    with Proxy(store.port or 0) as proxy:
        client = await start_cache(store=proxy.through(store), streams=True)
        with proxy.injecting(Flip(of=getting)):
            for _ in range(3):
                with pytest.raises(aiohttp.ClientError):
                    await client.fetch(client.url("key"))
        assert (client.downloads(), client.downloads("failed")) == (0, 3)
        assert (await client.fetch(client.url("key")))[2] == BIG


async def test_a_truncated_download_is_not_cached(start_cache: StartCache, put: PutObject, store: Endpoint) -> None:
    put("key", BIG)
    with Proxy(store.port or 0) as proxy:
        client = await start_cache(store=proxy.through(store))
        with proxy.injecting(Truncated(kept_bytes=MIB, of=getting)):
            assert (await client.fetch(client.url("key")))[0] == 302
            await until(lambda: client.downloads("failed") == 1)
        assert list((client.service.directory.directory / "downloads").iterdir()) == []
        assert (await client.until_hit(client.url("key")))[2] == BIG


async def test_shutdown_waits_for_a_running_commit(
    start_cache: StartCache, put: PutObject, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commit's thread uses a descriptor; its number is reused once it is closed."""
    put("key", BIG)
    client = await start_cache()
    open_still: list[bool] = []

    def slow(directory: CacheDirectory, writer: EntryWriter, metadata: CachedObject) -> None:
        started.set()
        time.sleep(0.5)
        open_still.append(writer.file >= 0)
        commit(directory, writer, metadata)

    started = threading.Event()
    monkeypatch.setattr(downloads, "commit", slow)
    await client.fetch(client.url("key"))
    await until(started.is_set)
    await client.service.downloads.close()
    assert open_still == [True]


async def test_a_range_of_a_running_download(start_cache: StartCache, put: PutObject) -> None:
    put("key", BIG)
    client = await start_cache(streams=True)
    status, headers, body = await client.fetch(client.url("key"), Range="bytes=3000000-3000099")
    assert (status, body) == (206, BIG[3_000_000:3_000_100])
    assert headers["Content-Range"] == f"bytes 3000000-3000099/{len(BIG)}"


async def test_an_empty_object(start_cache: StartCache, put: PutObject) -> None:
    put("empty", b"")
    for streams in (True, False):
        client = await start_cache(streams=streams)
        status, _, body = await client.fetch(client.url("empty"))
        assert (status, body) == (200, b"")
        assert (await client.until_hit(client.url("empty")))[2] == b""


# -- hits


@pytest.mark.parametrize(
    ("requested", "status", "expected"),
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
async def test_single_ranges(hit: tuple[CacheClient, str], requested: str, status: int, expected: bytes) -> None:
    client, url = hit
    got, headers, body = await client.fetch(url, Range=requested)
    assert (got, body) == (status, expected)
    if status == 206:
        begin = BIG.index(expected[:64]) if len(expected) >= 64 else None
        assert headers["Content-Range"].endswith(f"/{len(BIG)}")
        assert begin is None or headers["Content-Length"] == str(len(expected))
    if status == 416:
        assert headers["Content-Range"] == f"bytes */{len(BIG)}"


async def test_several_ranges(hit: tuple[CacheClient, str]) -> None:
    client, url = hit
    status, headers, body = await client.fetch(url, Range=f"bytes=0-9, {MIB}-{3 * MIB}, -5")
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
    _, headers, _ = await client.fetch(url)
    etag, modified = headers["ETag"], headers["Last-Modified"]
    before, after = "Mon, 05 Oct 2009 21:09:27 GMT", "Mon, 05 Oct 2099 21:09:27 GMT"
    for sent, status in (
        ({"If-None-Match": etag}, 304),
        ({"If-None-Match": f'"x", W/{etag}'}, 304),
        ({"If-None-Match": "*"}, 304),
        ({"If-None-Match": etag.strip('"')}, 304),
        ({"If-None-Match": '"x"'}, 200),
        ({"If-None-Match": '"x"', "If-Modified-Since": after}, 200),
        ({"If-Modified-Since": modified}, 304),
        ({"If-Modified-Since": before}, 200),
        ({"If-Modified-Since": "yesterday"}, 200),
        ({"If-Match": etag}, 200),
        ({"If-Match": etag.strip('"')}, 200),
        ({"If-Match": '"x"'}, 412),
        ({"If-Unmodified-Since": before}, 412),
        ({"If-Unmodified-Since": modified}, 200),
        ({"Range": "bytes=0-1", "If-Range": etag}, 206),
        ({"Range": "bytes=0-1", "If-Range": '"x"'}, 200),
        ({"Range": "bytes=0-1", "If-Range": modified}, 206),
        ({"Range": "bytes=0-1", "If-Range": after}, 200),
    ):
        got, headers, body = await client.fetch(url, **sent)
        assert got == status, sent
        if status == 304:
            assert (headers["ETag"], body) == (etag, b"")


async def test_head(hit: tuple[CacheClient, str], start_cache: StartCache) -> None:
    client, _ = hit
    url = client.url("key", method="head_object")
    status, headers, body = await client.fetch(url, "HEAD")
    assert (status, headers["Content-Length"], headers["Content-Type"], body) == (
        200, str(len(BIG)), "application/x-thing", b"")  # fmt: skip
    missing = client.url("missing", method="head_object")
    assert (await client.fetch(missing, "HEAD"))[0] == 302
    assert client.count("hit") >= 2


async def test_signed_header_overrides_are_sent(
    hit: tuple[CacheClient, str],
) -> None:
    client, _ = hit
    for version in ("s3", "s3v4"):
        url = client.url(
            "key", version=version, ResponseContentType="text/x; charset=utf-8", ResponseCacheControl="no-cache",
            ResponseContentDisposition='attachment; filename="a b.txt"',
        )  # fmt: skip
        status, headers, _ = await client.fetch(url)
        assert (status, headers["Content-Type"]) == (200, "text/x; charset=utf-8")
        assert headers["Content-Disposition"] == 'attachment; filename="a b.txt"'
        assert (await client.fetch(url.replace("no-cache", "no-store")))[0] == 403


async def test_requests_for_a_version_are_redirected(hit: tuple[CacheClient, str]) -> None:
    client, _ = hit
    for version in ("s3", "s3v4"):
        url = client.url("key", version=version, VersionId="null")
        status, headers, _ = await client.fetch(url)
        assert status == 302
        assert "versionId=null" in headers["Location"]


async def test_other_methods_are_refused(hit: tuple[CacheClient, str]) -> None:
    client, url = hit
    for method in ("PUT", "POST", "DELETE", "OPTIONS"):
        assert (await client.fetch(url, method))[0] == 405


@pytest.mark.parametrize(
    "key", ["../../etc/passwd", "a/../b", "k" * 1024, "日本/ü", "new\nline", "x//y", "a%2Fb?c", "."]
)
async def test_unusual_keys_stay_inside_the_directory(
    start_cache: StartCache, store: Endpoint, tmp_path: Path, key: str
) -> None:
    client = await start_cache()
    url = client.base + (await client.service.store.object_url(key, expires_s=60)).partition(f":{store.port}")[2]
    upload_url = await client.service.store.object_url(key, method="PUT", expires_s=60)
    async with client.http.put(
        yarl.URL(upload_url, encoded=True), data=b"content", skip_auto_headers=["Content-Type"]
    ) as got:
        assert got.status == 200
    assert (await client.until_hit(url))[2] == b"content"
    assert not (tmp_path.parent / "etc").exists() and set(names_in(tmp_path)) == {"cache"}


async def test_a_key_that_is_too_long_is_refused(start_cache: StartCache) -> None:
    client = await start_cache()
    status, _, body = await client.fetch(client.url("k" * 1025))
    assert (status, b"KeyTooLong" in body) == (400, True)


# -- revalidation


async def test_a_changed_object_is_downloaded_again(start_cache: StartCache, put: PutObject, store: Endpoint) -> None:
    put("key", b"before")
    client = await start_cache(revalidate_s=0)
    url = client.url("key")
    assert (await client.until_hit(url))[2] == b"before"
    put("key", b"after")
    status, headers, _ = await client.fetch(url)
    assert status == 302
    assert await client.follow(headers["Location"]) == b"after"
    assert (await client.until_hit(url))[2] == b"after"
    bodies = [path for path in client.service.directory.directory.glob("objects/*/*") if path.suffix != ".json"]
    assert len(bodies) == 1


async def test_revalidating_an_unchanged_object_costs_one_head(
    start_cache: StartCache, put: PutObject, store: Endpoint
) -> None:
    put("key", BIG)
    with Proxy(store.port or 0) as proxy:
        client = await start_cache(store=proxy.through(store), revalidate_s=300)
        await client.until_hit(client.url("key"))
        assert (await client.fetch(client.url("key")))[0] == 200
        assert proxy.requests["HEAD"] == 0
        directory = client.service.directory
        validated_s = time.time() - 301
        os.utime(directory.metadata_path(directory.name("key")), (validated_s, validated_s))
        answers = await asyncio.gather(*(client.fetch(client.url("key")) for _ in range(20)))
        assert {status for status, _, _ in answers} == {200}
        assert (proxy.requests["HEAD"], proxy.requests["GET"]) == (1, 1)


async def test_a_deleted_object_is_no_longer_served(
    start_cache: StartCache, put: PutObject, swift: SwiftServer, store: Endpoint
) -> None:
    put("key")
    client = await start_cache(revalidate_s=0)
    await client.until_hit(client.url("key"))
    swift.boto3_client().delete_object(Bucket=store.bucket_name, Key="key")
    assert (await client.fetch(client.url("key")))[0] == 302
    directory = client.service.directory.directory
    await until(lambda: not any(path.is_file() for path in directory.glob("objects/*/*")))


@pytest.mark.parametrize(("answer", "status"), [(PAGE, 200), (PAGE_WITH_ETAG, 200), (MAINTENANCE["404"], 302)])
async def test_an_object_stays_in_the_cache_while_a_gateway_answers_for_the_store(
    start_cache: StartCache, put: PutObject, store: Endpoint, answer: bytes, status: int
) -> None:
    """While a HEAD finds nothing, it is not sent: only a GET shows that the store has deleted it."""
    put("key")
    with Proxy(store.port or 0) as proxy:
        client = await start_cache(store=proxy.through(store), revalidate_s=0)
        url = client.url("key")
        await client.until_hit(url)
        with proxy.injecting(Page(answer)):
            assert (await client.fetch(url))[0] == status
            await until(lambda: not client.service.downloads.running)
        assert (await client.fetch(url))[2] == b"content"
        assert client.downloads() == 1


@pytest.mark.parametrize("miss", ["redirect", "stream"])
@pytest.mark.parametrize("etag", [None, 'W/"5f3c"'])
async def test_a_response_without_a_strong_etag_is_not_cached(
    start_cache: StartCache, store: Endpoint, miss: str, etag: str | None
) -> None:
    headers = {"x-amz-request-id": "1", **({"etag": etag} if etag else {})}
    with Proxy(store.port or 0) as proxy, proxy.injecting(Page(lies.response(200, b"", "text/plain", **headers))):
        client = await start_cache(store=proxy.through(store), streams=miss == "stream")
        assert (await client.fetch(client.url("key")))[0] == 302
        await until(lambda: not client.service.downloads.running)
        assert not any(path.is_file() for path in client.service.directory.directory.glob("objects/*/*"))


async def test_cached_objects_are_served_while_the_store_is_unavailable(
    start_cache: StartCache, put: PutObject, store: Endpoint
) -> None:
    put("key")
    with Proxy(store.port or 0) as proxy:
        client = await start_cache(store=proxy.through(store), revalidate_s=0)
        url = client.url("key")
        await client.until_hit(url)
    assert (await client.fetch(url))[2] == b"content"


# -- the disk


async def test_an_object_removed_while_it_is_sent_is_sent_completely(hit: tuple[CacheClient, str]) -> None:
    client, url = hit
    reader, writer = await asyncio.open_connection("127.0.0.1", client.service.port, limit=64 * 1024)
    path = url.removeprefix(client.base)
    writer.write(f"GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode())
    await reader.readuntil(b"\r\n\r\n")
    opened = client.service.directory.open("key")
    assert opened is not None
    client.service.directory.remove(client.service.directory.name("key"), opened.metadata)
    opened.close()
    assert await asyncio.wait_for(reader.read(-1), 20) == BIG
    writer.close()
    assert (await client.fetch(url))[0] == 302


async def test_a_stalled_client_is_disconnected(hit: tuple[CacheClient, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("s3s3.mirror.cache.sendfile.STALL_TIMEOUT_S", 0.5)
    client, url = hit
    connector = client.http.connector
    assert connector is not None
    with socket.create_connection(("127.0.0.1", client.service.port)) as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.sendall(f"GET {url.removeprefix(client.base)} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
        await until(lambda: client.service.connections.count >= 1)
        await until(lambda: client.service.connections.count == len(connector._conns))


async def test_without_disk_space_nothing_is_cached_and_clients_are_redirected(
    start_cache: StartCache, put: PutObject
) -> None:
    put("key", BIG)
    for streams in (False, True):
        client = await start_cache(max_fill=0.0, low_fill=0.0, streams=streams)
        status, headers, _ = await client.fetch(client.url("key"))
        assert status == 302
        assert await client.follow(headers["Location"]) == BIG
        await until(partial(lambda client: client.downloads("not_cached") == 1, client))


async def test_a_disk_that_fills_up_during_a_download_leads_to_a_redirect(
    start_cache: StartCache, put: PutObject, small_disk: Path
) -> None:
    """Space is reserved for the body, but another program uses up the space for its metadata."""
    put("key", b"content" * 1000)
    client = await start_cache(directory=small_disk / "cache", streams=True)
    hog = small_disk / "hog"
    with hog.open("wb", buffering=0) as hogging, pytest.raises(OSError, match="No space"):
        while True:
            hogging.write(bytes(4096))
    status, headers, _ = await client.fetch(client.url("key"))
    assert status == 302
    assert await client.follow(headers["Location"]) == b"content" * 1000
    await until(lambda: client.downloads("not_cached") == 1)
    hog.unlink()
    assert (await client.until_hit(client.url("key")))[2] == b"content" * 1000
    hidden = [path for path in client.service.directory.directory.rglob(".*") if path.is_file()]
    assert hidden == []


async def test_a_missing_directory_is_a_readiness_problem(start_cache: StartCache, put: PutObject) -> None:
    put("key")
    client = await start_cache()
    assert await client.service.readiness_problems() == []
    shutil.rmtree(client.service.directory.directory)
    assert "does not exist" in "".join(await client.service.readiness_problems())
    status, headers, _ = await client.fetch(client.url("key"))
    assert (status, await client.follow(headers["Location"])) == (302, b"content")


async def test_behind_nginx_the_response_names_the_file(start_cache: StartCache, put: PutObject) -> None:
    put("key", BIG, ContentType="text/x")
    put("described", BIG, Metadata={"own": "value"})
    client = await start_cache(accel_prefix="/s3s3-cache/")
    _, headers, body = await client.until_hit(client.url("key"))
    path = client.service.directory.directory / headers["X-Accel-Redirect"].removeprefix("/s3s3-cache/")
    assert (path.read_bytes(), body, headers["Content-Type"]) == (BIG, b"", "text/x")
    url = client.url("key")
    assert (await client.fetch(url, X_S3S3_Sendfile="own"))[2] == BIG, "nginx could not open the file"
    assert (await client.fetch(url, If_Range=headers["ETag"], Range="bytes=0-1"))[2] == BIG[:2]
    assert (await client.until_hit(client.url("described")))[2] == BIG, "nginx would not send its metadata"


def names_in(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir()]
