"""HTTPS_PROXY, HTTP_PROXY and NO_PROXY, for s3s3's own requests and for those that boto3 sends."""

from __future__ import annotations

import asyncio
import hashlib
import ssl
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest
import trustme

from s3s3.config import SqsSettings
from s3s3.errors import ConfigError, StoreUnavailable, UnexpectedResponse
from s3s3.model import Endpoint, Secret
from s3s3.notifications.sqs import connect
from s3s3.s3 import Store, create_resource
from s3s3.s3.address import Address
from s3s3.s3.probe import probe
from s3s3.s3.proxies import proxy_for, proxy_urls
from s3s3.scripts.demo.rclone_server import RcloneServer
from tests.s3.http_proxy import HttpProxy
from tests.s3.loops import event_loop_policy  # noqa: F401
from tests.s3.raw_server import RawServer, respond, response

LOGIN = f"Basic {b64encode(b'me:p@ss').decode()}"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def ca_file(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    path = tmp_path_factory.mktemp("ca") / "ca.pem"
    authority.cert_pem.write_to_path(path)
    yield str(path)


def tls(authority: trustme.CA, name: str = "127.0.0.1") -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(name).configure_cert(context)
    return context


async def test_a_real_store_is_reached_through_the_proxy_over_plain_http(
    rclone_store: RcloneServer, new_bucket: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = new_bucket(rclone_store)
    endpoint = rclone_store.endpoint(bucket)
    content = b"content" * 100_000
    md5 = hashlib.md5(content).digest()
    async with HttpProxy() as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)  # read when a store is opened
        async with Store(endpoint) as store:
            await store.put("a key", content, size_bytes=len(content), md5=md5, headers={})
            assert (await store.fetch("a key", len(content)))[1] == content
            assert [entry.key async for page in store.pages() for entry in page] == ["a key"]
        found = await probe(endpoint, writes=True)
        monkeypatch.delenv("HTTP_PROXY")
        assert (found.reachable, found.may_write) == (True, True)
        assert f"PUT http://127.0.0.1:{rclone_store.port}/{bucket}/a%20key HTTP/1.1" in proxy.requests


async def test_https_goes_through_a_tunnel_of_which_the_proxy_learns_only_host_and_port(
    authority: trustme.CA, ca_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = RawServer([respond(response(body=b"x"))], tls=tls(authority, "store.example.org"))
    async with server, HttpProxy(route=server.port, login=LOGIN) as proxy:
        proxy.route = server.port
        monkeypatch.setenv("HTTPS_PROXY", proxy.url.replace("//", "//me:p%40ss@"))
        endpoint = server.endpoint(host="store.example.org", port=7443, ca_file=ca_file)
        async with Store(endpoint) as store:
            for _ in range(2):
                assert (await store.fetch("key", 10))[1] == b"x"
        assert proxy.requests == ["CONNECT store.example.org:7443 HTTP/1.1"], "the connection is kept"
        assert server.requests[0].headers["host"] == b"store.example.org:7443"
        assert "proxy-authorization" not in server.requests[0].headers


async def test_a_proxy_that_requires_a_login_is_reported_without_the_password(
    authority: trustme.CA, ca_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with RawServer([], tls=tls(authority)) as server, HttpProxy(login=LOGIN) as proxy:
        for name, endpoint, expected in (
            ("HTTPS_PROXY", server.endpoint(ca_file=ca_file), StoreUnavailable),
            ("HTTP_PROXY", server.endpoint(is_secure=False), UnexpectedResponse),
        ):
            monkeypatch.setenv(name, proxy.url.replace("//", "//me:wrong-one@"))
            async with Store(endpoint) as store:
                with pytest.raises(expected) as caught:
                    await store.get("key")
            address = f"127.0.0.1:{proxy.port}"
            assert f"requires another login: set {name} to http://USER:PASSWORD@{address}" in str(caught.value)
            assert "wrong-one" not in str(caught.value)


@pytest.mark.parametrize(
    ("refusal", "reason"),
    [
        (b"HTTP/1.1 403 Forbidden\r\ncontent-length: 3\r\n\r\nno!", "it answered CONNECT with status 403"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "it did not answer CONNECT with HTTP"),
        (b"HTTP/1.1 200 OK\r\n", "it did not answer CONNECT with HTTP"),
        (b"HTTP/1.1 200 OK\r\n\r\nwelcome", "it sent more than the response to CONNECT"),
    ],
)
async def test_a_tunnel_that_is_refused_is_reported(
    refusal: bytes, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with HttpProxy(refusal=refusal) as proxy:
        monkeypatch.setenv("https_proxy", proxy.url)
        async with Store(Endpoint("source", "b", "store.example.org", access_key_id="A")) as store:
            with pytest.raises(StoreUnavailable) as caught:
                await store.get("key")
        expected = f"the proxy 127.0.0.1:{proxy.port} does not connect to store.example.org:443: {reason}"
        assert expected in str(caught.value)
        assert "NO_PROXY" in str(caught.value)


@pytest.mark.parametrize("is_secure", [True, False])
async def test_a_proxy_that_is_down_is_named_instead_of_the_store(
    is_secure: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with HttpProxy() as proxy:
        pass
    monkeypatch.setenv("ALL_PROXY", proxy.url)
    async with Store(Endpoint("source", "b", "store.example.org", is_secure=is_secure, access_key_id="A")) as store:
        with pytest.raises(StoreUnavailable, match=r"nothing listens on the proxy 127.*check ALL_PROXY"):
            await store.get("key")


async def test_boto3_uses_the_same_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = respond(response(200, b"<ListAllMyBucketsResult/>", content_type="application/xml"))
    async with RawServer([answer]) as server, HttpProxy() as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        for no_proxy, requests in (("", 2), ("10.0.0.0/8, 127.0.0.0/8", 0)):
            monkeypatch.setenv("NO_PROXY", no_proxy)
            proxy.requests.clear()
            keys = {"aws_access_key_id": "A", "aws_secret_access_key": "B"}
            resource = create_resource({"host": "127.0.0.1", "port": server.port, "is_secure": False, **keys})
            await asyncio.to_thread(list, resource.buckets.all())
            monkeypatch.setenv("AWS_ACCESS_KEY_ID", "A")
            monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "B")
            url = f"http://127.0.0.1:{server.port}"
            queue = connect(SqsSettings(f"{url}/1/q", "us-west-2", url))
            with suppress(Exception):  # the response is not one of SQS
                await asyncio.to_thread(queue.receive_message, QueueUrl=f"{url}/1/q")
            assert len(proxy.requests) == requests


def address(host: str, port: int = 443) -> Address:
    return Address.of(Endpoint("source", "b", host, port))


@pytest.mark.parametrize(
    ("no_proxy", "host", "is_exempt"),
    [
        ("example.org", "ceph.example.org", True),
        (".example.org", "ceph.example.org", True),
        ("*.example.org", "ceph.example.org", True),
        ("a.org, Example.ORG", "ceph.example.org", True),
        ("example.org", "badexample.org", False),
        ("example.org:443", "ceph.example.org", True),
        ("example.org:8080", "ceph.example.org", False),
        ("*", "ceph.example.org", True),
        ("10.1.0.0/16", "10.1.2.3", True),
        ("10.1.0.0/16", "10.2.0.1", False),
        ("10.1.2.3", "10.1.2.3", True),
        ("::1", "::1", True),
        ("[::1]", "::1", True),
        ("[::1]:443", "::1", True),
        ("[::1]:80", "::1", False),
        ("fd00::/8", "fd00::5", True),
        ("", "ceph.example.org", False),
        (" , ,", "ceph.example.org", False),
    ],
)
def test_no_proxy_exempts_hosts(no_proxy: str, host: str, is_exempt: bool) -> None:
    environ = {"HTTPS_PROXY": "http://proxy:3128", "NO_PROXY": no_proxy}
    assert (proxy_for(address(host), environ) is None) is is_exempt
    name = f"[{host}]" if ":" in host else host
    assert proxy_urls(f"https://{name}", environ) == ({} if is_exempt else {"https": "http://proxy:3128"})


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"HTTPS_PROXY": "http://proxy:3128"}, "proxy:3128"),
        ({"HTTPS_PROXY": "proxy:3128"}, "proxy:3128"),
        ({"HTTPS_PROXY": "http://proxy/"}, "proxy:80"),
        ({"HTTPS_PROXY": "http://upper:1", "https_proxy": "http://lower:1"}, "lower:1"),
        ({"HTTPS_PROXY": "http://upper:1", "https_proxy": ""}, None),
        ({"HTTP_PROXY": "http://proxy:3128"}, None),
        ({"ALL_PROXY": "http://proxy:3128"}, "proxy:3128"),
        ({}, None),
    ],
)
def test_the_variable_of_the_scheme_is_read(environ: dict[str, str], expected: str | None) -> None:
    found = proxy_for(address("store"), environ)
    assert (None if found is None else str(found)) == expected


def test_a_login_is_decoded_and_hidden() -> None:
    found = proxy_for(address("store"), {"HTTPS_PROXY": "http://me:p%40ss@proxy"})
    assert found is not None
    assert found.authorization == Secret(LOGIN)
    assert LOGIN not in repr(found)


@pytest.mark.parametrize("url", ["socks5://me:hunter2@proxy:1080", "https://proxy", "http://", "http://proxy:port"])
def test_a_proxy_that_is_not_supported_is_reported_without_its_password(url: str) -> None:
    with pytest.raises(ConfigError, match="HTTPS_PROXY: must be the URL of an HTTP proxy") as caught:
        proxy_for(address("store"), {"HTTPS_PROXY": url})
    assert "hunter2" not in str(caught.value)
