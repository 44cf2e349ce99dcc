"""Signatures that were found good are remembered, for a while and for the same request alone."""

from __future__ import annotations

import time
from typing import Any

import boto3
import pytest
from aiohttp.test_utils import make_mocked_request
from botocore.config import Config

from s3s3.errors import SignatureRejected
from s3s3.mirror.cache import authorization
from s3s3.mirror.cache.authorization import AuthorizationCache
from s3s3.mirror.cache.presigned import Verifier
from s3s3.model import Endpoint, Secret

STORE = Endpoint("mirror.cache.store", "bucket", host="ceph.example.org", is_secure=False, access_key_id="ID",
                 secret_access_key=Secret("secret"))  # fmt: skip


class Counting(Verifier):
    """Counts how often it is asked."""

    asked = 0
    is_willing = True

    async def grant(self, *about: Any) -> Any:
        self.asked += 1
        if not self.is_willing:
            raise SignatureRejected("InvalidAccessKeyId", "they are gone")
        return await super().grant(*about)


@pytest.fixture
def verifier() -> Counting:
    return Counting(STORE)


def target(version: str, expires_s: int = 60, **parameters: str) -> str:
    client = boto3.client(
        "s3", endpoint_url="http://ceph.example.org", region_name="us-east-1", aws_access_key_id="ID",
        aws_secret_access_key="secret", config=Config(signature_version=version, s3={"addressing_style": "path"}),
    )  # fmt: skip
    url = client.generate_presigned_url("get_object", {"Bucket": "bucket", "Key": "key", **parameters}, expires_s)
    return str(url).removeprefix("http://ceph.example.org")


async def granted(grants: AuthorizationCache, target: str, method: str = "GET", **headers: str) -> str:
    named = {"Host": "ceph.example.org", **{name.replace("_", "-"): value for name, value in headers.items()}}
    return (await grants.grant(make_mocked_request(method, target, headers=named))).key


@pytest.mark.parametrize("version", ["s3", "s3v4"])
async def test_a_url_that_comes_again_is_verified_once_and_anything_else_anew(verifier: Counting, version: str) -> None:
    asked, url = AuthorizationCache(verifier), target(version)
    for _ in range(3):
        assert await granted(asked, url, Range="bytes=0-9") == "key"
    assert verifier.asked == 1
    for wrong, options in ((url[:-1], {}), (url, {"method": "HEAD"}), (url.replace("/key", "/other"), {}),
                           (url + "&versionId=x", {})):  # fmt: skip
        with pytest.raises(SignatureRejected):
            await granted(asked, wrong, **options)
    with pytest.raises(SignatureRejected, match="Authorization"):
        await granted(asked, url, Authorization="Bearer x")
    if version == "s3":
        with pytest.raises(SignatureRejected):  # V2 signs these headers wherever they are sent
            await granted(asked, url, x_amz_own="x")
        with pytest.raises(SignatureRejected):
            await granted(asked, url, Content_Type="x")
    else:
        await granted(asked, url, host="other.example.org")
        assert verifier.asked == 7, "it was signed for the store's own host, whatever the cache's"


@pytest.mark.parametrize("version", ["s3", "s3v4"])
async def test_what_is_remembered_expires_to_the_second(
    verifier: Counting, version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, url, now_s = AuthorizationCache(verifier), target(version, expires_s=30), int(time.time())
    assert await granted(asked, url) == "key"
    for later_s, is_good in ((28, True), (32, False)):
        with monkeypatch.context() as later:
            later.setattr(time, "time", lambda later_s=later_s: now_s + later_s)
            if is_good:
                assert await granted(asked, url) == "key"
            else:
                with pytest.raises(SignatureRejected, match="expired"):
                    await granted(asked, url)


async def test_keys_that_are_gone_are_good_for_a_minute_at_most(
    verifier: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, url, now_s = AuthorizationCache(verifier), target("s3", expires_s=3600), time.time()
    await granted(asked, url)
    verifier.is_willing = False
    await granted(asked, url)
    monkeypatch.setattr(time, "time", lambda: now_s + authorization.REMEMBERED_S + 1)
    with pytest.raises(SignatureRejected, match="gone"):
        await granted(asked, url)


async def test_what_is_remembered_is_bounded_and_none_of_it_was_refused(
    verifier: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(authorization, "MAX_REMEMBERED", 3)
    asked = AuthorizationCache(verifier)
    for number in range(5):
        await granted(asked, target("s3", expires_s=60 + number))
        with pytest.raises(SignatureRejected):
            await granted(asked, f"/bucket/key?Signature={number}")
    assert len(asked._remembered) == 3
