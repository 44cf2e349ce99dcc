"""Any HTTP server as a source, over real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from ipaddress import ip_network
from typing import Any

import pytest

from s3s3.errors import IntegrityError, NoSuchKey, StoreError, StoreUnavailable, UpstreamRefused, UrlForbidden
from s3s3.mirror.upstream.origin import Fetched, Origin
from s3s3.mirror.upstream.url_policy import UrlRules
from s3s3.s3 import Timeouts
from tests.mirror.origin_server import OriginServer, answer, redirect

LOOPBACK = (ip_network("127.0.0.0/8"),)


def origin_of(rules: UrlRules | None = None, **options: float) -> Origin:
    return Origin(
        "upstream",
        url_of=lambda key: key,
        rules=rules or UrlRules(private=LOOPBACK),
        kept=lambda key, fetched: {"x-amz-meta-hops": str(len(fetched.hops))},
        timeouts=Timeouts(**{"connect_s": 2, "read_s": 1, **options}),
    )


@pytest.fixture
async def server() -> AsyncIterator[OriginServer]:
    async with OriginServer() as running:
        yield running


async def test_an_object_comes_with_its_headers_and_nothing_of_ours_is_told(server: OriginServer) -> None:
    server.answers["/x"] = answer(b"content", etag='"abc"', cache_control="max-age=1", set_cookie="a=b",
                                  x_amz_meta_s3s3_source_etag="forged")  # fmt: skip
    reading, content = await origin_of().fetch(f"{server.url}x", 100)
    assert (content, reading.info.size_bytes, reading.info.etag) == (b"content", 7, "")
    assert reading.info.headers == {"content-type": "text/plain", "cache-control": "max-age=1", "x-amz-meta-hops": "1"}
    assert set(server.asked[0].headers) == {"host", "user-agent", "accept", "accept-encoding", "connection"}


@pytest.mark.parametrize(
    ("headers", "etag"),
    [({"etag": '"9a0364b9e99bb480dd25e1f0284c8555"'}, "9a0364b9e99bb480dd25e1f0284c8555"),
     ({"etag": 'W/"9a0364b9e99bb480dd25e1f0284c8555"'}, ""),
     ({"content_md5": "mgNkuembtIDdJeHwKEyFVQ==", "etag": '"x"'}, "9a0364b9e99bb480dd25e1f0284c8555"),
     ({"content_md5": "nonsense"}, "")],
)  # fmt: skip
async def test_an_md5_that_is_promised_is_known(server: OriginServer, headers: dict[str, Any], etag: str) -> None:
    server.answers["/x"] = answer(b"content", **headers)
    async with await origin_of().get(f"{server.url}x") as reading:
        assert reading.info.etag == etag


async def test_an_empty_body_has_the_md5_that_was_promised_or_is_no_object(server: OriginServer) -> None:
    server.answers["/x"] = answer(b"", content_md5="1B2M2Y8AsgTpgAmY7PhCfg==")
    assert (await origin_of().fetch(f"{server.url}x", 100))[1] == b""
    server.answers["/x"] = answer(b"", content_md5="mgNkuembtIDdJeHwKEyFVQ==")
    with pytest.raises(StoreUnavailable, match="does not have the Content-MD5 that was promised"):
        await origin_of().fetch(f"{server.url}x", 100)


async def test_a_name_that_changes_its_mind_after_it_was_looked_at_gains_nothing(server: OriginServer) -> None:
    """DNS rebinding: the second answer would lead to the server, but nobody asks a second time."""
    answers = [["93.184.216.34"], ["127.0.0.1"]]
    asked: list[str] = []

    async def rebinding(host: str, port: int) -> list[str]:
        asked.append(host)
        return answers.pop(0)

    server.answers["/x"] = answer(b"of the inner network")
    origin = origin_of(UrlRules(resolve=rebinding), connect_s=0.3)
    with pytest.raises(StoreUnavailable):
        await origin.get(f"http://rebinding.example.org:{server.port}/x")
    assert asked == ["rebinding.example.org"]
    with pytest.raises(UrlForbidden):
        await origin.get(f"http://rebinding.example.org:{server.port}/x")
    assert server.asked == []


async def test_the_address_that_was_looked_at_is_connected_to_under_the_urls_own_name(server: OriginServer) -> None:
    async def pinned(host: str, port: int) -> list[str]:
        return ["127.0.0.1"]

    server.answers["/x"] = answer(b"content")
    origin = origin_of(UrlRules(resolve=pinned, private=LOOPBACK))
    await origin.fetch(f"http://there-is-no-such-name.invalid:{server.port}/x", 100)
    assert server.asked[0].headers["host"] == f"there-is-no-such-name.invalid:{server.port}"


async def silence(writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(60)


async def half(writer: asyncio.StreamWriter) -> None:
    writer.write(answer(b"content", content_length="1000"))
    await writer.drain()
    await asyncio.sleep(60)


async def dripping(writer: asyncio.StreamWriter) -> None:
    for byte in answer(b"content"):
        writer.write(bytes([byte]))
        await writer.drain()
        await asyncio.sleep(0.2)


@pytest.mark.parametrize("said", [silence, half, dripping])
async def test_a_server_that_takes_its_time_is_not_waited_for(server: OriginServer, said: object) -> None:
    server.answers["/x"] = said  # type: ignore[assignment]
    with pytest.raises(StoreUnavailable, match="did not answer in time"):
        await asyncio.wait_for(origin_of(read_s=0.5).fetch(f"{server.url}x", 10_000), 5)


async def test_every_failure_says_whether_to_try_again_and_blames_no_store(server: OriginServer) -> None:
    server.answers |= {"/403": answer(status=403), "/500": answer(status=500), "/short": answer(content_length="9"),
                       "/loop": redirect("/loop"), "/nowhere": redirect("ftp://x/"),
                       "/odd": redirect("http://[x/")}  # fmt: skip
    expected = {"404": (NoSuchKey, False), "403": (UpstreamRefused, False), "500": (UpstreamRefused, True),
                "short": (IntegrityError, True), "loop": (UpstreamRefused, False), "nowhere": (UrlForbidden, False),
                "odd": (UpstreamRefused, False)}  # fmt: skip
    for path, (kind, retriable) in expected.items():
        with pytest.raises(kind) as raised:
            await origin_of().fetch(f"{server.url}{path}", 100)
        assert isinstance(raised.value, StoreError)
        assert (raised.value.retriable, raised.value.store, raised.value.operation) == (retriable, "", "GET"), path


async def test_a_header_that_is_lacking_is_no_object(server: OriginServer) -> None:
    def kept(key: str, fetched: Fetched) -> dict[str, str]:
        raise UpstreamRefused("lacking", key=key, status=200)

    server.answers["/x"] = answer(b"content")
    origin = Origin("upstream", url_of=str, rules=UrlRules(private=LOOPBACK), kept=kept)
    with pytest.raises(UpstreamRefused, match="lacking"):
        await origin.get(f"{server.url}x")
