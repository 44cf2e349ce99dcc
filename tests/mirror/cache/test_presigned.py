"""Presigned URLs, verified: those of botocore's own signers are good, and anything changed in them is not."""

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
    signing = client(version, base, style, store.access_key_id or "", str(store.secret_access_key))
    return str(signing.generate_presigned_url(method, {"Bucket": bucket, "Key": key, **parameters}, expires_s))


async def granted(url: str, method: str = "GET", store: Endpoint = STORE, **headers: str) -> Authorization:
    parts = urlsplit(url)
    return await Verifier(store).grant(method, f"{parts.path}?{parts.query}", {"host": parts.netloc, **headers})


async def refused(url: str, **options: Any) -> str:
    with pytest.raises(SignatureRejected) as denied:
        await granted(url, **options)
    return denied.value.code


keys = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40),
    st.sampled_from(["a//b", "..", "a/../b", "a%2Fb", "a+b c", "\n\t\x01", "😀", "a?b#c;d", "~-._", "bucket/a"]),
)


@pytest.mark.parametrize("version", VERSIONS)
@given(key=keys)
async def test_what_botocore_signs_is_good_for_its_key_alone(version: str, key: str) -> None:
    url = signed(key, version)
    grant = await granted(url)
    assert (grant.key, grant.is_plain) == (key, True)
    assert 0 < grant.expires_s - time.time() <= 61
    path = f"/bucket/{quote(key, safe='/~')}"
    assert await refused(url.replace(path, f"{path}x")) == "SignatureDoesNotMatch"
    assert await refused(url, method="HEAD") == "SignatureDoesNotMatch"


@pytest.mark.parametrize("version", VERSIONS)
async def test_every_part_of_a_signature_counts(version: str) -> None:
    url = signed("key", version, ResponseContentType="text/x")
    base, _, query = url.partition("?")
    pairs = query.split("&")
    assert (await granted(url)).overrides == {"content-type": "text/x"}
    for index, pair in enumerate(pairs):
        name, _, value = pair.partition("=")
        without = pairs[:index] + pairs[index + 1 :]
        assert await refused(f"{base}?{'&'.join(without)}"), name
        if name != "x-id":
            changed = value[:-1] + ("0" if value[-1] != "0" else "1")
            assert await refused(f"{base}?{'&'.join([*without, f'{name}={changed}'])}"), name
        assert await refused(f"{url}&{pair}"), "said twice"


@pytest.mark.parametrize("version", VERSIONS)
async def test_expired_and_of_other_keys(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    url = signed("key", version, expires_s=60)
    await granted(url)
    now_s = time.time()
    with monkeypatch.context() as later:
        later.setattr(time, "time", lambda: now_s + 61)
        assert await refused(url) == "AccessDenied"
    other = replace(STORE, access_key_id="ANOTHER")
    assert await refused(signed("key", version, store=other)) == "InvalidAccessKeyId"
    wrong = replace(STORE, secret_access_key=Secret("wrong"))
    assert await refused(signed("key", version, store=wrong)) == "SignatureDoesNotMatch"
    assert await refused(CACHE + "/bucket/key") == "AccessDenied"


@pytest.mark.parametrize("time_text", ["20260231T080000Z", "20261121T250000Z", "20261121T080060Z", "20261301T080000Z"])
async def test_a_time_that_never_is_signs_nothing(time_text: str) -> None:
    url = re.sub(r"[0-9]{8}T[0-9]{6}Z", time_text, signed("key", "s3v4"))
    url = re.sub(r"(AKIDEXAMPLE%2F)[0-9]{8}", rf"\g<1>{time_text[:8]}", url)
    with pytest.raises(SignatureRejected, match="X-Amz-Date is no time"):
        await granted(url)


async def test_v4_is_good_for_one_region_and_host_and_not_in_the_future(monkeypatch: pytest.MonkeyPatch) -> None:
    url = signed("key", "s3v4")
    assert await refused(url, store=replace(STORE, region="eu-west-1")) == "AuthorizationQueryParametersError"
    assert await refused(url.replace("cache.example.org", "other.example.org")) == "SignatureDoesNotMatch"
    now_s = time.time()
    monkeypatch.setattr(time, "time", lambda: now_s - 3600)
    assert await refused(url) == "AccessDenied"


async def test_a_signature_for_another_bucket_is_none_for_this_one() -> None:
    for version in VERSIONS:
        url = signed("bucket/key", version).replace("/bucket/bucket/key", "/other/bucket/key")
        assert await refused(url) == "SignatureDoesNotMatch"
    assert await refused(signed("key", "s3v4", bucket="other")) == "AccessDenied"


async def test_what_is_good_at_the_store_itself_is_led_there_as_it_is() -> None:
    there = "http://ceph.example.org:7480"
    assert (await granted(signed("k", base=CACHE))).at_store.startswith(f"{there}/bucket/k?AWSAccessKeyId=")
    assert (await granted(signed("k", "s3v4", base=there))).at_store == signed("k", "s3v4", base=there)
    assert (await granted(signed("k", "s3v4"))).at_store == "", "the cache's host is signed, not the store's"


async def test_a_bucket_in_the_host_name() -> None:
    for version in VERSIONS:
        grant = await granted(signed("a/key", version, style="virtual"))
        assert (grant.key, grant.at_store) == ("a/key", "")
    virtual = replace(STORE, path_style=False)
    there = "http://ceph.example.org:7480"
    for version in VERSIONS:
        url = signed("a/key", version, style="virtual", base=there)
        assert (await granted(url, store=virtual)).at_store == url


async def test_a_prefix_bounds_what_may_be_asked_for() -> None:
    under = replace(STORE, prefix="public/")
    assert (await granted(signed("public/key"), store=under)).key == "public/key"
    assert await refused(signed("private/key"), store=under) == "AccessDenied"


@pytest.mark.parametrize("version", VERSIONS)
async def test_others_keys_are_good_here_alone(version: str) -> None:
    reader = replace(STORE, access_key_id="READER", secret_access_key=Secret("its own"))
    verifier = Verifier(STORE, [Credentials("READER", Secret("its own"))])
    there = "http://ceph.example.org:7480"
    for endpoint, is_own in ((STORE, True), (reader, False)):
        parts = urlsplit(signed("key", version, base=there, store=endpoint))
        grant = await verifier.grant("GET", f"{parts.path}?{parts.query}", {"host": parts.netloc})
        assert (grant.key, bool(grant.at_store)) == ("key", is_own)
    for secret in (STORE.secret_access_key, Secret("another")):
        parts = urlsplit(signed("key", version, store=replace(reader, secret_access_key=secret)))
        with pytest.raises(SignatureRejected, match="signature"):
            await verifier.grant("GET", f"{parts.path}?{parts.query}", {"host": parts.netloc})


@pytest.mark.parametrize("version", VERSIONS)
async def test_what_is_not_about_the_object_itself_is_said_to_be_so(version: str) -> None:
    assert not (await granted(signed("key", version, VersionId="v"))).is_plain
    assert not (await granted(signed("key", version, PartNumber=1))).is_plain


@pytest.mark.parametrize(
    "query",
    ["AWSAccessKeyId=AKIDEXAMPLE&Expires=99999999999&Signature=", "AWSAccessKeyId=AKIDEXAMPLE&Expires=x&Signature=y",
     "AWSAccessKeyId=AKIDEXAMPLE&Expires=%F0%9F%98%80&Signature=y", "AWSAccessKeyId=&Expires=&Signature=",
     "X-Amz-Signature=x", "X-Amz-Signature=x&X-Amz-Date=x", "X-Amz-Signature=x&X-Amz-Date=20261121T080000Z",
     "AWSAccessKeyId=AKIDEXAMPLE&Expires=99999999999999999999999&Signature=y", "&&&=&=", "%ff=%ff&Signature=%ff",
     "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIDEXAMPLE/20261121/us-east-1/s3/aws4_request&X-Amz-Date="
     "20261121T080000Z&X-Amz-Expires=" + "9" * 30 + "&X-Amz-SignedHeaders=host&X-Amz-Signature=x"],
)  # fmt: skip
async def test_nonsense_is_refused(query: str) -> None:
    for path in ("/bucket/key", "/", "/bucket/", "//", "/%00"):
        assert await refused(f"{CACHE}{path}?{query}")


async def test_a_line_break_that_is_signed_still_gets_into_no_header() -> None:
    for version in VERSIONS:
        url = signed("key", version, ResponseContentType="text/x\r\nset-cookie: x")
        assert await refused(url) == "AccessDenied"


async def test_two_signatures_are_one_too_many() -> None:
    v2, v4 = (signed("key", version) for version in VERSIONS)
    for url in (f"{v2}&{v4.partition('?')[2]}", f"{v4}&{v2.partition('?')[2]}", f"{v4}&Expires=99999999999"):
        assert await refused(url) == "InvalidArgument"


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_signature_beside_an_authorization_is_one_too_many(version: str) -> None:
    url = signed("key", version)
    for authorization in ("Bearer x", "AWS AKIDEXAMPLE:x", "nonsense"):
        assert await refused(url, authorization=authorization) == "InvalidArgument"
    assert (await granted(url, authorization="")).key == "key", "Ceph takes an empty one for none"
    assert await refused(url.partition("?")[0], authorization="AWS AKIDEXAMPLE:x") == "AccessDenied"


async def test_what_somebody_has_added_to_a_v2_signature_gets_none_of_ours() -> None:
    grant = await granted(signed("key", VersionId="v") + "&retention&x-id=GetObject")
    assert (grant.rest, grant.is_plain) == ((("versionId", "v"),), False)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    "path", ["/bucket/\udcff", "/\udcff/key", "/bucket/\udced\udca0\udc80", "/bucket/%c0%ae%c0%ae"]
)
async def test_bytes_that_are_no_utf8_are_no_key(version: str, path: str) -> None:
    """aiohttp gives what was sent as it is, as surrogates."""
    url = signed("key", version).replace("/bucket/key", path)
    assert await refused(url) == "InvalidURI"
    assert await refused(signed("key", version) + "&x=\udcff") == "InvalidURI"
