"""nginx in front of the mirrors, with its configuration in conf/."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import trustme
import yarl

from s3s3.config.mirror import MirrorSettings
from s3s3.scripts.demo.servers import free_ports
from s3s3.scripts.demo.swift_server import SwiftServer
from tests.mirror.cache.client import BIG, CacheClient, PutObject, StartCache
from tests.mirror.conftest import StartMirror
from tests.mirror.nginx import Nginx
from tests.mirror.origin_server import OriginServer, response
from tests.mirror.test_copy_proxy import proxy_of
from tests.mirror.test_redirect import NAME as REDIRECT
from tests.mirror.test_redirect import path_of, redirect_of

pytestmark = pytest.mark.real


class Behind:
    """A client of nginx and of the cache behind it."""

    def __init__(self, client: CacheClient, nginx: Nginx, http: aiohttp.ClientSession) -> None:
        self.client, self._http = client, http
        self._base = f"https://127.0.0.1:{nginx.port}"

    def url(self, key: str, **options: Any) -> str:
        return self.client.url(key, at=self._base, **options).replace(self.client.base, self._base)

    async def fetch(self, url: str, method: str = "GET", **headers: str) -> tuple[int, Any, bytes]:
        named = {"Host": f"127.0.0.1:{url.split(':')[2].partition('/')[0]}",
                 **{name.replace("_", "-"): value for name, value in headers.items()}}  # fmt: skip
        async with self._http.request(method, yarl.URL(url, encoded=True), headers=named, allow_redirects=False) as got:
            return got.status, got.headers, await got.read()

    async def until_hit(self, url: str) -> tuple[int, Any, bytes]:
        for _ in range(200):
            got = await self.fetch(url)
            if got[1].get("X-Cache") == "hit":
                return got
            await asyncio.sleep(0.05)
        raise AssertionError(got)


@pytest.fixture
def accel_prefix() -> str:
    return "/s3s3-cache/"


@pytest.fixture
async def behind(start_cache: StartCache, tmp_path: Path, accel_prefix: str) -> AsyncIterator[Behind]:
    authority = trustme.CA()
    client = await start_cache(accel_prefix=accel_prefix)
    port, plain_port = free_ports(2)
    nginx_directory = tmp_path / "nginx"
    nginx_directory.mkdir()
    trusting = ssl.create_default_context(cadata=authority.cert_pem.bytes().decode())
    directory = client.service.directory.directory
    nginx = Nginx(nginx_directory, authority, port, plain_port, {"s3s3_cache": client.service.port}, directory)
    connector = aiohttp.TCPConnector(ssl=trusting)
    with nginx:
        async with aiohttp.ClientSession(connector=connector, auto_decompress=False) as http:
            yield Behind(client, nginx, http)


@pytest.mark.parametrize("version", ["s3", "s3v4"])
async def test_nginx_sends_a_hit_with_the_same_headers_as_the_cache(
    behind: Behind, put: PutObject, version: str
) -> None:
    put("a b", BIG, ContentType="text/x", ContentEncoding="x-odd", ContentDisposition="inline", ContentLanguage="en",
        CacheControl="max-age=5")  # fmt: skip
    url = behind.url("a b", version=version)
    status, headers, body = await behind.until_hit(url)
    assert (status, body) == (200, BIG)
    assert headers["Server"].startswith("nginx")
    status, own, _ = await behind.fetch(url, X_S3S3_Sendfile="own")
    assert status == 200
    for name in ("ETag", "Last-Modified", "Content-Type", "Content-Encoding", "Content-Disposition",
                 "Content-Language", "Cache-Control", "Content-Length", "Accept-Ranges"):  # fmt: skip
        assert headers.getall(name) == own.getall(name), name


async def test_ranges_and_conditions_through_nginx(behind: Behind, put: PutObject) -> None:
    put("key", BIG)
    url = behind.url("key")
    _, headers, _ = await behind.until_hit(url)
    assert (await behind.fetch(url, Range="bytes=5-9"))[2] == BIG[5:10]
    status, headers, _ = await behind.fetch(url, Range="bytes=0-1,-2")
    assert (status, headers["Content-Type"].partition(";")[0]) == (206, "multipart/byteranges")
    assert (await behind.fetch(url, If_None_Match=headers["ETag"]))[0] == 304
    assert (await behind.fetch(url, If_Modified_Since=headers["Last-Modified"]))[0] == 304
    assert (await behind.fetch(url, If_Match=headers["ETag"]))[0] == 200
    assert (await behind.fetch(url, If_Match='"x"'))[0] == 412
    assert (await behind.fetch(url, If_Range=headers["ETag"], Range="bytes=0-1"))[2] == BIG[:2]
    assert (await behind.fetch(url, If_Range='"x"', Range="bytes=0-1"))[2] == BIG
    head = behind.url("key", method="head_object")
    status, headers, body = await behind.fetch(head, "HEAD")
    assert (status, headers["Content-Length"], body) == (200, str(len(BIG)), b"")


async def test_files_are_not_readable_without_the_cache(behind: Behind, put: PutObject) -> None:
    put("key", BIG)
    url = behind.url("key")
    await behind.until_hit(url)
    directory = behind.client.service.directory
    opened = directory.open("key")
    assert opened is not None
    opened.close()
    base = url.partition("/bucket")[0]
    for path in (
        f"/s3s3-cache/{directory.body_path(opened.metadata)}",
        f"/x/../s3s3-cache/{directory.body_path(opened.metadata)}",
    ):
        assert (await behind.fetch(base + path))[0] in (403, 404)
    assert (await behind.fetch(url.replace("Signature=", "Signature=x")))[0] == 403
    log = behind.client.service.directory.directory.parent / "nginx" / "s3s3-cache.log"
    assert "Signature" not in log.read_text()


@pytest.mark.parametrize("accel_prefix", ["/s3s3-cache/not-"])
async def test_a_file_that_nginx_cannot_open_is_sent_by_the_cache(behind: Behind, put: PutObject) -> None:
    """For example one evicted right before nginx opens it."""
    put("key", BIG)
    status, headers, body = await behind.until_hit(behind.url("key"))
    assert (status, body) == (200, BIG)
    assert headers["Content-Length"] == str(len(BIG))


async def test_the_redirect_front_end_and_the_copy_proxy_behind_nginx(
    start_mirror: StartMirror, origin: OriginServer, swift: SwiftServer, new_bucket: Callable[..., str], tmp_path: Path
) -> None:
    origin.responses |= {"/x?y=1": response(b"of a URL"), "/a%20b//c": response(b"of a path")}
    of_redirect = redirect_of(swift.endpoint(new_bucket(swift), REDIRECT), force_https=True)
    of_proxy = proxy_of(origin, swift.endpoint(new_bucket(swift), "mirror.proxy.destination"))
    mirror = await start_mirror(MirrorSettings(redirect=of_redirect.redirect, proxy=of_proxy.proxy))
    ports = dict(zip(("s3s3_redirect", "s3s3_proxy"), (frontend.port for frontend in mirror.frontends), strict=True))
    authority = trustme.CA()
    port, plain_port = free_ports(2)
    (tmp_path / "nginx").mkdir()
    trusting = ssl.create_default_context(cadata=authority.cert_pem.bytes().decode())

    async def fetch(base: str, host: str, path: str) -> tuple[int, Any]:
        url = yarl.URL(base + path, encoded=True)
        async with mirror.http.get(url, headers={"Host": host}, allow_redirects=False, ssl=trusting) as got:
            return got.status, got.headers

    with Nginx(tmp_path / "nginx", authority, port, plain_port, ports, tmp_path):
        for host, path, content in (("mirror.example.org", path_of(f"{origin.url}x?y=1"), b"of a URL"),
                                    ("files.example.org", "/a%20b//c", b"of a path")):  # fmt: skip
            status, headers = await fetch(f"https://127.0.0.1:{port}", host, path)
            assert status == 302
            assert (await mirror.content(headers["Location"]))[0] == content
        status, headers = await fetch(f"http://127.0.0.1:{plain_port}", "mirror.example.org", "/v1/ping?x=1")
        assert (status, headers["Location"]) == (301, "https://mirror.example.org/v1/ping?x=1")
        status, headers = await fetch(f"https://127.0.0.1:{port}", "mirror.example.org", "/v1/ping")
        assert (status, headers["Strict-Transport-Security"]) == (200, "max-age=7776000")
