"""URLs signed by botocore are accepted; any change to them is rejected."""

from __future__ import annotations

import re
import time
from dataclasses import replace
from functools import cache
from typing import Any, Literal
from urllib.parse import quote, urlsplit

import boto3
import pytest
from botocore.config import Config
from hypothesis import given
from hypothesis import strategies as st

from s3s3.errors import SignatureRejected
from s3s3.mirror.cache.presigned import Authorization, Verifier
from s3s3.model import Endpoint, Secret
from s3s3.s3.signing import Credentials

STORE = Endpoint("mirror.cache.store", "bucket", host="ceph.example.org", port=7480, is_secure=False,
                 access_key_id="AKIDEXAMPLE", secret_access_key=Secret("a secret/with+odd=characters"))  # fmt: skip
CACHE = "http://cache.example.org:9192"
VERSIONS = ["s3", "s3v4"]


@cache
def client(version: str, base: str, style: Literal["path", "virtual"], access_key_id: str, secret: str) -> Any:
    return boto3.client(
        "s3", endpoint_url=base, region_name="us-east-1", aws_access_key_id=access_key_id,
        aws_secret_access_key=secret, config=Config(signature_version=version, s3={"addressing_style": style}),
    )  # fmt: skip


def signed(key: str, version: str = "s3", *, base: str = CACHE, method: str = "get_object", expires_s: int = 60,
           style: str = "path", store: Endpoint = STORE, bucket: str = "bucket", **parameters: Any) -> str:  # fmt: skip
    signing = client(
        version,
        base,
        style,
        store.access_key_id or "",
        store.secret_access_key.get_secret_value() if store.secret_access_key else "",
    )
    return str(signing.generate_presigned_url(method, {"Bucket": bucket, "Key": key, **parameters}, expires_s))


async def authorize(url: str, method: str = "GET", store: Endpoint = STORE, **headers: str) -> Authorization:
    parts = urlsplit(url)
    return await Verifier(store).verify(method, f"{parts.path}?{parts.query}", {"host": parts.netloc, **headers})


async def rejection_code(url: str, **options: Any) -> str:
    with pytest.raises(SignatureRejected) as raised:
        await authorize(url, **options)
    return raised.value.code


keys = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40),
    st.sampled_from(["a//b", "..", "a/../b", "a%2Fb", "a+b c", "\n\t\x01", "😀", "a?b#c;d", "~-._", "bucket/a"]),
)


@pytest.mark.parametrize("version", VERSIONS)
@given(key=keys)
async def test_a_url_signed_by_botocore_authorizes_its_key_only(version: str, key: str) -> None:
    url = signed(key, version)
    authorization = await authorize(url)
    assert (authorization.key, authorization.is_plain) == (key, True)
    assert 0 < authorization.expires_s - time.time() <= 61
    path = f"/bucket/{quote(key, safe='/~')}"
    assert await rejection_code(url.replace(path, f"{path}x")) == "SignatureDoesNotMatch"
    assert await rejection_code(url, method="HEAD") == "SignatureDoesNotMatch"


@pytest.mark.parametrize("version", VERSIONS)
async def test_every_part_of_a_signature_counts(version: str) -> None:
    url = signed("key", version, ResponseContentType="text/x")
    base, _, query = url.partition("?")
    pairs = query.split("&")
    assert (await authorize(url)).header_overrides == {"content-type": "text/x"}
    for index, pair in enumerate(pairs):
        name, _, value = pair.partition("=")
        without = pairs[:index] + pairs[index + 1 :]
        assert await rejection_code(f"{base}?{'&'.join(without)}"), name
        if name != "x-id":
            changed = value[:-1] + ("0" if value[-1] != "0" else "1")
            assert await rejection_code(f"{base}?{'&'.join([*without, f'{name}={changed}'])}"), name
        assert await rejection_code(f"{url}&{pair}"), "repeated parameter"


@pytest.mark.parametrize("version", VERSIONS)
async def test_expired_urls_and_other_credentials_are_rejected(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    url = signed("key", version, expires_s=60)
    await authorize(url)
    now_s = time.time()
    with monkeypatch.context() as later:
        later.setattr(time, "time", lambda: now_s + 61)
        assert await rejection_code(url) == "AccessDenied"
    other = replace(STORE, access_key_id="ANOTHER")
    assert await rejection_code(signed("key", version, store=other)) == "InvalidAccessKeyId"
    wrong = replace(STORE, secret_access_key=Secret("wrong"))
    assert await rejection_code(signed("key", version, store=wrong)) == "SignatureDoesNotMatch"
    assert await rejection_code(CACHE + "/bucket/key") == "AccessDenied"


@pytest.mark.parametrize("time_text", ["20260231T080000Z", "20261121T250000Z", "20261121T080060Z", "20261301T080000Z"])
async def test_an_invalid_date_is_rejected(time_text: str) -> None:
    url = re.sub(r"[0-9]{8}T[0-9]{6}Z", time_text, signed("key", "s3v4"))
    url = re.sub(r"(AKIDEXAMPLE%2F)[0-9]{8}", rf"\g<1>{time_text[:8]}", url)
    with pytest.raises(SignatureRejected, match="X-Amz-Date is not a valid time"):
        await authorize(url)


async def test_v4_covers_region_and_host_and_rejects_future_dates(monkeypatch: pytest.MonkeyPatch) -> None:
    url = signed("key", "s3v4")
    assert await rejection_code(url, store=replace(STORE, region="eu-west-1")) == "AuthorizationQueryParametersError"
    assert await rejection_code(url.replace("cache.example.org", "other.example.org")) == "SignatureDoesNotMatch"
    now_s = time.time()
    monkeypatch.setattr(time, "time", lambda: now_s - 3600)
    assert await rejection_code(url) == "AccessDenied"


async def test_a_signature_for_another_bucket_is_rejected() -> None:
    for version in VERSIONS:
        url = signed("bucket/key", version).replace("/bucket/bucket/key", "/other/bucket/key")
        assert await rejection_code(url) == "SignatureDoesNotMatch"
    assert await rejection_code(signed("key", "s3v4", bucket="other")) == "AccessDenied"


async def test_a_signature_that_the_store_accepts_is_kept_for_redirects() -> None:
    store_base = "http://ceph.example.org:7480"
    assert (await authorize(signed("k", base=CACHE))).store_url.startswith(f"{store_base}/bucket/k?AWSAccessKeyId=")
    assert (await authorize(signed("k", "s3v4", base=store_base))).store_url == signed("k", "s3v4", base=store_base)
    assert (await authorize(signed("k", "s3v4"))).store_url == "", "the cache's host is signed, not the store's"


async def test_virtual_hosted_style() -> None:
    for version in VERSIONS:
        authorization = await authorize(signed("a/key", version, style="virtual"))
        assert (authorization.key, authorization.store_url) == ("a/key", "")
    virtual = replace(STORE, path_style=False)
    store_base = "http://ceph.example.org:7480"
    for version in VERSIONS:
        url = signed("a/key", version, style="virtual", base=store_base)
        assert (await authorize(url, store=virtual)).store_url == url


async def test_keys_outside_the_prefix_are_rejected() -> None:
    under = replace(STORE, prefix="public/")
    assert (await authorize(signed("public/key"), store=under)).key == "public/key"
    assert await rejection_code(signed("private/key"), store=under) == "AccessDenied"


@pytest.mark.parametrize("version", VERSIONS)
async def test_readers_credentials_are_accepted_by_the_cache_only(version: str) -> None:
    reader = replace(STORE, access_key_id="READER", secret_access_key=Secret("its own"))
    verifier = Verifier(STORE, [Credentials("READER", Secret("its own"))])
    store_base = "http://ceph.example.org:7480"
    for endpoint, is_own in ((STORE, True), (reader, False)):
        parts = urlsplit(signed("key", version, base=store_base, store=endpoint))
        authorization = await verifier.verify("GET", f"{parts.path}?{parts.query}", {"host": parts.netloc})
        assert (authorization.key, bool(authorization.store_url)) == ("key", is_own)
    for secret in (STORE.secret_access_key, Secret("another")):
        parts = urlsplit(signed("key", version, store=replace(reader, secret_access_key=secret)))
        with pytest.raises(SignatureRejected, match="signature"):
            await verifier.verify("GET", f"{parts.path}?{parts.query}", {"host": parts.netloc})


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_version_or_a_part_is_not_plain(version: str) -> None:
    assert not (await authorize(signed("key", version, VersionId="v"))).is_plain
    assert not (await authorize(signed("key", version, PartNumber=1))).is_plain


@pytest.mark.parametrize(
    "query",
    ["AWSAccessKeyId=AKIDEXAMPLE&Expires=99999999999&Signature=", "AWSAccessKeyId=AKIDEXAMPLE&Expires=x&Signature=y",
     "AWSAccessKeyId=AKIDEXAMPLE&Expires=%F0%9F%98%80&Signature=y", "AWSAccessKeyId=&Expires=&Signature=",
     "X-Amz-Signature=x", "X-Amz-Signature=x&X-Amz-Date=x", "X-Amz-Signature=x&X-Amz-Date=20261121T080000Z",
     "AWSAccessKeyId=AKIDEXAMPLE&Expires=99999999999999999999999&Signature=y", "&&&=&=", "%ff=%ff&Signature=%ff",
     "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIDEXAMPLE/20261121/us-east-1/s3/aws4_request&X-Amz-Date="
     "20261121T080000Z&X-Amz-Expires=" + "9" * 30 + "&X-Amz-SignedHeaders=host&X-Amz-Signature=x"],
)  # fmt: skip
async def test_malformed_signatures_are_rejected(query: str) -> None:
    for path in ("/bucket/key", "/", "/bucket/", "//", "/%00"):
        assert await rejection_code(f"{CACHE}{path}?{query}")


async def test_a_signed_line_break_does_not_reach_a_header() -> None:
    for version in VERSIONS:
        url = signed("key", version, ResponseContentType="text/x\r\nset-cookie: x")
        assert await rejection_code(url) == "AccessDenied"


async def test_a_v2_and_a_v4_signature_together_are_rejected() -> None:
    v2, v4 = (signed("key", version) for version in VERSIONS)
    for url in (f"{v2}&{v4.partition('?')[2]}", f"{v4}&{v2.partition('?')[2]}", f"{v4}&Expires=99999999999"):
        assert await rejection_code(url) == "InvalidArgument"


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_presigned_url_with_an_authorization_header_is_rejected(version: str) -> None:
    url = signed("key", version)
    for authorization in ("Bearer x", "AWS AKIDEXAMPLE:x", "nonsense"):
        assert await rejection_code(url, authorization=authorization) == "InvalidArgument"
    assert (await authorize(url, authorization="")).key == "key", "Ceph ignores an empty header"
    assert await rejection_code(url.partition("?")[0], authorization="AWS AKIDEXAMPLE:x") == "AccessDenied"


async def test_parameters_added_to_a_v2_url_are_not_signed_again() -> None:
    authorization = await authorize(signed("key", VersionId="v") + "&retention&x-id=GetObject")
    assert (authorization.query, authorization.is_plain) == ((("versionId", "v"),), False)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    "path", ["/bucket/\udcff", "/\udcff/key", "/bucket/\udced\udca0\udc80", "/bucket/%c0%ae%c0%ae"]
)
async def test_paths_that_are_not_utf8_are_rejected(version: str, path: str) -> None:
    """aiohttp decodes such bytes to surrogates."""
    url = signed("key", version).replace("/bucket/key", path)
    assert await rejection_code(url) == "InvalidURI"
    assert await rejection_code(signed("key", version) + "&x=\udcff") == "InvalidURI"
