"""The redirect front over real sockets, in front of a real store, with sources over HTTP and HTTPS."""

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
from tests.mirror.conftest import Mirror, Mirrored
from tests.mirror.origin_server import OriginServer, answer, chunked, redirect
from tests.real.ceph_server import CephServer

pytestmark = pytest.mark.real

NAME = "mirror.redirect.s3.here"
STATE = f"s3s3:{{{NAME}}}:state:"
LOOPBACK = (ip_network("127.0.0.0/8"),)


def redirect_of(there: Endpoint, *patterns: str, **changes: Any) -> MirrorSettings:
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
        "destinations": {("s3", "here"): there},
    }
    return MirrorSettings(redirect=RedirectSettings(**{**settings, **changes}))


def path_of(url: str, verb: str = "redirect") -> str:
    return f"/v1/{verb}/s3/here/{quote(url, safe='')}"


def copy_of(there: Endpoint, url: str) -> str:
    return f"http://127.0.0.1:{there.port}/{there.bucket_name}/{quote(quote(url, safe=''), safe='')}"


@pytest.fixture
def there(swift: SwiftServer, new_bucket: Callable[..., str]) -> Endpoint:
    return swift.endpoint(new_bucket(swift), NAME)


@pytest.fixture
async def mirror(mirrored: Mirrored, there: Endpoint) -> Mirror:
    return await mirrored(redirect_of(there))


async def test_a_url_leads_to_its_copy_with_all_that_is_known_of_where_it_came_from(
    mirror: Mirror, origin: OriginServer, there: Endpoint
) -> None:
    url = f"{origin.url}a/../b%20c?x=1&y=2"
    origin.answers["/a/../b%20c?x=1&y=2"] = answer(
        b"content", content_type="image/png", content_disposition="attachment", content_encoding="identity",
        content_md5="mgNkuembtIDdJeHwKEyFVQ==", etag='"abc"',
    )  # fmt: skip
    for _ in range(2):
        status, location, body = await mirror.ask(path_of(url))
        assert (status, json.loads(body)) == (302, {"status": "present", "url": location})
        assert location.startswith(copy_of(there, url) + "?")
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
    assert len(origin.asked) == 1


@pytest.mark.parametrize(
    ("said", "content"),
    [
        (answer(b"x" * 1000), b"x" * 1000),
        (answer(b""), b""),
        (answer(gzip.compress(b"x" * 1000, mtime=0), content_encoding="gzip"), gzip.compress(b"x" * 1000, mtime=0)),
        (answer(zlib.compress(b"x" * 1000), content_encoding="deflate"), zlib.compress(b"x" * 1000)),
        (chunked(b"abc", b"def"), b"abcdef"),
        (chunked(*[b"z" * 65536] * 80), b"z" * 65536 * 80),
        (chunked(gzip.compress(b"x", mtime=0), content_encoding="gzip"), gzip.compress(b"x", mtime=0)),
    ],
    ids=["plain", "empty", "gzip", "deflate", "chunked", "5 MiB in chunks", "gzip in chunks"],
)
async def test_bodies_of_every_kind_arrive_as_they_were(
    mirror: Mirror, origin: OriginServer, said: bytes, content: bytes
) -> None:
    origin.answers["/x"] = said
    _, location, _ = await mirror.ask(path_of(f"{origin.url}x"))
    got, headers = await mirror.content(location)
    assert got == content
    assert headers.get("Content-Encoding") == ("gzip" if b"gzip" in said else "deflate" if b"deflate" in said else None)
    assert origin.gets("/x") == 1


@pytest.mark.parametrize("status", [400, 401, 403, 404, 500, 503])
async def test_what_upstream_refuses_is_passed_on(mirror: Mirror, origin: OriginServer, status: int) -> None:
    origin.answers["/x"] = answer(b"no", status)
    got, _, body = await mirror.ask(path_of(f"{origin.url}x"))
    assert (got, json.loads(body)["err"]) == (status, "BadHTTPStatus")
    origin.answers["/x"] = answer(b"now there is one")
    assert (await mirror.ask(path_of(f"{origin.url}x")))[0] == 302, "the next request asks anew"


async def cut_chunks(writer: asyncio.StreamWriter) -> None:
    writer.write(chunked(b"content")[:-5])


@pytest.mark.parametrize(
    "said",
    [answer(b"x", content_type=None), answer(b"", 204), answer(b"x", content_length=None)],
    ids=["no Content-Type", "204", "ends by closing"],
)
async def test_what_cannot_be_copied_is_to_be_had_at_the_url_itself(
    mirror: Mirror, origin: OriginServer, said: bytes
) -> None:
    origin.answers["/x"] = said
    url = f"{origin.url}x"
    status, location, body = await mirror.ask(path_of(url))
    assert (status, location) == (302, url)
    assert json.loads(body)["msg"].startswith("No copy can be made: ")
    with redis.Redis.from_url(mirror.redis_url) as client:
        assert json.loads(client.get(STATE + quote(url, safe="")))["name"] == "error"


async def test_an_error_is_tried_again_while_the_request_lives(mirror: Mirror, origin: OriginServer) -> None:
    origin.answers["/x"] = cut_chunks
    asking = asyncio.create_task(mirror.ask(path_of(f"{origin.url}x")))
    while not origin.asked:
        await asyncio.sleep(0.05)
    await asyncio.sleep(0.3)
    assert not asking.done()
    origin.answers["/x"] = answer(b"whole")
    assert json.loads((await asking)[2])["status"] == "present"


async def test_a_copy_that_does_not_come_in_time(mirrored: Mirrored, origin: OriginServer, there: Endpoint) -> None:
    origin.answers["/x"] = answer(b"content")
    origin.pause_s = 2.0
    mirror = await mirrored(redirect_of(there, max_wait_s=0.5))
    url = f"{origin.url}x"
    status, location, body = await mirror.ask(path_of(url))
    assert (status, location) == (302, url)
    assert json.loads(body) == {"url": url, "msg": "Cached copy did not show up in 0.5s"}


async def test_many_who_ask_for_a_url_cost_one_get(mirror: Mirror, origin: OriginServer) -> None:
    origin.answers["/x"] = answer(b"content")
    origin.pause_s = 0.3
    answers = await asyncio.gather(*(mirror.ask(path_of(f"{origin.url}x")) for _ in range(30)))
    assert {json.loads(body)["status"] for _, _, body in answers} == {"present"}
    assert origin.gets("/x") == 1


async def test_two_processes_that_are_asked_for_a_url_at_once_cost_one_get(
    mirrored: Mirrored, origin: OriginServer, there: Endpoint
) -> None:
    origin.answers["/x"] = answer(b"content")
    origin.pause_s = 0.3
    mirrors = [await mirrored(redirect_of(there)) for _ in range(2)]
    answers = await asyncio.gather(*(mirrors[number % 2].ask(path_of(f"{origin.url}x")) for number in range(20)))
    assert {json.loads(body)["status"] for _, _, body in answers} == {"present"}
    assert origin.gets("/x") == 1


@pytest.mark.parametrize("said", [answer, chunked], ids=["plain", "in chunks"])
async def test_what_does_not_have_the_md5_that_it_was_promised_is_no_copy(
    mirrored: Mirrored, origin: OriginServer, swift: SwiftServer, there: Endpoint, said: Callable[..., bytes]
) -> None:
    origin.answers["/x"] = said(b"content", content_md5="AAAAAAAAAAAAAAAAAAAAAA==")
    mirror = await mirrored(redirect_of(there, max_wait_s=1.0))
    assert (await mirror.ask(path_of(f"{origin.url}x")))[:2] == (302, f"{origin.url}x")
    assert swift.boto3_client().list_objects_v2(Bucket=there.bucket_name)["KeyCount"] == 0


async def test_whoever_may_read_the_destination_gets_a_plain_location(
    mirrored: Mirrored, origin: OriginServer, there: Endpoint
) -> None:
    origin.answers["/x"] = answer(b"content")
    mirror = await mirrored(redirect_of(replace(there, acl="public-read")))
    assert (await mirror.ask(path_of(f"{origin.url}x")))[1] == copy_of(there, f"{origin.url}x")


# -- what may be asked for


@pytest.mark.parametrize(
    "url",
    ["https://elsewhere.example.org/x", "ftp://127.0.0.1/x", "http://127.0.0.1.evil.org:1/x", "no url", "",
     "http://user:password@127.0.0.1:1/x", "http://127.0.0.1:1\\@evil.org/", "file:///etc/passwd"],
)  # fmt: skip
async def test_a_url_outside_of_the_patterns_is_refused(mirror: Mirror, url: str) -> None:
    status, _, body = await mirror.ask(path_of(url))
    assert (status, json.loads(body)["err"]) == (403, "InvalidUrl")


async def test_http_is_refused_where_https_is_required(
    mirrored: Mirrored, origin: OriginServer, there: Endpoint
) -> None:
    mirror = await mirrored(redirect_of(there, https_only=True))
    status, _, body = await mirror.ask(path_of(f"{origin.url}x"))
    assert (status, json.loads(body)["err"]) == (403, "InvalidUrl")
    assert origin.asked == []


async def test_six_redirects_are_followed_and_a_hundred_are_not(mirror: Mirror, origin: OriginServer) -> None:
    for number in range(100):
        origin.answers[f"/{number}"] = redirect(f"/{number + 1}")
    origin.answers["/100"] = answer(b"content")
    _, location, _ = await mirror.ask(path_of(f"{origin.url}94"))
    assert (await mirror.content(location))[0] == b"content"
    assert len(origin.asked) == 7
    status, location, body = await mirror.ask(path_of(f"{origin.url}0"))
    assert (status, location) == (302, f"{origin.url}0")
    assert "redirects more than 20 times" in body
    assert len(origin.asked) == 7 + 21


async def test_a_hop_that_leaves_the_patterns_is_never_asked_for(mirrored: Mirrored, there: Endpoint) -> None:
    async with OriginServer() as origin, OriginServer() as outside:
        mirror = await mirrored(redirect_of(there, rf"^http://127\.0\.0\.1:{origin.port}/"))
        for path, leads_to in (("/a", f"{outside.url}x"), ("/b", f"//127.0.0.1:{outside.port}/x"),
                               ("/c", f"http://127.0.0.1:{origin.port}@127.0.0.1:{outside.port}/")):  # fmt: skip
            origin.answers[path] = redirect(leads_to)
            status, _, body = await mirror.ask(path_of(f"http://127.0.0.1:{origin.port}{path}"))
            assert (status, json.loads(body)["err"]) == (403, "InvalidUrl")
        assert outside.asked == []


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "2130706433", "0x7f.1"])
async def test_a_private_address_is_refused_by_any_name(
    mirrored: Mirrored, origin: OriginServer, there: Endpoint, host: str
) -> None:
    origin.answers["/x"] = answer(b"of the inner network")
    mirror = await mirrored(redirect_of(there, "^http://", private=()))
    status, _, body = await mirror.ask(path_of(f"http://{host}:{origin.port}/x"))
    assert (status, json.loads(body)["err"]) == (403, "InvalidUrl")
    assert origin.asked == []


async def test_a_redirect_to_a_private_address_is_refused_and_not_followed(mirrored: Mirrored, there: Endpoint) -> None:
    async with OriginServer() as origin, OriginServer(host="127.0.0.2") as inner:
        inner.answers["/x"] = answer(b"of the inner network")
        origin.answers["/x"] = redirect(f"{inner.url}x")
        mirror = await mirrored(redirect_of(there, "^http://", private=(ip_network("127.0.0.1/32"),)))
        status, _, body = await mirror.ask(path_of(f"{origin.url}x"))
        assert (status, json.loads(body)["err"], inner.asked) == (403, "InvalidUrl", [])


@pytest.fixture
async def authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> trustme.CA:
    made = trustme.CA()
    made.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    return made


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


async def test_https_with_a_certificate_that_is_trusted(
    mirrored: Mirrored, https: Https, authority: trustme.CA, there: Endpoint
) -> None:
    origin = await https(authority.issue_cert("127.0.0.1"))
    origin.answers |= {"/x": answer(b"content"), "/down": redirect("http://127.0.0.1:1/x")}
    mirror = await mirrored(redirect_of(there, r"^https?://127\.0\.0\.1:\d+/", https_only=True))
    _, location, _ = await mirror.ask(path_of(f"{origin.url}x"))
    assert (await mirror.content(location))[0] == b"content"
    status, _, body = await mirror.ask(path_of(f"{origin.url}down"))
    assert (status, json.loads(body)["err"]) == (403, "InvalidUrl"), "http on a later hop, too"


@pytest.mark.parametrize("wrong", ["expired", "another host", "self-signed"])
async def test_a_certificate_that_is_not_trusted(
    mirrored: Mirrored, https: Https, authority: trustme.CA, there: Endpoint, wrong: str
) -> None:
    issue: dict[str, Callable[[], trustme.LeafCert]] = {
        "expired": lambda: authority.issue_cert("127.0.0.1", not_after=datetime(2020, 1, 1, tzinfo=timezone.utc)),
        "another host": lambda: authority.issue_cert("elsewhere.example.org"),
        "self-signed": lambda: trustme.CA().issue_cert("127.0.0.1"),
    }
    origin = await https(issue[wrong]())
    origin.answers["/x"] = answer(b"content")
    mirror = await mirrored(redirect_of(there, r"^https://127\.0\.0\.1:\d+/", https_only=True, max_wait_s=1.5))
    status, location, _ = await mirror.ask(path_of(f"{origin.url}x"))
    assert (status, location) == (302, f"{origin.url}x")
    assert origin.asked == []


# -- paths


@pytest.mark.parametrize("encode", [
    lambda url: quote(url, safe=""),
    lambda url: quote(base64.b64encode(url.encode()).decode(), safe=""),
    lambda url: base64.urlsafe_b64encode(url.encode()).decode(),
    lambda url: base64.urlsafe_b64encode(url.encode()).decode().rstrip("="),
    lambda url: quote(base64.encodebytes(url.encode()).decode(), safe=""),
])  # fmt: skip
async def test_a_url_is_percent_encoded_or_base64_of_any_kind(
    mirror: Mirror, origin: OriginServer, encode: Callable[[str], str]
) -> None:
    target = "/x?" + "~" * 60 + ">>>???"
    origin.answers["/x?" + "~" * 60 + "%3E%3E%3E???"] = answer(b"content")
    status, _, body = await mirror.ask(f"/v1/redirect/s3/here/{encode(origin.url[:-1] + target)}")
    assert (status, json.loads(body)["status"]) == (302, "present")


async def test_paths_that_lead_nowhere(mirror: Mirror, origin: OriginServer) -> None:
    encoded = quote(f"{origin.url}x", safe="")
    for path, status in ((f"/v1/redirect/gs/here/{encoded}", 404), (f"/v1/redirect/s3/there/{encoded}", 404),
                         (f"/v1/redirect/s3/here/{encoded}/more", 400), ("/v1/redirect/s3/here", 404), ("/", 404),
                         (f"/v1/redirect/s3/here/{origin.url}x", 400), ("/v2/ping", 404)):  # fmt: skip
        assert (await mirror.ask(path))[0] == status, path
    assert (await mirror.ask(f"/v1/redirect/s3/here/{encoded}", "PUT"))[0] == 405
    assert origin.asked == []


async def test_a_url_too_long_for_a_key_is_to_be_had_itself(mirror: Mirror, origin: OriginServer) -> None:
    url = origin.url + "x" * 1024
    assert (await mirror.ask(path_of(url)))[:2] == (302, url)


async def test_ping_and_cors(mirror: Mirror) -> None:
    status, _, body = await mirror.ask("/v1/ping")
    assert (status, json.loads(body)["alive"]) == (200, True)
    assert json.loads(body)["uptime"] >= 0
    async with mirror.http.options(f"http://127.0.0.1:{mirror.fronts[0].port}/v1/ping") as got:
        assert (got.status, got.headers["Access-Control-Allow-Origin"]) == (204, "*")


async def test_a_client_that_came_without_tls_is_sent_to_https(mirrored: Mirrored, there: Endpoint) -> None:
    mirror = await mirrored(redirect_of(there, force_https=True))
    plain = {"X-Forwarded-Proto": "http", "Host": "mirror.example.org"}
    status, location, _ = await mirror.ask("/v1/ping?x=1", headers=plain)
    assert (status, location) == (301, "https://mirror.example.org/v1/ping?x=1")
    async with mirror.http.get(f"http://127.0.0.1:{mirror.fronts[0].port}/v1/ping",
                               headers={"X-Forwarded-Proto": "https"}) as got:  # fmt: skip
        assert got.status == 200
        assert got.headers["Strict-Transport-Security"] == "max-age=7776000"


# -- purging, and what is known of copies


async def test_a_purge_needs_the_token_and_the_next_request_fetches_anew(
    mirror: Mirror, origin: OriginServer, swift: SwiftServer, there: Endpoint
) -> None:
    url = f"{origin.url}x"
    origin.answers["/x"] = answer(b"first")
    await mirror.ask(path_of(url))
    origin.answers["/x"] = answer(b"second")
    for wrong in (
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": "token"},
        {"Authorization": "Bearer tok\u00e9n"},
    ):
        assert (await mirror.ask(path_of(url, "purge"), "DELETE", headers=wrong))[0] == 401
    assert swift.boto3_client().list_objects_v2(Bucket=there.bucket_name)["KeyCount"] == 1
    token = {"Authorization": "Bearer token"}
    assert (await mirror.ask(path_of(url, "purge"), "GET", headers=token))[0] == 405
    assert (await mirror.ask(path_of(url, "purge"), "DELETE", headers=token))[0] == 204
    assert swift.boto3_client().list_objects_v2(Bucket=there.bucket_name)["KeyCount"] == 0
    _, location, _ = await mirror.ask(path_of(url))
    assert (await mirror.content(location))[0] == b"second"
    assert (await mirror.ask(path_of(f"{origin.url}never", "purge"), "DELETE", headers=token))[0] == 204


async def test_without_a_token_in_the_configuration_nobody_may_purge(
    mirrored: Mirrored, origin: OriginServer, there: Endpoint
) -> None:
    mirror = await mirrored(redirect_of(there, purge_token=None))
    for given in ("Bearer None", "Bearer ", ""):
        assert (await mirror.ask(path_of(f"{origin.url}x", "purge"), "DELETE",
                                 headers={"Authorization": given}))[0] == 401  # fmt: skip


async def test_a_flushed_redis_fills_itself_again_without_another_copy(mirror: Mirror, origin: OriginServer) -> None:
    url = f"{origin.url}x"
    origin.answers["/x"] = answer(b"content")
    await mirror.ask(path_of(url))
    with redis.Redis.from_url(mirror.redis_url) as client:
        key = STATE + quote(url, safe="")
        assert json.loads(client.get(key))["name"] == "present"
        assert 84_000 < client.ttl(key) <= 86_400 - 1800
        client.flushall()
        assert json.loads((await mirror.ask(path_of(url)))[2])["status"] == "present"
        assert json.loads(client.get(key))["name"] == "present"
        assert 84_000 < client.ttl(key) <= 86_400 - 1800
    assert origin.gets("/x") == 1


async def test_what_the_store_says_of_a_copys_end_is_how_long_it_is_known(
    mirrored: Mirrored, origin: OriginServer, ceph: CephServer, new_bucket: Callable[..., str]
) -> None:
    there = ceph.endpoint(new_bucket(ceph), NAME)
    buckets = BucketAdmin(there)
    assert await buckets.expire_after(3)
    await buckets.close()
    origin.answers["/x"] = answer(b"content")
    mirror = await mirrored(redirect_of(there, lifespan_days=30))
    url = f"{origin.url}x"
    await mirror.ask(path_of(url))
    with redis.Redis.from_url(mirror.redis_url) as client:
        client.flushall()
        assert json.loads((await mirror.ask(path_of(url)))[2])["status"] == "present"
        left_s = client.ttl(STATE + quote(url, safe=""))
    assert 2 * 86_400 - 3600 < left_s <= 4 * 86_400 - 1800, "by x-amz-expiration, half an hour before it"
    assert origin.gets("/x") == 1


async def test_a_copy_that_has_had_its_time_is_made_anew(
    mirrored: Mirrored, origin: OriginServer, there: Endpoint
) -> None:
    origin.answers["/x"] = answer(b"before")
    mirror = await mirrored(redirect_of(there, lifespan_days=1 / 86_400))
    _, location, _ = await mirror.ask(path_of(f"{origin.url}x"))
    assert (await mirror.content(location))[0] == b"before"
    origin.answers["/x"] = answer(b"after")
    await asyncio.sleep(2.2)  # Swift rounds up
    _, location, _ = await mirror.ask(path_of(f"{origin.url}x"))
    assert (await mirror.content(location))[0] == b"after"
    assert origin.gets("/x") == 2


async def test_a_pending_state_that_a_lost_process_left_keeps_nobody_waiting(
    mirror: Mirror, origin: OriginServer
) -> None:
    url = f"{origin.url}x"
    origin.answers["/x"] = answer(b"content")
    with redis.Redis.from_url(mirror.redis_url) as client:
        client.set(STATE + quote(url, safe=""), json.dumps({"name": "pending"}))
    assert json.loads((await mirror.ask(path_of(url)))[2])["status"] == "present"


async def test_without_redis_copies_are_found_and_the_rest_is_at_the_url(
    mirror: Mirror, origin: OriginServer, redis_server: RedisServer, there: Endpoint
) -> None:
    origin.answers |= {"/copied": answer(b"content"), "/other": answer(b"content")}
    await mirror.ask(path_of(f"{origin.url}copied"))
    redis_server.kill()
    assert (await mirror.ask(path_of(f"{origin.url}copied")))[1].startswith(copy_of(there, f"{origin.url}copied"))
    assert (await mirror.ask(path_of(f"{origin.url}other")))[:2] == (302, f"{origin.url}other")


async def test_a_source_that_is_away_is_waited_for_and_then_left_to_the_client(
    mirrored: Mirrored, there: Endpoint
) -> None:
    mirror = await mirrored(redirect_of(there, max_wait_s=1.0))
    url = f"http://127.0.0.1:{free_ports(1)[0]}/x"
    assert (await mirror.ask(path_of(url)))[:2] == (302, url)
