"""The redirect front end over real sockets, with a real store and sources over HTTP and HTTPS."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import re
import ssl
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import datetime, timezone
from ipaddress import ip_network
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import redis
import trustme

from s3s3.config.mirror import MirrorSettings, RedirectSettings
from s3s3.model import Endpoint, Secret
from s3s3.s3 import BucketAdmin
from s3s3.scripts.demo.redis_server import RedisServer
from s3s3.scripts.demo.servers import free_ports
from s3s3.scripts.demo.swift_server import SwiftServer
from tests.mirror.conftest import Mirror, StartMirror
from tests.mirror.origin_server import OriginServer, chunked, redirect, response
from tests.real.ceph_server import CephServer

pytestmark = pytest.mark.real

NAME = "mirror.redirect.s3.here"
STATE = f"s3s3:{{{NAME}}}:state:"
LOOPBACK = (ip_network("127.0.0.0/8"),)


def redirect_of(destination: Endpoint, *patterns: str, **changes: Any) -> MirrorSettings:
    settings = {
        "host": "127.0.0.1",
        "port": 0,
        "patterns": tuple(map(re.compile, patterns or (r"^http://127\.0\.0\.1:\d+/",))),
        "https_only": False,
        "private": LOOPBACK,
        "max_wait_s": 20.0,
        "purge_token": Secret("token"),
        "lifespan_days": 1,
        "force_https": False,
        "destinations": {("s3", "here"): destination},
    }
    return MirrorSettings(redirect=RedirectSettings(**{**settings, **changes}))


def path_of(url: str, verb: str = "redirect") -> str:
    return f"/v1/{verb}/s3/here/{quote(url, safe='')}"


def copy_of(destination: Endpoint, url: str) -> str:
    return f"http://127.0.0.1:{destination.port}/{destination.bucket_name}/{quote(quote(url, safe=''), safe='')}"


@pytest.fixture
def destination(swift: SwiftServer, new_bucket: Callable[..., str]) -> Endpoint:
    return swift.endpoint(new_bucket(swift), NAME)


@pytest.fixture
async def mirror(start_mirror: StartMirror, destination: Endpoint) -> Mirror:
    return await start_mirror(redirect_of(destination))


async def test_a_url_is_redirected_to_its_copy_with_provenance_metadata(
    mirror: Mirror, origin: OriginServer, destination: Endpoint
) -> None:
    url = f"{origin.url}a/../b%20c?x=1&y=2"
    origin.responses["/a/../b%20c?x=1&y=2"] = response(
        b"content", content_type="image/png", content_disposition="attachment", content_encoding="identity",
        content_md5="mgNkuembtIDdJeHwKEyFVQ==", etag='"abc"',
    )  # fmt: skip
    for _ in range(2):
        status, location, body = await mirror.fetch(path_of(url))
        assert (status, json.loads(body)) == (302, {"status": "present", "url": location})
        assert location.startswith(copy_of(destination, url) + "?")
    content, headers = await mirror.content(location)
    assert content == b"content"
    assert (headers["Content-Type"], headers["Content-Disposition"]) == ("image/png", "attachment")
    meta = {name.removeprefix("X-Amz-Meta-Cloud-Mirror-").lower(): value for name, value in headers.items()
            if name.title().startswith("X-Amz-Meta-Cloud-Mirror-")}  # fmt: skip
    meta = {name.removeprefix("x-amz-meta-cloud-mirror-"): value for name, value in meta.items()}
    assert meta["upstream-etag"] == '"abc"'
    assert meta["upstream-content-length"] == "7"
    assert meta["upstream-url"] == url
    assert json.loads(meta["addresses"]) == [{"code": 200, "url": url, "address": "127.0.0.1"}]
    assert "GMT" in meta["stored"]
    assert len(origin.requests) == 1


@pytest.mark.parametrize(
    ("response_bytes", "content"),
    [
        (response(b"x" * 1000), b"x" * 1000),
        (response(b""), b""),
        (response(gzip.compress(b"x" * 1000, mtime=0), content_encoding="gzip"), gzip.compress(b"x" * 1000, mtime=0)),
        (response(zlib.compress(b"x" * 1000), content_encoding="deflate"), zlib.compress(b"x" * 1000)),
        (chunked(b"abc", b"def"), b"abcdef"),
        (chunked(*[b"z" * 65536] * 80), b"z" * 65536 * 80),
        (chunked(gzip.compress(b"x", mtime=0), content_encoding="gzip"), gzip.compress(b"x", mtime=0)),
    ],
    ids=["plain", "empty", "gzip", "deflate", "chunked", "5 MiB in chunks", "gzip in chunks"],
)
async def test_bodies_of_every_kind_are_copied_unchanged(
    mirror: Mirror, origin: OriginServer, response_bytes: bytes, content: bytes
) -> None:
    origin.responses["/x"] = response_bytes
    _, location, _ = await mirror.fetch(path_of(f"{origin.url}x"))
    got, headers = await mirror.content(location)
    assert got == content
    assert headers.get("Content-Encoding") == (
        "gzip" if b"gzip" in response_bytes else "deflate" if b"deflate" in response_bytes else None
    )
    assert origin.gets("/x") == 1


@pytest.mark.parametrize("status", [400, 401, 403, 404, 500, 503])
async def test_an_upstream_error_is_passed_on(mirror: Mirror, origin: OriginServer, status: int) -> None:
    origin.responses["/x"] = response(b"no", status)
    got, _, body = await mirror.fetch(path_of(f"{origin.url}x"))
    assert (got, json.loads(body)["err"]) == (status, "BadHTTPStatus")
    origin.responses["/x"] = response(b"content")
    assert (await mirror.fetch(path_of(f"{origin.url}x")))[0] == 302, "the next request tries again"


async def cut_chunks(writer: asyncio.StreamWriter) -> None:
    writer.write(chunked(b"content")[:-5])


@pytest.mark.parametrize(
    "response_bytes",
    [response(b"x", content_type=None), response(b"", 204), response(b"x", content_length=None)],
    ids=["no Content-Type", "204", "ends by closing"],
)
async def test_a_response_that_cannot_be_copied_leads_to_the_url_itself(
    mirror: Mirror, origin: OriginServer, response_bytes: bytes
) -> None:
    origin.responses["/x"] = response_bytes
    url = f"{origin.url}x"
    status, location, body = await mirror.fetch(path_of(url))
    assert (status, location) == (302, url)
    assert json.loads(body)["msg"].startswith("The URL cannot be copied: ")
    with redis.Redis.from_url(mirror.redis_url) as client:
        assert json.loads(client.get(STATE + quote(url, safe="")))["name"] == "error"


async def test_a_failed_copy_is_retried_while_the_client_waits(mirror: Mirror, origin: OriginServer) -> None:
    origin.responses["/x"] = cut_chunks
    waiting = asyncio.create_task(mirror.fetch(path_of(f"{origin.url}x")))
    while not origin.requests:
        await asyncio.sleep(0.05)
    await asyncio.sleep(0.3)
    assert not waiting.done()
    origin.responses["/x"] = response(b"whole")
    assert json.loads((await waiting)[2])["status"] == "present"


async def test_a_slow_copy_leads_to_the_url_itself(
    start_mirror: StartMirror, origin: OriginServer, destination: Endpoint
) -> None:
    origin.responses["/x"] = response(b"content")
    origin.delay_s = 2.0
    mirror = await start_mirror(redirect_of(destination, max_wait_s=0.5))
    url = f"{origin.url}x"
    status, location, body = await mirror.fetch(path_of(url))
    assert (status, location) == (302, url)
    assert json.loads(body) == {"url": url, "msg": "Cached copy did not show up in 0.5s"}


async def test_concurrent_requests_for_a_url_cause_one_get(mirror: Mirror, origin: OriginServer) -> None:
    origin.responses["/x"] = response(b"content")
    origin.delay_s = 0.3
    answers = await asyncio.gather(*(mirror.fetch(path_of(f"{origin.url}x")) for _ in range(30)))
    assert {json.loads(body)["status"] for _, _, body in answers} == {"present"}
    assert origin.gets("/x") == 1


async def test_concurrent_requests_to_two_processes_cause_one_get(
    start_mirror: StartMirror, origin: OriginServer, destination: Endpoint
) -> None:
    origin.responses["/x"] = response(b"content")
    origin.delay_s = 0.3
    mirrors = [await start_mirror(redirect_of(destination)) for _ in range(2)]
    answers = await asyncio.gather(*(mirrors[number % 2].fetch(path_of(f"{origin.url}x")) for number in range(20)))
    assert {json.loads(body)["status"] for _, _, body in answers} == {"present"}
    assert origin.gets("/x") == 1


@pytest.mark.parametrize("response_bytes", [response, chunked], ids=["plain", "in chunks"])
async def test_a_body_that_does_not_match_its_content_md5_is_not_copied(
    start_mirror: StartMirror,
    origin: OriginServer,
    swift: SwiftServer,
    destination: Endpoint,
    response_bytes: Callable[..., bytes],
) -> None:
    origin.responses["/x"] = response_bytes(b"content", content_md5="AAAAAAAAAAAAAAAAAAAAAA==")
    mirror = await start_mirror(redirect_of(destination, max_wait_s=1.0))
    assert (await mirror.fetch(path_of(f"{origin.url}x")))[:2] == (302, f"{origin.url}x")
    assert swift.boto3_client().list_objects_v2(Bucket=destination.bucket_name)["KeyCount"] == 0


async def test_locations_at_a_public_destination_are_not_signed(
    start_mirror: StartMirror, origin: OriginServer, destination: Endpoint
) -> None:
    origin.responses["/x"] = response(b"content")
    mirror = await start_mirror(redirect_of(replace(destination, acl="public-read")))
    assert (await mirror.fetch(path_of(f"{origin.url}x")))[1] == copy_of(destination, f"{origin.url}x")


# -- allowed URLs


@pytest.mark.parametrize(
    "url",
    ["https://elsewhere.example.org/x", "ftp://127.0.0.1/x", "http://127.0.0.1.evil.org:1/x", "no url", "",
     "http://user:password@127.0.0.1:1/x", "http://127.0.0.1:1\\@evil.org/", "file:///etc/passwd"],
)  # fmt: skip
async def test_a_url_that_matches_no_pattern_is_refused(mirror: Mirror, url: str) -> None:
    status, _, body = await mirror.fetch(path_of(url))
    assert (status, json.loads(body)["err"]) == (403, "InvalidUrl")


async def test_http_is_refused_if_https_is_required(
    start_mirror: StartMirror, origin: OriginServer, destination: Endpoint
) -> None:
    mirror = await start_mirror(redirect_of(destination, https_only=True))
    status, _, body = await mirror.fetch(path_of(f"{origin.url}x"))
    assert (status, json.loads(body)["err"]) == (403, "InvalidUrl")
    assert origin.requests == []


async def test_six_redirects_are_followed_and_a_hundred_are_not(mirror: Mirror, origin: OriginServer) -> None:
    for number in range(100):
        origin.responses[f"/{number}"] = redirect(f"/{number + 1}")
    origin.responses["/100"] = response(b"content")
    _, location, _ = await mirror.fetch(path_of(f"{origin.url}94"))
    assert (await mirror.content(location))[0] == b"content"
    assert len(origin.requests) == 7
    status, location, body = await mirror.fetch(path_of(f"{origin.url}0"))
    assert (status, location) == (302, f"{origin.url}0")
    assert "redirects more than 20 times" in body
    assert len(origin.requests) == 7 + 21


async def test_a_redirect_to_a_url_that_matches_no_pattern_is_not_followed(
    start_mirror: StartMirror, destination: Endpoint
) -> None:
    async with OriginServer() as origin, OriginServer() as outside:
        mirror = await start_mirror(redirect_of(destination, rf"^http://127\.0\.0\.1:{origin.port}/"))
        for path, location in (("/a", f"{outside.url}x"), ("/b", f"//127.0.0.1:{outside.port}/x"),
                               ("/c", f"http://127.0.0.1:{origin.port}@127.0.0.1:{outside.port}/")):  # fmt: skip
            origin.responses[path] = redirect(location)
            status, _, body = await mirror.fetch(path_of(f"http://127.0.0.1:{origin.port}{path}"))
            assert (status, json.loads(body)["err"]) == (403, "InvalidUrl")
        assert outside.requests == []


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "2130706433", "0x7f.1"])
async def test_a_private_address_is_refused_in_every_notation(
    start_mirror: StartMirror, origin: OriginServer, destination: Endpoint, host: str
) -> None:
    origin.responses["/x"] = response(b"of the inner network")
    mirror = await start_mirror(redirect_of(destination, "^http://", private=()))
    status, _, body = await mirror.fetch(path_of(f"http://{host}:{origin.port}/x"))
    assert (status, json.loads(body)["err"]) == (403, "InvalidUrl")
    assert origin.requests == []


async def test_a_redirect_to_a_private_address_is_not_followed(
    start_mirror: StartMirror, destination: Endpoint
) -> None:
    async with OriginServer() as origin, OriginServer(host="127.0.0.2") as inner:
        inner.responses["/x"] = response(b"of the inner network")
        origin.responses["/x"] = redirect(f"{inner.url}x")
        mirror = await start_mirror(redirect_of(destination, "^http://", private=(ip_network("127.0.0.1/32"),)))
        status, _, body = await mirror.fetch(path_of(f"{origin.url}x"))
        assert (status, json.loads(body)["err"], inner.requests) == (403, "InvalidUrl", [])


@pytest.fixture
async def authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> trustme.CA:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    return authority


def tls(certificate: trustme.LeafCert) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    certificate.configure_cert(context)
    return context


Https = Callable[[trustme.LeafCert], Awaitable[OriginServer]]


@pytest.fixture
async def https(authority: trustme.CA) -> AsyncIterator[Https]:
    async with AsyncExitStack() as stack:

        async def start(certificate: trustme.LeafCert) -> OriginServer:
            return await stack.enter_async_context(OriginServer(tls=tls(certificate)))

        yield start


async def test_a_trusted_certificate(
    start_mirror: StartMirror, https: Https, authority: trustme.CA, destination: Endpoint
) -> None:
    origin = await https(authority.issue_cert("127.0.0.1"))
    origin.responses |= {"/x": response(b"content"), "/down": redirect("http://127.0.0.1:1/x")}
    mirror = await start_mirror(redirect_of(destination, r"^https?://127\.0\.0\.1:\d+/", https_only=True))
    _, location, _ = await mirror.fetch(path_of(f"{origin.url}x"))
    assert (await mirror.content(location))[0] == b"content"
    status, _, body = await mirror.fetch(path_of(f"{origin.url}down"))
    assert (status, json.loads(body)["err"]) == (403, "InvalidUrl"), "also after a redirect"


@pytest.mark.parametrize("wrong", ["expired", "another host", "self-signed"])
async def test_an_untrusted_certificate(
    start_mirror: StartMirror, https: Https, authority: trustme.CA, destination: Endpoint, wrong: str
) -> None:
    issue: dict[str, Callable[[], trustme.LeafCert]] = {
        "expired": lambda: authority.issue_cert("127.0.0.1", not_after=datetime(2020, 1, 1, tzinfo=timezone.utc)),
        "another host": lambda: authority.issue_cert("elsewhere.example.org"),
        "self-signed": lambda: trustme.CA().issue_cert("127.0.0.1"),
    }
    origin = await https(issue[wrong]())
    origin.responses["/x"] = response(b"content")
    mirror = await start_mirror(
        redirect_of(destination, r"^https://127\.0\.0\.1:\d+/", https_only=True, max_wait_s=1.5)
    )
    status, location, _ = await mirror.fetch(path_of(f"{origin.url}x"))
    assert (status, location) == (302, f"{origin.url}x")
    assert origin.requests == []


# -- paths


@pytest.mark.parametrize("encode", [
    lambda url: quote(url, safe=""),
    lambda url: quote(base64.b64encode(url.encode()).decode(), safe=""),
    lambda url: base64.urlsafe_b64encode(url.encode()).decode(),
    lambda url: base64.urlsafe_b64encode(url.encode()).decode().rstrip("="),
    lambda url: quote(base64.encodebytes(url.encode()).decode(), safe=""),
])  # fmt: skip
async def test_a_url_may_be_percent_encoded_or_base64(
    mirror: Mirror, origin: OriginServer, encode: Callable[[str], str]
) -> None:
    target = "/x?" + "~" * 60 + ">>>???"
    origin.responses["/x?" + "~" * 60 + "%3E%3E%3E???"] = response(b"content")
    status, _, body = await mirror.fetch(f"/v1/redirect/s3/here/{encode(origin.url[:-1] + target)}")
    assert (status, json.loads(body)["status"]) == (302, "present")


async def test_unknown_paths(mirror: Mirror, origin: OriginServer) -> None:
    encoded = quote(f"{origin.url}x", safe="")
    for path, status in ((f"/v1/redirect/gs/here/{encoded}", 404), (f"/v1/redirect/s3/elsewhere/{encoded}", 404),
                         (f"/v1/redirect/s3/here/{encoded}/more", 400), ("/v1/redirect/s3/here", 404), ("/", 404),
                         (f"/v1/redirect/s3/here/{origin.url}x", 400), ("/v2/ping", 404)):  # fmt: skip
        assert (await mirror.fetch(path))[0] == status, path
    assert (await mirror.fetch(f"/v1/redirect/s3/here/{encoded}", "PUT"))[0] == 405
    assert origin.requests == []


async def test_a_url_too_long_for_a_key_leads_to_the_url_itself(mirror: Mirror, origin: OriginServer) -> None:
    url = origin.url + "x" * 1024
    assert (await mirror.fetch(path_of(url)))[:2] == (302, url)


async def test_ping_and_cors(mirror: Mirror) -> None:
    status, _, body = await mirror.fetch("/v1/ping")
    assert (status, json.loads(body)["alive"]) == (200, True)
    assert json.loads(body)["uptime"] >= 0
    async with mirror.http.options(f"http://127.0.0.1:{mirror.frontends[0].port}/v1/ping") as got:
        assert (got.status, got.headers["Access-Control-Allow-Origin"]) == (204, "*")


async def test_a_client_without_tls_is_redirected_to_https(start_mirror: StartMirror, destination: Endpoint) -> None:
    mirror = await start_mirror(redirect_of(destination, force_https=True))
    plain = {"X-Forwarded-Proto": "http", "Host": "mirror.example.org"}
    status, location, _ = await mirror.fetch("/v1/ping?x=1", headers=plain)
    assert (status, location) == (301, "https://mirror.example.org/v1/ping?x=1")
    async with mirror.http.get(f"http://127.0.0.1:{mirror.frontends[0].port}/v1/ping",
                               headers={"X-Forwarded-Proto": "https"}) as got:  # fmt: skip
        assert got.status == 200
        assert got.headers["Strict-Transport-Security"] == "max-age=7776000"


# -- purging and copy states


async def test_a_purge_needs_the_token_and_the_next_request_copies_again(
    mirror: Mirror, origin: OriginServer, swift: SwiftServer, destination: Endpoint
) -> None:
    url = f"{origin.url}x"
    origin.responses["/x"] = response(b"first")
    await mirror.fetch(path_of(url))
    origin.responses["/x"] = response(b"second")
    for wrong in (
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": "token"},
        {"Authorization": "Bearer tok\u00e9n"},
    ):
        assert (await mirror.fetch(path_of(url, "purge"), "DELETE", headers=wrong))[0] == 401
    assert swift.boto3_client().list_objects_v2(Bucket=destination.bucket_name)["KeyCount"] == 1
    token = {"Authorization": "Bearer token"}
    assert (await mirror.fetch(path_of(url, "purge"), "GET", headers=token))[0] == 405
    assert (await mirror.fetch(path_of(url, "purge"), "DELETE", headers=token))[0] == 204
    assert swift.boto3_client().list_objects_v2(Bucket=destination.bucket_name)["KeyCount"] == 0
    _, location, _ = await mirror.fetch(path_of(url))
    assert (await mirror.content(location))[0] == b"second"
    assert (await mirror.fetch(path_of(f"{origin.url}never", "purge"), "DELETE", headers=token))[0] == 204


async def test_without_a_configured_token_purging_is_refused(
    start_mirror: StartMirror, origin: OriginServer, destination: Endpoint
) -> None:
    mirror = await start_mirror(redirect_of(destination, purge_token=None))
    for authorization in ("Bearer None", "Bearer ", ""):
        assert (await mirror.fetch(path_of(f"{origin.url}x", "purge"), "DELETE",
                                 headers={"Authorization": authorization}))[0] == 401  # fmt: skip


async def test_states_lost_by_redis_are_restored_without_another_copy(mirror: Mirror, origin: OriginServer) -> None:
    url = f"{origin.url}x"
    origin.responses["/x"] = response(b"content")
    await mirror.fetch(path_of(url))
    with redis.Redis.from_url(mirror.redis_url) as client:
        key = STATE + quote(url, safe="")
        assert json.loads(client.get(key))["name"] == "present"
        assert 84_000 < client.ttl(key) <= 86_400 - 1800
        client.flushall()
        assert json.loads((await mirror.fetch(path_of(url)))[2])["status"] == "present"
        assert json.loads(client.get(key))["name"] == "present"
        assert 84_000 < client.ttl(key) <= 86_400 - 1800
    assert origin.gets("/x") == 1


async def test_the_state_expires_with_the_copys_lifecycle_rule(
    start_mirror: StartMirror, origin: OriginServer, ceph: CephServer, new_bucket: Callable[..., str]
) -> None:
    destination = ceph.endpoint(new_bucket(ceph), NAME)
    buckets = BucketAdmin(destination)
    assert await buckets.expire_after(3)
    await buckets.close()
    origin.responses["/x"] = response(b"content")
    mirror = await start_mirror(redirect_of(destination, lifespan_days=30))
    url = f"{origin.url}x"
    await mirror.fetch(path_of(url))
    with redis.Redis.from_url(mirror.redis_url) as client:
        client.flushall()
        assert json.loads((await mirror.fetch(path_of(url)))[2])["status"] == "present"
        left_s = client.ttl(STATE + quote(url, safe=""))
    assert 2 * 86_400 - 3600 < left_s <= 4 * 86_400 - 1800, "by x-amz-expiration, half an hour before it"
    assert origin.gets("/x") == 1


async def test_an_expired_copy_is_made_again(
    start_mirror: StartMirror, origin: OriginServer, destination: Endpoint
) -> None:
    origin.responses["/x"] = response(b"before")
    mirror = await start_mirror(redirect_of(destination, lifespan_days=1 / 86_400))
    _, location, _ = await mirror.fetch(path_of(f"{origin.url}x"))
    assert (await mirror.content(location))[0] == b"before"
    origin.responses["/x"] = response(b"after")
    await asyncio.sleep(2.2)  # Swift rounds up
    _, location, _ = await mirror.fetch(path_of(f"{origin.url}x"))
    assert (await mirror.content(location))[0] == b"after"
    assert origin.gets("/x") == 2


async def test_a_pending_state_of_a_dead_process_does_not_delay_a_copy(mirror: Mirror, origin: OriginServer) -> None:
    url = f"{origin.url}x"
    origin.responses["/x"] = response(b"content")
    with redis.Redis.from_url(mirror.redis_url) as client:
        client.set(STATE + quote(url, safe=""), json.dumps({"name": "pending"}))
    assert json.loads((await mirror.fetch(path_of(url)))[2])["status"] == "present"


async def test_without_redis_copies_are_found_and_other_requests_lead_to_the_url(
    mirror: Mirror, origin: OriginServer, redis_server: RedisServer, destination: Endpoint
) -> None:
    origin.responses |= {"/copied": response(b"content"), "/other": response(b"content")}
    await mirror.fetch(path_of(f"{origin.url}copied"))
    redis_server.kill()
    assert (await mirror.fetch(path_of(f"{origin.url}copied")))[1].startswith(
        copy_of(destination, f"{origin.url}copied")
    )
    assert (await mirror.fetch(path_of(f"{origin.url}other")))[:2] == (302, f"{origin.url}other")


async def test_an_unreachable_source_leads_to_the_url_itself(start_mirror: StartMirror, destination: Endpoint) -> None:
    mirror = await start_mirror(redirect_of(destination, max_wait_s=1.0))
    url = f"http://127.0.0.1:{free_ports(1)[0]}/x"
    assert (await mirror.fetch(path_of(url)))[:2] == (302, url)
