"""HTTP servers as sources, over real sockets."""

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
from s3s3.transfer.budget import CopyBudget
from tests.mirror.origin_server import OriginServer, redirect, response

LOOPBACK = (ip_network("127.0.0.0/8"),)


def origin_of(rules: UrlRules | None = None, **options: float) -> Origin:
    return Origin(
        "upstream",
        key_to_url=lambda key: key,
        rules=rules or UrlRules(private=LOOPBACK),
        headers_for=lambda key, fetched: {"x-amz-meta-hops": str(len(fetched.hops))},
        spool_budget=CopyBudget(),
        timeouts=Timeouts(**{"connect_s": 2, "read_s": 1, **options}),
    )


@pytest.fixture
async def server() -> AsyncIterator[OriginServer]:
    async with OriginServer() as running:
        yield running


async def test_an_object_has_its_headers_and_the_request_only_ours(server: OriginServer) -> None:
    server.responses["/x"] = response(b"content", etag='"abc"', cache_control="max-age=1", set_cookie="a=b",
                                  content_encoding="AWS-Chunked",
                                  x_amz_meta_s3s3_source_etag="forged")  # fmt: skip
    stream, content = await origin_of().fetch(f"{server.url}x", 100)
    assert (content, stream.info.size_bytes, stream.info.etag) == (b"content", 7, "")
    assert stream.info.headers == {"content-type": "text/plain", "cache-control": "max-age=1", "x-amz-meta-hops": "1"}
    assert set(server.requests[0].headers) == {"host", "user-agent", "accept", "accept-encoding", "connection"}


@pytest.mark.parametrize(
    ("headers", "etag"),
    [({"etag": '"9a0364b9e99bb480dd25e1f0284c8555"'}, "9a0364b9e99bb480dd25e1f0284c8555"),
     ({"etag": 'W/"9a0364b9e99bb480dd25e1f0284c8555"'}, ""),
     ({"content_md5": "mgNkuembtIDdJeHwKEyFVQ==", "etag": '"x"'}, "9a0364b9e99bb480dd25e1f0284c8555"),
     ({"content_md5": "nonsense"}, "")],
)  # fmt: skip
async def test_the_md5_of_content_md5_or_etag_becomes_the_etag(
    server: OriginServer, headers: dict[str, Any], etag: str
) -> None:
    server.responses["/x"] = response(b"content", **headers)
    async with await origin_of().get(f"{server.url}x") as stream:
        assert stream.info.etag == etag


@pytest.mark.parametrize(
    ("headers", "is_copied"),
    [({"etag": '"5f3c-1a2b"'}, True),
     ({"content_md5": "mgNkuembtIDdJeHwKEyFVQ=="}, True),
     ({}, False),
     ({"etag": 'W/"5f3c-1a2b"', "last_modified": "Mon, 05 Oct 2026 21:09:27 GMT"}, False),
     ({"content_md5": "nonsense"}, False)],
)  # fmt: skip
@pytest.mark.parametrize("content_type", ["text/html; charset=utf-8", "Text/HTML", "application/xhtml+xml"])
async def test_a_page_is_copied_only_with_a_strong_etag_or_its_md5(
    server: OriginServer, headers: dict[str, Any], is_copied: bool, content_type: str
) -> None:
    server.responses["/x"] = response(b"content", content_type=content_type, **headers)
    opening = origin_of().fetch(f"{server.url}x", 100)
    if is_copied:
        assert (await opening)[1] == b"content"
        return
    with pytest.raises(UpstreamRefused, match="HTML page without a strong ETag") as caught:
        await opening
    assert not caught.value.retriable


async def test_an_empty_body_is_checked_against_content_md5(server: OriginServer) -> None:
    server.responses["/x"] = response(b"", content_md5="1B2M2Y8AsgTpgAmY7PhCfg==")
    assert (await origin_of().fetch(f"{server.url}x", 100))[1] == b""
    server.responses["/x"] = response(b"", content_md5="mgNkuembtIDdJeHwKEyFVQ==")
    with pytest.raises(StoreUnavailable, match="does not have the MD5 of its Content-MD5 header"):
        await origin_of().fetch(f"{server.url}x", 100)


async def test_dns_rebinding_has_no_effect(server: OriginServer) -> None:
    """The second lookup would return the server's address, but there is only one lookup."""
    answers = [["93.184.216.34"], ["127.0.0.1"]]
    lookups: list[str] = []

    async def rebinding(host: str, port: int) -> list[str]:
        lookups.append(host)
        return answers.pop(0)

    server.responses["/x"] = response(b"of the inner network")
    origin = origin_of(UrlRules(resolve=rebinding), connect_s=0.3)
    with pytest.raises(StoreUnavailable):
        await origin.get(f"http://rebinding.example.org:{server.port}/x")
    assert lookups == ["rebinding.example.org"]
    with pytest.raises(UrlForbidden):
        await origin.get(f"http://rebinding.example.org:{server.port}/x")
    assert server.requests == []


async def test_the_checked_address_is_connected_to_with_the_urls_host_name(server: OriginServer) -> None:
    async def pinned(host: str, port: int) -> list[str]:
        return ["127.0.0.1"]

    server.responses["/x"] = response(b"content")
    origin = origin_of(UrlRules(resolve=pinned, private=LOOPBACK))
    await origin.fetch(f"http://no-such-name.invalid:{server.port}/x", 100)
    assert server.requests[0].headers["host"] == f"no-such-name.invalid:{server.port}"


async def silence(writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(60)


async def half(writer: asyncio.StreamWriter) -> None:
    writer.write(response(b"content", content_length="1000"))
    await writer.drain()
    await asyncio.sleep(60)


async def dripping(writer: asyncio.StreamWriter) -> None:
    for byte in response(b"content"):
        writer.write(bytes([byte]))
        await writer.drain()
        await asyncio.sleep(0.2)


@pytest.mark.parametrize("responder", [silence, half, dripping])
async def test_a_slow_server_times_out(server: OriginServer, responder: object) -> None:
    server.responses["/x"] = responder  # type: ignore[assignment]
    with pytest.raises(StoreUnavailable, match="did not respond in time"):
        await asyncio.wait_for(origin_of(read_s=0.5).fetch(f"{server.url}x", 10_000), 5)


async def test_failures_are_retriable_or_not_and_name_no_store(server: OriginServer) -> None:
    server.responses |= {"/403": response(status=403), "/500": response(status=500),
                         "/short": response(content_length="9"), "/loop": redirect("/loop"), "/nowhere": redirect("ftp://x/"),
                       "/invalid": redirect("http://[x/")}  # fmt: skip
    expected = {"404": (NoSuchKey, False), "403": (UpstreamRefused, False), "500": (UpstreamRefused, True),
                "short": (IntegrityError, True), "loop": (UpstreamRefused, False), "nowhere": (UrlForbidden, False),
                "invalid": (UpstreamRefused, False)}  # fmt: skip
    for path, (kind, retriable) in expected.items():
        with pytest.raises(kind) as raised:
            await origin_of().fetch(f"{server.url}{path}", 100)
        assert isinstance(raised.value, StoreError)
        assert (raised.value.retriable, raised.value.store, raised.value.operation) == (retriable, "", "GET"), path


async def test_a_missing_required_header_is_a_refusal(server: OriginServer) -> None:
    def headers_for(key: str, fetched: Fetched) -> dict[str, str]:
        raise UpstreamRefused("missing", key=key, status=200)

    server.responses["/x"] = response(b"content")
    origin = Origin("upstream", key_to_url=str, rules=UrlRules(private=LOOPBACK), headers_for=headers_for,
                    spool_budget=CopyBudget())  # fmt: skip
    with pytest.raises(UpstreamRefused, match="missing"):
        await origin.get(f"{server.url}x")
