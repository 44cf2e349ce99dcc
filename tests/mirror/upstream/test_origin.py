"""HTTP servers as sources, over real sockets."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
import trustme

from s3s3.errors import (
    ConfigError,
    IntegrityError,
    NoSuchKey,
    StoreError,
    StoreUnavailable,
    UpstreamRefused,
    UrlForbidden,
)
from s3s3.mirror.upstream.origin import Fetched, Origin
from s3s3.mirror.upstream.url_policy import UrlRules
from s3s3.s3 import Timeouts
from s3s3.scripts.demo.servers import free_ports
from s3s3.transfer.budget import CopyBudget
from tests.mirror.origin_server import OriginServer, chunked, redirect, response
from tests.s3.http_proxy import HttpProxy

LOOPBACK = (ip_network("127.0.0.0/8"),)


OpenOrigin = Callable[..., Awaitable[Origin]]


@pytest.fixture
async def origin_of() -> AsyncIterator[OpenOrigin]:
    async with AsyncExitStack() as stack:

        async def open_(rules: UrlRules | None = None, **options: float) -> Origin:
            origin = Origin(
                "upstream",
                key_to_url=lambda key: key,
                rules=rules or UrlRules(private=LOOPBACK),
                headers_for=lambda key, fetched: {"x-amz-meta-hops": str(len(fetched.hops))},
                spool_budget=CopyBudget(),
                timeouts=Timeouts(**{"connect_s": 2, "read_s": 1, **options}),
            )
            return await stack.enter_async_context(origin)

        yield open_


@pytest.fixture
async def server() -> AsyncIterator[OriginServer]:
    async with OriginServer() as running:
        yield running


async def test_an_object_has_its_headers_and_the_request_only_ours(origin_of: OpenOrigin, server: OriginServer) -> None:
    server.responses["/x"] = response(b"content", etag='"abc"', cache_control="max-age=1", set_cookie="a=b",
                                  content_encoding="AWS-Chunked",
                                  x_amz_meta_s3s3_source_etag="forged")  # fmt: skip
    stream, content = await (await origin_of()).fetch(f"{server.url}x", 100)
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
    origin_of: OpenOrigin, server: OriginServer, headers: dict[str, Any], etag: str
) -> None:
    server.responses["/x"] = response(b"content", **headers)
    async with await (await origin_of()).get(f"{server.url}x") as stream:
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
    origin_of: OpenOrigin, server: OriginServer, headers: dict[str, Any], is_copied: bool, content_type: str
) -> None:
    server.responses["/x"] = response(b"content", content_type=content_type, **headers)
    opening = (await origin_of()).fetch(f"{server.url}x", 100)
    if is_copied:
        assert (await opening)[1] == b"content"
        return
    with pytest.raises(UpstreamRefused, match="HTML page without a strong ETag") as caught:
        await opening
    assert not caught.value.retriable


async def test_an_empty_body_is_checked_against_content_md5(origin_of: OpenOrigin, server: OriginServer) -> None:
    server.responses["/x"] = response(b"", content_md5="1B2M2Y8AsgTpgAmY7PhCfg==")
    assert (await (await origin_of()).fetch(f"{server.url}x", 100))[1] == b""
    server.responses["/x"] = response(b"", content_md5="mgNkuembtIDdJeHwKEyFVQ==")
    with pytest.raises(StoreUnavailable, match="does not have the MD5 of its Content-MD5 header"):
        await (await origin_of()).fetch(f"{server.url}x", 100)


async def test_dns_rebinding_has_no_effect(origin_of: OpenOrigin, server: OriginServer) -> None:
    """The second lookup would return the server's address, but there is only one lookup."""
    answers = [["93.184.216.34"], ["127.0.0.1"]]
    lookups: list[str] = []

    async def rebinding(host: str, port: int) -> list[str]:
        lookups.append(host)
        return answers.pop(0)

    server.responses["/x"] = response(b"of the inner network")
    origin = await origin_of(UrlRules(resolve=rebinding), connect_s=0.3)
    with pytest.raises(StoreUnavailable):
        await origin.get(f"http://rebinding.example.org:{server.port}/x")
    assert lookups == ["rebinding.example.org"]
    with pytest.raises(UrlForbidden):
        await origin.get(f"http://rebinding.example.org:{server.port}/x")
    assert server.requests == []


async def test_the_checked_address_is_connected_to_with_the_urls_host_name(
    origin_of: OpenOrigin, server: OriginServer
) -> None:
    async def pinned(host: str, port: int) -> list[str]:
        return ["127.0.0.1"]

    server.responses["/x"] = response(b"content")
    origin = await origin_of(UrlRules(resolve=pinned, private=LOOPBACK))
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
async def test_a_slow_server_times_out(origin_of: OpenOrigin, server: OriginServer, responder: object) -> None:
    server.responses["/x"] = responder  # type: ignore[assignment]
    with pytest.raises(StoreUnavailable, match="did not respond in time"):
        await asyncio.wait_for((await origin_of(read_s=0.5, connect_s=0.3)).fetch(f"{server.url}x", 10_000), 5)


async def test_failures_are_retriable_or_not_and_name_no_store(origin_of: OpenOrigin, server: OriginServer) -> None:
    server.responses |= {"/403": response(status=403), "/500": response(status=500),
                         "/short": response(content_length="9"), "/loop": redirect("/loop"), "/nowhere": redirect("ftp://x/"),
                       "/invalid": redirect("http://[x/")}  # fmt: skip
    expected = {"404": (NoSuchKey, False), "403": (UpstreamRefused, False), "500": (UpstreamRefused, True),
                "short": (IntegrityError, True), "loop": (UpstreamRefused, False), "nowhere": (UrlForbidden, False),
                "invalid": (UpstreamRefused, False)}  # fmt: skip
    for path, (kind, retriable) in expected.items():
        with pytest.raises(kind) as raised:
            await (await origin_of()).fetch(f"{server.url}{path}", 100)
        assert isinstance(raised.value, StoreError)
        assert (raised.value.retriable, raised.value.store, raised.value.operation) == (retriable, "", "GET"), path


async def test_a_missing_required_header_is_a_refusal(server: OriginServer) -> None:
    def headers_for(key: str, fetched: Fetched) -> dict[str, str]:
        raise UpstreamRefused("missing", key=key, status=200)

    server.responses["/x"] = response(b"content")
    async with Origin(
        "upstream", key_to_url=str, rules=UrlRules(private=LOOPBACK), headers_for=headers_for, spool_budget=CopyBudget()
    ) as origin:
        with pytest.raises(UpstreamRefused, match="missing"):
            await origin.get(f"{server.url}x")


# -- framing


@pytest.mark.parametrize(
    "raw",
    [
        chunked(b"content", content_length="7"),
        chunked(b"content", transfer_encoding="gzip, chunked"),
        chunked(b"content", transfer_encoding="xchunked"),
        chunked(b"content").replace(b"HTTP/1.1", b"HTTP/1.0", 1),
        chunked(b"content").replace(b"7\r\n", b"7_0\r\n", 1),
        chunked(b"content").replace(b"content\r\n", b"content++\r\n", 1),
        chunked(b"content")[:-5],
        response(b"content", content_length="8"),
        response(b"content", content_length="6"),
        response(b"content", content_length="+7"),
        response(b"content", content_length="7, 7"),
        response(b"content", content_length="7\r\ncontent-length: 6"),
        response(b"content", content_length=None),
        response(b"content", content_length=None, etag='"9a0364b9e99bb480dd25e1f0284c8556"'),
        response(
            b"content", content_length=None, transfer_encoding="identity", etag='"9a0364b9e99bb480dd25e1f0284c8555"'
        ),
        response(b"", 204),
        b"220 mail.example.org ESMTP\r\n",
    ],
    ids=lambda raw: raw.decode()[:200],
)
async def test_a_response_without_unambiguous_framing_is_refused(
    origin_of: OpenOrigin, server: OriginServer, raw: bytes
) -> None:
    server.responses["/x"] = raw
    origin = await origin_of()
    with pytest.raises(StoreError) as raised:
        await origin.fetch(f"{server.url}x", 100)
    assert raised.value.store == ""


async def test_chunks_and_long_headers_are_read(origin_of: OpenOrigin, server: OriginServer) -> None:
    server.responses["/x"] = chunked(b"con", b"tent", content_security_policy="x" * 20_000)
    assert (await (await origin_of()).fetch(f"{server.url}x", 100))[1] == b"content"


async def test_a_body_of_a_byte_now_and_then_times_out_by_its_rate(origin_of: OpenOrigin, server: OriginServer) -> None:
    async def drip(writer: asyncio.StreamWriter) -> None:
        writer.write(response(b"", content_length="1000"))
        while True:
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.05)

    server.responses["/x"] = drip
    origin = await origin_of(rate_window_s=0.5, min_bytes_per_s=1000.0)
    with pytest.raises(StoreUnavailable, match=r"in time: \d+ bytes sent in 0.5 s"):
        await asyncio.wait_for(origin.fetch(f"{server.url}x", 10_000), 20)


async def test_a_slow_reader_is_not_the_servers_fault(origin_of: OpenOrigin, server: OriginServer) -> None:
    body = b"x" * 6_000_000
    server.responses["/x"] = response(body)
    stream = await (await origin_of(rate_window_s=0.2, min_bytes_per_s=1e6)).get(f"{server.url}x")
    read = b""
    async for chunk in stream.chunks(256 * 1024):
        read += chunk
        await asyncio.sleep(0.1)
    assert read == body


# -- addresses and proxies


async def test_the_next_address_of_a_name_is_tried(origin_of: OpenOrigin, server: OriginServer) -> None:
    async def two(host: str, port: int) -> list[str]:
        return ["127.0.0.9", "127.0.0.1"]  # nothing listens at the first

    server.responses["/x"] = response(b"content")
    addresses = []
    async with Origin(
        "upstream", key_to_url=str, rules=UrlRules(resolve=two, private=LOOPBACK),
        headers_for=lambda _, fetched: addresses.append(fetched.hops[-1].address) or {},  # type: ignore[func-returns-value]
        spool_budget=CopyBudget(),
    ) as origin:  # fmt: skip
        assert (await origin.fetch(f"http://two.example.org:{server.port}/x", 100))[1] == b"content"
    assert addresses == ["127.0.0.1"]


@pytest.fixture
async def proxy(server: OriginServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> OriginServer:
    monkeypatch.setenv("http_proxy", f"http://user:password@{server.host}:{server.port}")
    monkeypatch.setenv("no_proxy", "direct.example.org")
    (tmp_path / "netrc").write_text("machine far.example.org login me password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    return server


def resolving(**addresses: str) -> UrlRules:
    async def resolve(host: str, port: int) -> list[str]:
        try:
            return [addresses[host.partition(".")[0]]]
        except KeyError:
            raise OSError("no such name") from None

    return UrlRules(resolve=resolve)


async def test_the_environments_proxy_is_used(origin_of: OpenOrigin, proxy: OriginServer) -> None:
    """It may resolve names that this machine cannot resolve. A password of ~/.netrc is not sent to the URL's host."""
    proxy.responses["http://far.example.org/a/../x?y=%20"] = response(b"content")
    origin = await origin_of(resolving())
    assert (await origin.fetch("http://far.example.org/a/../x?y=%20", 100))[1] == b"content"
    assert proxy.requests[0].headers["host"] == "far.example.org"
    assert "authorization" not in proxy.requests[0].headers
    assert "proxy-authorization" in proxy.requests[0].headers


@pytest.mark.parametrize("host", ["10.0.0.1", "[::1]", "inner.example.org", "direct.example.org"])
async def test_a_private_address_is_not_requested_from_a_proxy_either(
    origin_of: OpenOrigin, proxy: OriginServer, host: str
) -> None:
    origin = await origin_of(resolving(inner="10.0.0.1", direct="127.0.0.1"))
    with pytest.raises(UrlForbidden):
        await origin.fetch(f"http://{host}:{proxy.port}/x", 100)
    assert proxy.requests == []


async def test_a_redirect_of_a_proxied_url_to_a_private_address_is_not_followed(
    origin_of: OpenOrigin, proxy: OriginServer
) -> None:
    proxy.responses["http://far.example.org/x"] = redirect(f"{proxy.url}x")
    with pytest.raises(UrlForbidden):
        await (await origin_of(resolving())).fetch("http://far.example.org/x", 100)
    assert len(proxy.requests) == 1


async def test_a_proxy_that_refuses_https_is_named(
    origin_of: OpenOrigin, proxy: OriginServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("https_proxy", proxy.url)
    proxy.responses["far.example.org:443"] = response(b"no", 403)
    with pytest.raises(StoreUnavailable, match=r"far\.example\.org:443: the proxy refuses to connect: 403"):
        await (await origin_of(resolving())).fetch("https://far.example.org/x", 100)


@pytest.mark.parametrize("scheme", ["http://", ""])
async def test_a_proxy_that_cannot_be_reached_is_named_without_its_password(
    origin_of: OpenOrigin, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    monkeypatch.setenv("http_proxy", f"{scheme}user:word@127.0.0.1:{free_ports(1)[0]}")
    with pytest.raises(StoreUnavailable, match="cannot connect to the proxy") as raised:
        await (await origin_of(resolving())).fetch("http://far.example.org/x", 100)
    assert "word" not in str(raised.value)


@pytest.mark.parametrize("variable", ["http_proxy", "HTTPS_PROXY"])
async def test_an_invalid_proxy_is_refused_at_the_start(
    origin_of: OpenOrigin, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, "http://user:word@proxy.example.org:x")
    with pytest.raises(ConfigError, match=f"{variable}: must be the URL of an HTTP proxy") as raised:
        await origin_of()
    assert "word" not in str(raised.value)


@pytest.mark.parametrize("name", ["far.example.org", "other.example.org"])
async def test_https_goes_through_a_tunnel_and_its_certificate_is_verified(
    origin_of: OpenOrigin, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("far.example.org").configure_cert(tls)
    async with OriginServer(tls=tls) as server, HttpProxy(route=server.port) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        server.responses["/x"] = response(b"content")
        fetching = (await origin_of(resolving())).fetch(f"https://{name}/x", 100)
        if name == "far.example.org":
            assert (await fetching)[1] == b"content"
        else:
            with pytest.raises(
                StoreUnavailable, match=r"other\.example\.org:443: its certificate is not trusted: Host"
            ):
                await fetching
        assert proxy.requests == [f"CONNECT {name}:443 HTTP/1.1"]
