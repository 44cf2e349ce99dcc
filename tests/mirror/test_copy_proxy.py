"""The copy-proxy over real sockets, in front of a real store."""

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
from s3s3.mirror.mirror_copy import MirrorCopy
from s3s3.model import Endpoint, Secret
from s3s3.s3 import Timeouts
from s3s3.scripts.demo.redis_server import RedisServer
from s3s3.scripts.demo.servers import free_ports
from s3s3.scripts.demo.swift_server import SwiftServer
from tests.faults.kinds import Says, putting
from tests.faults.proxy import Proxy as FaultyProxy
from tests.mirror.conftest import Mirrored
from tests.mirror.origin_server import OriginServer, Talk, answer, chunked, redirect
from tests.real.ceph_server import CephServer

pytestmark = pytest.mark.real

MIB = 1024 * 1024


def proxy_of(origin: OriginServer, destination: Endpoint, **changes: Any) -> MirrorSettings:
    settings = {"host": "127.0.0.1", "port": 0, "source": origin.url, "max_wait_s": 20.0, "private": (),
                "destination": destination}  # fmt: skip
    return MirrorSettings(proxy=ProxySettings(**{**settings, **changes}))


@pytest.fixture
def there(swift: SwiftServer, new_bucket: Callable[..., str]) -> Endpoint:
    return swift.endpoint(new_bucket(swift), "mirror.proxy.destination")


async def test_a_miss_is_copied_once_and_then_redirected_to(
    mirrored: Mirrored, origin: OriginServer, there: Endpoint
) -> None:
    content = hashlib.sha256(b"seed").digest() * (MIB // 32)
    origin.answers["/a%20b.bin"] = answer(content, content_type="application/x-thing")
    mirror = await mirrored(proxy_of(origin, there))
    for _ in range(2):
        status, location, _ = await mirror.ask("/a%20b.bin")
        assert status == 302
        assert location.startswith(f"http://127.0.0.1:{there.port}/{there.bucket_name}/a%20b.bin?")
        got, headers = await mirror.content(location)
        assert got == content
        assert headers["Content-Type"] == "application/x-thing"
        assert headers["x-amz-meta-source"] == f"{origin.url}a%20b.bin"
    assert origin.gets("/a%20b.bin") == 1
    assert mirror.metrics.mirror_requests["mirror.proxy", "waited"] == 1
    assert mirror.metrics.mirror_requests["mirror.proxy", "hit"] == 1


async def test_fifty_who_ask_at_once_wait_for_one_get(
    mirrored: Mirrored, origin: OriginServer, there: Endpoint
) -> None:
    origin.answers["/key"] = answer(b"content")
    origin.pause_s = 0.3
    mirror = await mirrored(proxy_of(origin, there))
    answers = await asyncio.gather(*(mirror.ask("/key") for _ in range(50)))
    assert {(status, location.partition("?")[0]) for status, location, _ in answers} == {(302, copy_of(there, "key"))}
    assert origin.gets("/key") == 1


async def test_one_waits_and_one_is_sent_to_the_slow_source(
    mirrored: Mirrored, origin: OriginServer, there: Endpoint
) -> None:
    origin.answers["/slow"] = answer(b"content")
    origin.pause_s = 2.0
    mirror = await mirrored(proxy_of(origin, there))
    patient = asyncio.create_task(mirror.ask("/slow"))
    status, location, _ = await mirror.ask("/slow", headers={"x-max-wait-duration": "500ms"})
    assert (status, location) == (302, f"{origin.url}slow")
    assert not patient.done()
    assert (await patient)[1].startswith(copy_of(there, "slow"))
    assert mirror.metrics.mirror_requests["mirror.proxy", "timeout"] == 1
    assert origin.gets("/slow") == 1


async def test_the_copy_goes_on_after_everybody_has_been_sent_to_the_source(
    mirrored: Mirrored, origin: OriginServer, there: Endpoint
) -> None:
    origin.answers["/slow"] = answer(b"content")
    origin.pause_s = 1.0
    mirror = await mirrored(proxy_of(origin, there))
    assert (await mirror.ask("/slow", headers={"x-max-wait-duration": "0s"}))[1] == f"{origin.url}slow"
    assert (await mirror.ask("/slow"))[1].startswith(copy_of(there, "slow"))
    assert origin.gets("/slow") == 1


async def cut_off(writer: asyncio.StreamWriter) -> None:
    writer.write(answer(b"content", content_length="1000"))


async def say_nothing(writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(3600)


async def trickle(writer: asyncio.StreamWriter) -> None:
    writer.write(answer(content_length="1000"))
    for _ in range(1000):
        await asyncio.sleep(0.05)
        writer.write(b"x")
        await writer.drain()


@pytest.mark.parametrize(
    "said",
    [answer(b"no", 404), answer(b"no", 403), answer(b"no", 500), answer(b"", 204), answer(b"part", 206),
     answer(b"content", content_length=None), chunked(b"content"), cut_off, answer(content_length=str(6 * 1024**3)),
     b"SSH-2.0-OpenSSH_9.2\r\n"],
    ids=["404", "403", "500", "204", "206", "no length", "chunked", "cut off", "6 GiB", "no HTTP"],
)  # fmt: skip
async def test_what_cannot_be_copied_is_to_be_had_from_the_source(
    mirrored: Mirrored, origin: OriginServer, there: Endpoint, said: bytes | Talk
) -> None:
    origin.answers["/key"] = said
    mirror = await mirrored(proxy_of(origin, there))
    assert (await mirror.ask("/key"))[:2] == (302, f"{origin.url}key")
    assert mirror.metrics.mirror_requests["mirror.proxy", "not copied"] == 1
    assert mirror.metrics.mirror_too_large["mirror.proxy"] == (said == answer(content_length=str(6 * 1024**3)))


async def test_what_the_source_refuses_is_no_dead_letter_and_shuts_nobody_else_out(
    mirrored: Mirrored, origin: OriginServer, there: Endpoint
) -> None:
    """Any client can ask for any number of keys that there are not."""
    origin.answers |= {f"/{number}": answer(b"no", 403) for number in range(8)} | {"/good": answer(b"content")}
    mirror = await mirrored(proxy_of(origin, there))
    await asyncio.gather(*(mirror.ask(f"/{number}") for number in range(8)))
    assert (await mirror.ask("/good"))[1].startswith(copy_of(there, "good"))
    counts = await mirror.fronts[0].routes[0].jobs.stats()
    assert (sum(counts.dead_letters.values()), counts.pending, counts.circuits) == (0, 0, {})


async def test_a_source_that_says_nothing_does_not_keep_its_key_for_ever(
    mirrored: Mirrored, origin: OriginServer, there: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("s3s3.mirror.frontends.UPSTREAM", Timeouts(connect_s=1, read_s=0.5))
    origin.answers["/key"] = say_nothing
    mirror = await mirrored(proxy_of(origin, there))
    assert (await mirror.ask("/key"))[:2] == (302, f"{origin.url}key")
    origin.answers["/key"] = answer(b"content")
    assert (await mirror.ask("/key"))[1].startswith(copy_of(there, "key"))


async def test_a_source_that_trickles_does_not_keep_its_key_for_ever(
    mirrored: Mirrored, origin: OriginServer, there: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("s3s3.mirror.mirrored_route.MirrorCopy", partial(MirrorCopy, longest_s=0.5))
    origin.answers["/key"] = trickle
    mirror = await mirrored(proxy_of(origin, there))
    assert (await mirror.ask("/key"))[:2] == (302, f"{origin.url}key")
    origin.answers["/key"] = answer(b"content")
    assert (await mirror.ask("/key"))[1].startswith(copy_of(there, "key"))


@pytest.mark.parametrize("status", [403, 500])
async def test_an_upload_that_fails_sends_everybody_to_the_source(
    mirrored: Mirrored, origin: OriginServer, there: Endpoint, status: int
) -> None:
    origin.answers["/key"] = answer(b"content")
    refused = b"HTTP/1.1 %d Said\r\ncontent-length: 0\r\n\r\n" % status
    with FaultyProxy(there.port or 0) as between:
        mirror = await mirrored(proxy_of(origin, between.through(there)))
        with between.injecting(Says(answer=refused, of=putting)):
            answers = await asyncio.gather(*(mirror.ask("/key") for _ in range(5)))
        assert {answer[:2] for answer in answers} == {(302, f"{origin.url}key")}
        assert mirror.metrics.mirror_requests["mirror.proxy", "not copied"] == 5


@pytest.mark.long
async def test_what_is_too_large_for_one_put_goes_in_parts_where_the_destination_takes_them(
    mirrored: Mirrored, origin: OriginServer, ceph: CephServer, new_bucket: Callable[..., str]
) -> None:
    there = replace(ceph.endpoint(new_bucket(ceph), "mirror.proxy.destination"), multipart=True,
                    multipart_threshold_bytes=5 * MIB)  # fmt: skip
    content = hashlib.sha256(b"seed").digest() * (12 * MIB // 32)
    origin.answers["/key"] = answer(content, content_type="application/x-thing")
    mirror = await mirrored(proxy_of(origin, there))
    _, location, _ = await mirror.ask("/key")
    got, headers = await mirror.content(location)
    assert (got, headers["Content-Type"]) == (content, "application/x-thing")
    assert "-" in headers["ETag"], "it came in parts"


async def test_every_event_is_told_by_the_predecessors_name(
    mirrored: Mirrored, origin: OriginServer, there: Endpoint
) -> None:
    told: list[tuple[str, str]] = []
    origin.answers |= {"/good": answer(b"content"), "/bad": answer(b"no", 403), "/slow": say_nothing}
    mirror = await mirrored(proxy_of(origin, there), line=lambda event, mirror, _: told.append((event, mirror)))
    for path in ("/good", "/good", "/bad", "/slow"):
        await mirror.ask(path, headers={"x-max-wait-duration": "300ms" if path == "/slow" else "20s"})
    away = replace(there, port=free_ports(1)[0])
    other = await mirrored(proxy_of(origin, away), line=lambda event, mirror, _: told.append((event, mirror)))
    await other.ask("/good")
    assert Counter(told) == Counter(
        (event, "mirror.proxy")
        for event in ("CacheWaitedForUpload", "CacheUpload", "CacheHit", "CacheWaitedForUploadMiss",
                      "CacheUploadError", "CacheTimeout", "CacheErrorRedirect")
    )  # fmt: skip


async def test_a_front_says_what_it_is_not_ready_for(
    mirrored: Mirrored, origin: OriginServer, there: Endpoint, redis_server: RedisServer
) -> None:
    mirror = await mirrored(proxy_of(origin, there))
    front = mirror.fronts[0]
    assert (await front.readiness_problems(), front.health_problem()) == ([], "")
    no_bucket = await mirrored(proxy_of(origin, replace(there, bucket_name="there-is-none")))
    assert "there-is-none" in "".join(await no_bucket.fronts[0].readiness_problems())
    redis_server.kill()
    assert "Redis" in "".join(await front.readiness_problems())
    redis_server.start()


async def test_a_destination_that_refuses_or_is_away_sends_everybody_to_the_source(
    mirrored: Mirrored, origin: OriginServer, there: Endpoint
) -> None:
    origin.answers["/key"] = answer(b"content")
    refused = await mirrored(proxy_of(origin, replace(there, secret_access_key=Secret("wrong"))))
    assert (await refused.ask("/key"))[:2] == (302, f"{origin.url}key")
    assert refused.metrics.mirror_requests["mirror.proxy", "error"] == 1
    no_bucket = await mirrored(proxy_of(origin, replace(there, bucket_name="there-is-none")))
    assert (await no_bucket.ask("/key"))[:2] == (302, f"{origin.url}key")
    away = await mirrored(proxy_of(origin, replace(there, port=free_ports(1)[0])))
    assert (await away.ask("/key"))[:2] == (302, f"{origin.url}key")


async def test_without_redis_copies_are_still_found_and_the_rest_is_at_the_source(
    mirrored: Mirrored, origin: OriginServer, there: Endpoint, redis_server: RedisServer
) -> None:
    origin.answers |= {"/copied": answer(b"content"), "/other": answer(b"content")}
    mirror = await mirrored(proxy_of(origin, there))
    await mirror.ask("/copied")
    redis_server.kill()
    assert (await mirror.ask("/copied"))[1].startswith(copy_of(there, "copied"))
    assert (await mirror.ask("/other"))[:2] == (302, f"{origin.url}other")
    redis_server.start()
    assert (await mirror.ask("/other"))[1].startswith(copy_of(there, "other"))


async def test_nothing_of_the_clients_own_is_sent_to_the_source(
    mirrored: Mirrored, origin: OriginServer, there: Endpoint
) -> None:
    origin.answers["/key"] = answer(b"content")
    mirror = await mirrored(proxy_of(origin, there))
    own = {"Range": "bytes=0-1", "Authorization": "Basic eDp5", "If-None-Match": '"x"', "Cookie": "a=b",
           "If-Modified-Since": "Mon, 05 Oct 2026 21:09:27 GMT"}  # fmt: skip
    _, location, _ = await mirror.ask("/key?session=secret", headers=own)
    assert (await mirror.content(location))[0] == b"content"
    assert [asked.target for asked in origin.asked] == ["/key"]
    assert not {name.lower() for name in own} & set(origin.asked[0].headers)


async def test_only_get_and_head_are_answered(mirrored: Mirrored, origin: OriginServer, there: Endpoint) -> None:
    origin.answers["/key"] = answer(b"content")
    mirror = await mirrored(proxy_of(origin, there))
    for method in ("PUT", "POST", "DELETE", "OPTIONS", "PATCH"):
        assert (await mirror.ask("/key", method, data=b"x"))[0] == 405
    assert origin.asked == []
    status, location, _ = await mirror.ask("/key", "HEAD")
    async with mirror.http.head(yarl.URL(location, encoded=True)) as got:
        assert (status, got.status, got.headers["Content-Length"]) == (302, 200, "7")


@pytest.mark.parametrize("path", ["/", "/a/../b", "/..", "/a/%2e%2e/b", "/a%2F..%2Fb", "/./a", "/%ff", "/a%00b"])
async def test_a_path_that_names_no_object_is_refused(
    mirrored: Mirrored, origin: OriginServer, there: Endpoint, path: str
) -> None:
    mirror = await mirrored(proxy_of(origin, there))
    assert (await mirror.ask(path))[0] == 400
    assert origin.asked == []


@pytest.mark.parametrize("key", ["a b+c&d=e;f", "日本/ü", "a%2Fb?c", "x//y", "new\nline", "k" * 1024, "k" * 1025])
async def test_odd_keys_arrive_or_are_at_the_source(
    mirrored: Mirrored, origin: OriginServer, there: Endpoint, key: str
) -> None:
    path = "/" + quote(key, safe="/~!$&'()*+,;=:@")
    origin.answers[path] = answer(key.encode())
    mirror = await mirrored(proxy_of(origin, there))
    _, location, _ = await mirror.ask(path)
    assert location.startswith(copy_of(there, quote(key))) or len(key) > 1024
    assert (await mirror.content(location))[0] == key.encode()


async def test_prefix_storage_class_acl_encoding_and_disposition(
    mirrored: Mirrored, origin: OriginServer, there: Endpoint
) -> None:
    squeezed = gzip.compress(b"content" * 1000)
    origin.answers["/key"] = answer(squeezed, content_encoding="gzip", content_disposition='attachment; filename="x"',
                                    x_amz_meta_own="is not carried over")  # fmt: skip
    there = replace(there, prefix="mirrored/", acl="public-read", storage_class="STANDARD")
    mirror = await mirrored(proxy_of(origin, there))
    _, location, _ = await mirror.ask("/key")
    assert location == copy_of(there, "mirrored/key"), "whoever asks may read it, so nothing is signed"
    held = await mirror.fronts[0].routes[0].store.head("key")
    assert held is not None
    assert held.size_bytes == len(squeezed)
    assert held.headers == {"content-type": "text/plain", "content-encoding": "gzip",
                            "content-disposition": 'attachment; filename="x"',
                            "x-amz-meta-source": f"{origin.url}key"}  # fmt: skip


async def test_v4_locations_for_a_store_that_wants_them(
    mirrored: Mirrored, origin: OriginServer, there: Endpoint
) -> None:
    origin.answers["/a b"] = origin.answers["/a%20b"] = answer(b"content")
    mirror = await mirrored(proxy_of(origin, replace(there, signature_version="s3v4")))
    _, location, _ = await mirror.ask("/a%20b")
    assert "X-Amz-Signature=" in location
    assert (await mirror.content(location))[0] == b"content"


@pytest.mark.parametrize("private", [(), (ip_network("127.0.0.0/8"),)], ids=["refused", "allowed"])
async def test_a_redirect_of_the_source_leads_to_an_inner_address_only_where_that_is_allowed(
    mirrored: Mirrored, there: Endpoint, private: tuple[IPv4Network, ...]
) -> None:
    async with OriginServer() as inner, OriginServer() as origin:
        inner.answers["/secret"] = answer(b"of the inner network")
        origin.answers |= {"/moved": redirect("/key"), "/key": answer(b"content"),
                           "/inner": redirect(f"{inner.url}secret")}  # fmt: skip
        mirror = await mirrored(proxy_of(origin, there, private=private))
        _, location, _ = await mirror.ask("/moved")
        assert (await mirror.content(location))[0] == b"content"
        _, location, _ = await mirror.ask("/inner")
    assert location.startswith(copy_of(there, "inner")) == bool(private)
    assert inner.gets("/secret") == bool(private)


def copy_of(endpoint: Endpoint, encoded_key: str) -> str:
    return f"http://127.0.0.1:{endpoint.port}/{endpoint.bucket_name}/{encoded_key}"
