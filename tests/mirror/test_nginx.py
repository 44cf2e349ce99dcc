"""nginx before the cache, with the configuration that conf/ has for it."""

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
from tests.mirror.cache.client import BIG, CacheClient, Cached, Put
from tests.mirror.conftest import Mirrored
from tests.mirror.nginx import Nginx
from tests.mirror.origin_server import OriginServer, answer
from tests.mirror.test_copy_proxy import proxy_of
from tests.mirror.test_redirect import NAME as REDIRECT
from tests.mirror.test_redirect import path_of, redirect_of

pytestmark = pytest.mark.real


class Behind:
    """A client of nginx, and of the cache behind it."""

    def __init__(self, client: CacheClient, nginx: Nginx, http: aiohttp.ClientSession) -> None:
        self.client, self._http = client, http
        self._base = f"https://127.0.0.1:{nginx.port}"

    def url(self, key: str, **options: Any) -> str:
        return self.client.url(key, at=self._base, **options).replace(self.client.base, self._base)

    async def ask(self, url: str, method: str = "GET", **headers: str) -> tuple[int, Any, bytes]:
        named = {"Host": f"127.0.0.1:{url.split(':')[2].partition('/')[0]}",
                 **{name.replace("_", "-"): value for name, value in headers.items()}}  # fmt: skip
        async with self._http.request(method, yarl.URL(url, encoded=True), headers=named, allow_redirects=False) as got:
            return got.status, got.headers, await got.read()

    async def kept(self, url: str) -> tuple[int, Any, bytes]:
        for _ in range(200):
            answer = await self.ask(url)
            if answer[1].get("X-Cache") == "hit":
                return answer
            await asyncio.sleep(0.05)
        raise AssertionError(answer)


@pytest.fixture
def accel_prefix() -> str:
    return "/s3s3-cache/"


@pytest.fixture
async def behind(cached: Cached, tmp_path: Path, accel_prefix: str) -> AsyncIterator[Behind]:
    authority = trustme.CA()
    client = await cached(accel_prefix=accel_prefix)
    port, plain_port = free_ports(2)
    folder = tmp_path / "nginx"
    folder.mkdir()
    trusting = ssl.create_default_context(cadata=authority.cert_pem.bytes().decode())
    directory = client.front.folder.directory
    nginx = Nginx(folder, authority, port, plain_port, {"s3s3_cache": client.front.port}, directory)
    connector = aiohttp.TCPConnector(ssl=trusting)
    with nginx:
        async with aiohttp.ClientSession(connector=connector, auto_decompress=False) as http:
            yield Behind(client, nginx, http)


@pytest.mark.parametrize("version", ["s3", "s3v4"])
async def test_nginx_sends_a_hit_as_the_cache_itself_would(behind: Behind, put: Put, version: str) -> None:
    put("a b", BIG, ContentType="text/x", ContentEncoding="x-odd", ContentDisposition="inline", ContentLanguage="en",
        CacheControl="max-age=5")  # fmt: skip
    url = behind.url("a b", version=version)
    status, headers, body = await behind.kept(url)
    assert (status, body) == (200, BIG)
    assert headers["Server"].startswith("nginx")
    itself, own, _ = await behind.ask(url, X_S3S3_Sendfile="own")
    assert itself == 200
    for name in ("ETag", "Last-Modified", "Content-Type", "Content-Encoding", "Content-Disposition",
                 "Content-Language", "Cache-Control", "Content-Length", "Accept-Ranges"):  # fmt: skip
        assert headers.getall(name) == own.getall(name), name


async def test_ranges_and_conditions_through_nginx(behind: Behind, put: Put) -> None:
    put("key", BIG)
    url = behind.url("key")
    _, headers, _ = await behind.kept(url)
    assert (await behind.ask(url, Range="bytes=5-9"))[2] == BIG[5:10]
    status, several, _ = await behind.ask(url, Range="bytes=0-1,-2")
    assert (status, several["Content-Type"].partition(";")[0]) == (206, "multipart/byteranges")
    assert (await behind.ask(url, If_None_Match=headers["ETag"]))[0] == 304
    assert (await behind.ask(url, If_Modified_Since=headers["Last-Modified"]))[0] == 304
    assert (await behind.ask(url, If_Match=headers["ETag"]))[0] == 200
    assert (await behind.ask(url, If_Match='"x"'))[0] == 412
    assert (await behind.ask(url, If_Range=headers["ETag"], Range="bytes=0-1"))[2] == BIG[:2]
    assert (await behind.ask(url, If_Range='"x"', Range="bytes=0-1"))[2] == BIG
    head = behind.url("key", method="head_object")
    status, headers, body = await behind.ask(head, "HEAD")
    assert (status, headers["Content-Length"], body) == (200, str(len(BIG)), b"")


async def test_nobody_gets_at_the_files_past_the_cache(behind: Behind, put: Put) -> None:
    put("key", BIG)
    url = behind.url("key")
    await behind.kept(url)
    folder = behind.client.front.folder
    stored = folder.open("key")
    assert stored is not None
    stored.close()
    base = url.partition("/bucket")[0]
    for path in (f"/s3s3-cache/{folder.body_path(stored.about)}", f"/x/../s3s3-cache/{folder.body_path(stored.about)}"):
        assert (await behind.ask(base + path))[0] in (403, 404)
    assert (await behind.ask(url.replace("Signature=", "Signature=x")))[0] == 403
    log = behind.client.front.folder.directory.parent / "nginx" / "s3s3-cache.log"
    assert "Signature" not in log.read_text()


@pytest.mark.parametrize("accel_prefix", ["/s3s3-cache/not-"])
async def test_a_file_that_nginx_does_not_find_comes_from_the_cache(behind: Behind, put: Put) -> None:
    """As when it is removed to make room right before nginx opens it."""
    put("key", BIG)
    status, headers, body = await behind.kept(behind.url("key"))
    assert (status, body) == (200, BIG)
    assert headers["Content-Length"] == str(len(BIG))


async def test_the_redirect_front_and_the_proxy_behind_nginx(
    mirrored: Mirrored, origin: OriginServer, swift: SwiftServer, new_bucket: Callable[..., str], tmp_path: Path
) -> None:
    origin.answers |= {"/x?y=1": answer(b"of a URL"), "/a%20b//c": answer(b"of a path")}
    of_redirect = redirect_of(swift.endpoint(new_bucket(swift), REDIRECT), force_https=True)
    of_proxy = proxy_of(origin, swift.endpoint(new_bucket(swift), "mirror.proxy.destination"))
    mirror = await mirrored(MirrorSettings(redirect=of_redirect.redirect, proxy=of_proxy.proxy))
    ports = dict(zip(("s3s3_redirect", "s3s3_proxy"), (front.port for front in mirror.fronts), strict=True))
    authority = trustme.CA()
    port, plain_port = free_ports(2)
    (tmp_path / "nginx").mkdir()
    trusting = ssl.create_default_context(cadata=authority.cert_pem.bytes().decode())

    async def ask(base: str, host: str, path: str) -> tuple[int, Any]:
        url = yarl.URL(base + path, encoded=True)
        async with mirror.http.get(url, headers={"Host": host}, allow_redirects=False, ssl=trusting) as got:
            return got.status, got.headers

    with Nginx(tmp_path / "nginx", authority, port, plain_port, ports, tmp_path):
        for host, path, content in (("mirror.example.org", path_of(f"{origin.url}x?y=1"), b"of a URL"),
                                    ("files.example.org", "/a%20b//c", b"of a path")):  # fmt: skip
            status, headers = await ask(f"https://127.0.0.1:{port}", host, path)
            assert status == 302
            assert (await mirror.content(headers["Location"]))[0] == content
        status, headers = await ask(f"http://127.0.0.1:{plain_port}", "mirror.example.org", "/v1/ping?x=1")
        assert (status, headers["Location"]) == (301, "https://mirror.example.org/v1/ping?x=1")
        status, headers = await ask(f"https://127.0.0.1:{port}", "mirror.example.org", "/v1/ping")
        assert (status, headers["Strict-Transport-Security"]) == (200, "max-age=7776000")
