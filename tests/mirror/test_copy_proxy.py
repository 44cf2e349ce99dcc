"""The copy-proxy over real sockets, with a real store."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from ipaddress import IPv4Network, ip_network
from typing import Any
from urllib.parse import quote

import pytest
import yarl

from s3s3.config.mirror import MirrorSettings, ProxySettings
from s3s3.mirror.mirrored_route import MirrorCopy
from s3s3.model import Endpoint, Secret
from s3s3.s3 import Timeouts
from s3s3.scripts.demo.redis_server import RedisServer
from s3s3.scripts.demo.servers import free_ports
from s3s3.scripts.demo.swift_server import SwiftServer
from tests.faults.kinds import Respond, putting
from tests.faults.proxy import Proxy as FaultyProxy
from tests.mirror.conftest import StartMirror
from tests.mirror.origin_server import OriginServer, Responder, chunked, redirect, response
from tests.real.ceph_server import CephServer

pytestmark = pytest.mark.real

MIB = 1024 * 1024


def proxy_of(origin: OriginServer, destination: Endpoint, **changes: Any) -> MirrorSettings:
    settings = {"host": "127.0.0.1", "port": 0, "source": origin.url, "max_wait_s": 20.0, "private": (),
                "destination": destination}  # fmt: skip
    return MirrorSettings(proxy=ProxySettings(**{**settings, **changes}))


@pytest.fixture
def destination(swift: SwiftServer, new_bucket: Callable[..., str]) -> Endpoint:
    return swift.endpoint(new_bucket(swift), "mirror.proxy.destination")


async def test_a_miss_is_copied_once_and_redirected_to(
    start_mirror: StartMirror, origin: OriginServer, destination: Endpoint
) -> None:
    content = hashlib.sha256(b"seed").digest() * (MIB // 32)
    origin.responses["/a%20b.bin"] = response(content, content_type="application/x-thing")
    mirror = await start_mirror(proxy_of(origin, destination))
    for _ in range(2):
        status, location, _ = await mirror.fetch("/a%20b.bin")
        assert status == 302
        assert location.startswith(f"http://127.0.0.1:{destination.port}/{destination.bucket_name}/a%20b.bin?")
        got, headers = await mirror.content(location)
        assert got == content
        assert headers["Content-Type"] == "application/x-thing"
        assert headers["x-amz-meta-source"] == f"{origin.url}a%20b.bin"
    assert origin.gets("/a%20b.bin") == 1
    assert mirror.metrics.mirror_requests["mirror.proxy", "waited"] == 1
    assert mirror.metrics.mirror_requests["mirror.proxy", "hit"] == 1


async def test_fifty_concurrent_requests_cause_one_get(
    start_mirror: StartMirror, origin: OriginServer, destination: Endpoint
) -> None:
    origin.responses["/key"] = response(b"content")
    origin.delay_s = 0.3
    mirror = await start_mirror(proxy_of(origin, destination))
    answers = await asyncio.gather(*(mirror.fetch("/key") for _ in range(50)))
    assert {(status, location.partition("?")[0]) for status, location, _ in answers} == {
        (302, copy_of(destination, "key"))
    }
    assert origin.gets("/key") == 1


async def test_a_client_may_shorten_its_wait(
    start_mirror: StartMirror, origin: OriginServer, destination: Endpoint
) -> None:
    origin.responses["/slow"] = response(b"content")
    origin.delay_s = 2.0
    mirror = await start_mirror(proxy_of(origin, destination))
    waiting = asyncio.create_task(mirror.fetch("/slow"))
    status, location, _ = await mirror.fetch("/slow", headers={"x-max-wait-duration": "500ms"})
    assert (status, location) == (302, f"{origin.url}slow")
    assert not waiting.done()
    assert (await waiting)[1].startswith(copy_of(destination, "slow"))
    assert mirror.metrics.mirror_requests["mirror.proxy", "timeout"] == 1
    assert origin.gets("/slow") == 1


async def test_a_copy_continues_after_its_clients_are_redirected_to_the_source(
    start_mirror: StartMirror, origin: OriginServer, destination: Endpoint
) -> None:
    origin.responses["/slow"] = response(b"content")
    origin.delay_s = 1.0
    mirror = await start_mirror(proxy_of(origin, destination))
    assert (await mirror.fetch("/slow", headers={"x-max-wait-duration": "0s"}))[1] == f"{origin.url}slow"
    assert (await mirror.fetch("/slow"))[1].startswith(copy_of(destination, "slow"))
    assert origin.gets("/slow") == 1


async def cut_off(writer: asyncio.StreamWriter) -> None:
    writer.write(response(b"content", content_length="1000"))


async def stall(writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(3600)


async def trickle(writer: asyncio.StreamWriter) -> None:
    writer.write(response(content_length="1000"))
    for _ in range(1000):
        await asyncio.sleep(0.05)
        writer.write(b"x")
        await writer.drain()


@pytest.mark.parametrize(
    "response_bytes",
    [response(b"no", 404), response(b"no", 403), response(b"no", 500), response(b"", 204), response(b"part", 206),
     response(b"content", content_length=None), chunked(b"content")[:-5], cut_off,
     response(b"content", content_length=None, etag=f'"{hashlib.md5(b"other").hexdigest()}"'),
     response(content_length=str(6 * 1024**3)), b"SSH-2.0-OpenSSH_9.2\r\n"],
    ids=["404", "403", "500", "204", "206", "no length", "incomplete chunks", "cut off", "wrong MD5", "6 GiB", "SSH"],
)  # fmt: skip
async def test_a_response_that_cannot_be_copied_leads_to_the_source(
    start_mirror: StartMirror, origin: OriginServer, destination: Endpoint, response_bytes: bytes | Responder
) -> None:
    origin.responses["/key"] = response_bytes
    mirror = await start_mirror(proxy_of(origin, destination))
    assert (await mirror.fetch("/key"))[:2] == (302, f"{origin.url}key")
    assert mirror.metrics.mirror_requests["mirror.proxy", "not_copied"] == 1
    assert mirror.metrics.mirror_too_large["mirror.proxy"] == (
        response_bytes == response(content_length=str(6 * 1024**3))
    )


@pytest.mark.parametrize("size_bytes", [0, 7, MIB])
@pytest.mark.parametrize("framing", ["chunks", "to the close"])
async def test_a_response_without_content_length_is_copied_if_its_end_is_certain(
    start_mirror: StartMirror, origin: OriginServer, destination: Endpoint, framing: str, size_bytes: int
) -> None:
    content = bytes(size_bytes)
    etag = f'"{hashlib.md5(content).hexdigest()}"'
    if framing == "chunks":
        origin.responses["/key"] = chunked(*([content[:5], content[5:]] if content else []))
    else:
        origin.responses["/key"] = response(content, content_length=None, etag=etag)
    mirror = await start_mirror(proxy_of(origin, destination))
    _, location, _ = await mirror.fetch("/key")
    assert location.startswith(copy_of(destination, "key"))
    got, headers = await mirror.content(location)
    assert (got, headers["ETag"]) == (content, etag)


async def test_a_refusal_by_the_source_is_not_a_dead_letter_and_opens_no_circuit(
    start_mirror: StartMirror, origin: OriginServer, destination: Endpoint
) -> None:
    """Any client can request any number of keys that do not exist."""
    origin.responses |= {f"/{number}": response(b"no", 403) for number in range(8)} | {"/good": response(b"content")}
    mirror = await start_mirror(proxy_of(origin, destination))
    await asyncio.gather(*(mirror.fetch(f"/{number}") for number in range(8)))
    assert (await mirror.fetch("/good"))[1].startswith(copy_of(destination, "good"))
    stats = await mirror.frontends[0].routes[0].jobs.stats()
    assert (sum(stats.dead_letters.values()), stats.pending, stats.circuits) == (0, 0, {})


async def test_a_stalled_source_times_out(
    start_mirror: StartMirror, origin: OriginServer, destination: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("s3s3.mirror.frontends.UPSTREAM_TIMEOUTS", Timeouts(connect_s=1, read_s=0.5))
    origin.responses["/key"] = stall
    mirror = await start_mirror(proxy_of(origin, destination))
    assert (await mirror.fetch("/key"))[:2] == (302, f"{origin.url}key")
    origin.responses["/key"] = response(b"content")
    assert (await mirror.fetch("/key"))[1].startswith(copy_of(destination, "key"))


async def test_a_slow_source_times_out(
    start_mirror: StartMirror, origin: OriginServer, destination: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("s3s3.mirror.mirrored_route.MirrorCopy", partial(MirrorCopy, max_copy_s=0.5))
    origin.responses["/key"] = trickle
    mirror = await start_mirror(proxy_of(origin, destination))
    assert (await mirror.fetch("/key"))[:2] == (302, f"{origin.url}key")
    origin.responses["/key"] = response(b"content")
    assert (await mirror.fetch("/key"))[1].startswith(copy_of(destination, "key"))


@pytest.mark.parametrize("status", [403, 500])
async def test_after_a_failed_upload_clients_are_redirected_to_the_source(
    start_mirror: StartMirror, origin: OriginServer, destination: Endpoint, status: int
) -> None:
    origin.responses["/key"] = response(b"content")
    refused = b"HTTP/1.1 %d Status\r\ncontent-length: 0\r\n\r\n" % status
    with FaultyProxy(destination.port or 0) as between:
        mirror = await start_mirror(proxy_of(origin, between.through(destination)))
        with between.injecting(Respond(answer=refused, of=putting)):
            answers = await asyncio.gather(*(mirror.fetch("/key") for _ in range(5)))
        assert {answer[:2] for answer in answers} == {(302, f"{origin.url}key")}
        assert mirror.metrics.mirror_requests["mirror.proxy", "not_copied"] == 5


@pytest.mark.long
async def test_a_large_object_is_copied_by_multipart_upload_if_configured(
    start_mirror: StartMirror, origin: OriginServer, ceph: CephServer, new_bucket: Callable[..., str]
) -> None:
    destination = replace(ceph.endpoint(new_bucket(ceph), "mirror.proxy.destination"), multipart=True,
                    multipart_threshold_bytes=5 * MIB)  # fmt: skip
    content = hashlib.sha256(b"seed").digest() * (12 * MIB // 32)
    origin.responses["/key"] = response(content, content_type="application/x-thing")
    mirror = await start_mirror(proxy_of(origin, destination))
    _, location, _ = await mirror.fetch("/key")
    got, headers = await mirror.content(location)
    assert (got, headers["Content-Type"]) == (content, "application/x-thing")
    assert "-" in headers["ETag"], "a multipart ETag"


async def test_events_have_the_predecessors_names(
    start_mirror: StartMirror, origin: OriginServer, destination: Endpoint
) -> None:
    events: list[tuple[str, str]] = []
    origin.responses |= {"/good": response(b"content"), "/bad": response(b"no", 403), "/slow": stall}
    mirror = await start_mirror(
        proxy_of(origin, destination), record_event=lambda event, mirror, _: events.append((event, mirror))
    )
    for path in ("/good", "/good", "/bad", "/slow"):
        await mirror.fetch(path, headers={"x-max-wait-duration": "300ms" if path == "/slow" else "20s"})
    away = replace(destination, port=free_ports(1)[0])
    other = await start_mirror(
        proxy_of(origin, away), record_event=lambda event, mirror, _: events.append((event, mirror))
    )
    await other.fetch("/good")
    assert Counter(events) == Counter(
        (event, "mirror.proxy")
        for event in ("CacheWaitedForUpload", "CacheUpload", "CacheHit", "CacheWaitedForUploadMiss",
                      "CacheUploadError", "CacheTimeout", "CacheErrorRedirect")
    )  # fmt: skip


async def test_readiness_problems(
    start_mirror: StartMirror, origin: OriginServer, destination: Endpoint, redis_server: RedisServer
) -> None:
    mirror = await start_mirror(proxy_of(origin, destination))
    frontend = mirror.frontends[0]
    assert (await frontend.readiness_problems(), frontend.health_problem()) == ([], "")
    no_bucket = await start_mirror(proxy_of(origin, replace(destination, bucket_name="missing")))
    assert "missing" in "".join(await no_bucket.frontends[0].readiness_problems())
    redis_server.kill()
    assert "Redis" in "".join(await frontend.readiness_problems())
    redis_server.start()


@pytest.mark.long
async def test_with_an_unusable_destination_clients_are_redirected_to_the_source(
    start_mirror: StartMirror, origin: OriginServer, destination: Endpoint
) -> None:
    origin.responses["/key"] = response(b"content")
    refused = await start_mirror(proxy_of(origin, replace(destination, secret_access_key=Secret("wrong"))))
    assert (await refused.fetch("/key"))[:2] == (302, f"{origin.url}key")
    assert refused.metrics.mirror_requests["mirror.proxy", "error"] == 1
    no_bucket = await start_mirror(proxy_of(origin, replace(destination, bucket_name="missing")))
    assert (await no_bucket.fetch("/key"))[:2] == (302, f"{origin.url}key")
    away = await start_mirror(proxy_of(origin, replace(destination, port=free_ports(1)[0])))
    assert (await away.fetch("/key"))[:2] == (302, f"{origin.url}key")


async def test_without_redis_copies_are_found_and_other_requests_lead_to_the_source(
    start_mirror: StartMirror, origin: OriginServer, destination: Endpoint, redis_server: RedisServer
) -> None:
    origin.responses |= {"/copied": response(b"content"), "/other": response(b"content")}
    mirror = await start_mirror(proxy_of(origin, destination))
    await mirror.fetch("/copied")
    redis_server.kill()
    assert (await mirror.fetch("/copied"))[1].startswith(copy_of(destination, "copied"))
    assert (await mirror.fetch("/other"))[:2] == (302, f"{origin.url}other")
    redis_server.start()
    assert (await mirror.fetch("/other"))[1].startswith(copy_of(destination, "other"))


async def test_headers_and_query_of_the_client_are_not_sent_to_the_source(
    start_mirror: StartMirror, origin: OriginServer, destination: Endpoint
) -> None:
    origin.responses["/key"] = response(b"content")
    mirror = await start_mirror(proxy_of(origin, destination))
    own = {"Range": "bytes=0-1", "Authorization": "Basic eDp5", "If-None-Match": '"x"', "Cookie": "a=b",
           "If-Modified-Since": "Mon, 05 Oct 2026 21:09:27 GMT"}  # fmt: skip
    _, location, _ = await mirror.fetch("/key?session=secret", headers=own)
    assert (await mirror.content(location))[0] == b"content"
    assert [request.target for request in origin.requests] == ["/key"]
    assert not {name.lower() for name in own} & set(origin.requests[0].headers)


async def test_only_get_and_head_are_allowed(
    start_mirror: StartMirror, origin: OriginServer, destination: Endpoint
) -> None:
    origin.responses["/key"] = response(b"content")
    mirror = await start_mirror(proxy_of(origin, destination))
    for method in ("PUT", "POST", "DELETE", "OPTIONS", "PATCH"):
        assert (await mirror.fetch("/key", method, data=b"x"))[0] == 405
    assert origin.requests == []
    status, location, _ = await mirror.fetch("/key", "HEAD")
    async with mirror.http.head(yarl.URL(location, encoded=True)) as got:
        assert (status, got.status, got.headers["Content-Length"]) == (302, 200, "7")


@pytest.mark.parametrize("path", ["/", "/a/../b", "/..", "/a/%2e%2e/b", "/a%2F..%2Fb", "/./a", "/%ff", "/a%00b"])
async def test_a_path_that_is_not_a_key_is_refused(
    start_mirror: StartMirror, origin: OriginServer, destination: Endpoint, path: str
) -> None:
    mirror = await start_mirror(proxy_of(origin, destination))
    assert (await mirror.fetch(path))[0] == 400
    assert origin.requests == []


@pytest.mark.parametrize("key", ["a b+c&d=e;f", "日本/ü", "a%2Fb?c", "x//y", "new\nline", "k" * 1024, "k" * 1025])
async def test_unusual_keys_are_copied_or_lead_to_the_source(
    start_mirror: StartMirror, origin: OriginServer, destination: Endpoint, key: str
) -> None:
    path = "/" + quote(key, safe="/~!$&'()*+,;=:@")
    origin.responses[path] = response(key.encode())
    mirror = await start_mirror(proxy_of(origin, destination))
    _, location, _ = await mirror.fetch(path)
    assert location.startswith(copy_of(destination, quote(key))) or len(key) > 1024
    assert (await mirror.content(location))[0] == key.encode()


async def test_prefix_storage_class_acl_encoding_and_disposition(
    start_mirror: StartMirror, origin: OriginServer, destination: Endpoint
) -> None:
    squeezed = gzip.compress(b"content" * 1000)
    origin.responses["/key"] = response(
        squeezed, content_encoding="gzip", content_disposition='attachment; filename="x"',
        x_amz_meta_own="is not copied",
    )  # fmt: skip
    destination = replace(destination, prefix="mirrored/", acl="public-read", storage_class="STANDARD")
    mirror = await start_mirror(proxy_of(origin, destination))
    _, location, _ = await mirror.fetch("/key")
    assert location == copy_of(destination, "mirrored/key"), "not signed, because the copy is public"
    info = await mirror.frontends[0].routes[0].store.head("key")
    assert info is not None
    assert info.size_bytes == len(squeezed)
    assert info.headers == {"content-type": "text/plain", "content-encoding": "gzip",
                            "content-disposition": 'attachment; filename="x"',
                            "x-amz-meta-source": f"{origin.url}key"}  # fmt: skip


async def test_v4_locations(start_mirror: StartMirror, origin: OriginServer, destination: Endpoint) -> None:
    origin.responses["/a b"] = origin.responses["/a%20b"] = response(b"content")
    mirror = await start_mirror(proxy_of(origin, replace(destination, signature_version="s3v4")))
    _, location, _ = await mirror.fetch("/a%20b")
    assert "X-Amz-Signature=" in location
    assert (await mirror.content(location))[0] == b"content"


@pytest.mark.parametrize("private", [(), (ip_network("127.0.0.0/8"),)], ids=["refused", "allowed"])
async def test_a_redirect_to_an_internal_address_is_followed_only_if_allowed(
    start_mirror: StartMirror, destination: Endpoint, private: tuple[IPv4Network, ...]
) -> None:
    async with OriginServer() as inner, OriginServer() as origin:
        inner.responses["/secret"] = response(b"of the inner network")
        origin.responses |= {"/moved": redirect("/key"), "/key": response(b"content"),
                           "/inner": redirect(f"{inner.url}secret")}  # fmt: skip
        mirror = await start_mirror(proxy_of(origin, destination, private=private))
        _, location, _ = await mirror.fetch("/moved")
        assert (await mirror.content(location))[0] == b"content"
        _, location, _ = await mirror.fetch("/inner")
    assert location.startswith(copy_of(destination, "inner")) == bool(private)
    assert inner.gets("/secret") == bool(private)


def copy_of(endpoint: Endpoint, encoded_key: str) -> str:
    return f"http://127.0.0.1:{endpoint.port}/{endpoint.bucket_name}/{encoded_key}"
