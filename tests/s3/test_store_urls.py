"""A store's `host` as a URL, with a path, or as an IPv6 address: what is sent is what is signed."""

from __future__ import annotations

import asyncio
import hashlib
import ssl
from typing import Any, cast
from urllib.parse import urlsplit

import pytest
import trustme
from botocore.auth import HmacV1Auth, S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from s3s3.config import overlap
from s3s3.mirror.cache.presigned import Verifier
from s3s3.model import Endpoint
from s3s3.s3 import BucketAdmin, Store, create_resource
from s3s3.s3.boto3_bridge import endpoint_from_client
from s3s3.transfer.server_side_copy import is_same_store
from tests.config.configurations import loaded, problems_in
from tests.s3.loops import event_loop_policy  # noqa: F401
from tests.s3.raw_server import RawServer, ReceivedRequest, respond, response

KEYS = Credentials("AKID", "s3cr3t-key")


def configured(host: str, lines: str = "") -> Endpoint:
    """Return the destination of a file with this host."""
    return (
        loaded(f"""
[source]
bucket_name = "elsewhere"
[destination]
bucket_name = "bucket"
host = "{host}"
aws_access_key_id = "AKID"
aws_secret_access_key = "s3cr3t-key"
{lines}""")
        .routes[0]
        .destinations[0]
    )


def expected_authorization(received: ReceivedRequest) -> str:
    """Return the Authorization that botocore computes for the path that was sent."""
    headers = {name: value.decode() for name, value in received.headers.items()}
    sent = headers.pop("authorization")
    path = received.target.decode()
    request = AWSRequest(received.method, f"http://{headers['host']}{path}", headers=headers)
    if sent.startswith("AWS "):
        auth = HmacV1Auth(KEYS)
        parts, sent_headers = cast(Any, (urlsplit(request.url), request.headers))
        signature = auth.sign_string(auth.canonical_string(received.method, parts, sent_headers))
        return f"AWS AKID:{signature}"
    names = sent.partition("SignedHeaders=")[2].partition(",")[0].split(";")
    request = AWSRequest(received.method, request.url, headers={name: headers[name] for name in names})
    request.context["timestamp"] = headers["x-amz-date"]
    request.context["payload_signing_enabled"] = False
    auth4 = S3SigV4Auth(KEYS, "s3", "us-east-1")
    canonical = auth4.canonical_request(request).rpartition("\n")[0] + f"\n{headers['x-amz-content-sha256']}"
    signature = auth4.signature(auth4.string_to_sign(request, canonical), request)
    return sent.rpartition("=")[0] + f"={signature}"


async def check_signature(received: ReceivedRequest) -> None:
    await received.read_body()
    assert received.headers["authorization"].decode() == expected_authorization(received)
    if received.method == "DELETE":
        received.write(response(204))
        return
    received.write(response(body=b"<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>"))


@pytest.mark.parametrize("version", ["s3", "s3v4"])
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_the_path_of_the_url_is_sent_and_signed(version: str, host: str) -> None:
    async with RawServer([check_signature], host=host) as server:
        name = f"[{host}]" if ":" in host else host
        endpoint = configured(f"http://{name}:{server.port}/storage/v1/s3/", f'signature_version = "{version}"')
        content = b"content"
        async with Store(endpoint) as store:
            await store.get("a key/ü")
            md5 = hashlib.md5(content).digest()
            await store.put("a key/ü", content, size_bytes=len(content), md5=md5, headers={"content-type": "a/b"})
            await store.delete("a key/ü")
            assert [page async for page in store.pages() if page] == []
            url = await store.object_url("a key/ü", expires_s=60)
        assert {received.target.partition(b"?")[0] for received in server.requests} == {
            b"/storage/v1/s3/bucket/a%20key/%C3%BC", b"/storage/v1/s3/bucket/"}  # fmt: skip
        assert server.requests[0].headers["host"] == f"{name}:{server.port}".encode()
        assert url.startswith(f"http://{name}:{server.port}/storage/v1/s3/bucket/a%20key/%C3%BC?")
        admin = BucketAdmin(endpoint)
        await admin.create()
        await admin.close()


async def test_boto3_sends_and_signs_the_path_of_the_url() -> None:
    async with RawServer([check_signature]) as server:
        for version in ("s3", "s3v4"):
            resource = create_resource({
                "host": f"http://127.0.0.1:{server.port}/storage/v1/s3", "signature_version": version,
                "aws_access_key_id": KEYS.access_key, "aws_secret_access_key": KEYS.secret_key,
            })  # fmt: skip
            await asyncio.to_thread(resource.Object("bucket", "a key").load)
            found = endpoint_from_client(resource.meta.client, "bucket", "source")
            assert (found.host, found.port, found.base_path) == ("127.0.0.1", server.port, "/storage/v1/s3")
        assert server.requests[0].target == b"/storage/v1/s3/bucket/a%20key"


@pytest.mark.parametrize("version", ["s3", "s3v4"])
@pytest.mark.parametrize("style", ["OrdinaryCallingFormat", "SubdomainCallingFormat"])
async def test_the_cache_accepts_presigned_urls_of_such_a_store(version: str, style: str) -> None:
    endpoint = configured(
        "https://p.example.org/storage/v1/s3", f'signature_version = "{version}"\ncalling_format = "{style}"'
    )
    async with Store(endpoint) as store:
        url = urlsplit(await store.object_url("a key/ü", expires_s=60))
    found = await Verifier(endpoint).verify("GET", f"{url.path}?{url.query}", {"host": url.netloc})
    assert (found.key, found.store_url) == ("a key/ü", url.geturl())


async def test_an_ipv6_address_works_with_tls() -> None:
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("::1").configure_cert(context)
    with authority.cert_pem.tempfile() as ca_file:
        async with RawServer([respond(response(body=b"x"))], host="::1", tls=context) as server:
            async with Store(configured("[::1]", f'port = {server.port}\nca_file = "{ca_file}"')) as store:
                assert (await store.fetch("key", 10))[1] == b"x"
            assert server.requests[0].headers["host"] == f"[::1]:{server.port}".encode()


@pytest.mark.parametrize(
    ("host", "lines", "expected"),
    [
        ("https://p.example.co/storage/v1/s3", "", ("p.example.co", None, True, "/storage/v1/s3")),
        ("http://ceph:7480", "", ("ceph", 7480, False, "")),
        ("http://ceph", "port = 7480", ("ceph", 7480, False, "")),
        ("https://ceph:443/", "is_secure = true", ("ceph", 443, True, "")),
        ("http://[::1]:8080/s3", "", ("::1", 8080, False, "/s3")),
        ("https://ceph/a b%20c", None, None),
        ("https://ceph/%7Euser/ü", "", ("ceph", None, True, "/%7Euser/%C3%BC")),
        ("ceph", "is_secure = false", ("ceph", None, False, "")),
        ("[::1]", "", ("::1", None, True, "")),
    ],
)
def test_a_host_may_be_a_url(host: str, lines: str | None, expected: Any) -> None:
    if lines is None:
        assert len(problems_in(f'[source]\nbucket_name="a"\n[dest]\nbucket_name="b"\nhost="{host}"')) == 1
        return
    found = configured(host, lines)
    assert (found.host, found.port, found.is_secure, found.base_path) == expected


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        ('host="https://ceph:7480"\nport=80', "port: the URL in host has the port 7480; give one of the two"),
        ('host="https://ceph"\nis_secure=false',
         "is_secure: the URL in host begins with https://; leave is_secure out"),
        ('host="http://10.0.0.1/s3"\ncalling_format="SubdomainCallingFormat"',
         "calling_format: virtual-host style does not work with an IP address; leave calling_format out"),
        ('host="https://ceph/s3?x=1"', 'host: must be a host name or a URL, not "https://ceph/s3?x=1"; '
                                       "without scheme, port and path"),
        ('host="ftp://ceph"', 'host: must be a host name or a URL, not "ftp://ceph"; write host = "ceph"'),
    ],
)  # fmt: skip
def test_what_contradicts_a_url_is_reported(lines: str, problem: str) -> None:
    (found,) = problems_in(f'[source]\nbucket_name="a"\n[dest]\nbucket_name="b"\n{lines}')
    assert found.endswith(f"[dest] {problem}")


def test_two_paths_of_one_host_are_two_stores() -> None:
    first, second = configured("https://p/one"), configured("https://p/two")
    assert not overlap(first, second)
    assert not is_same_store(first, second)
    assert overlap(first, configured("https://P/one/"))
    assert is_same_store(first, configured("https://P/one/"))
