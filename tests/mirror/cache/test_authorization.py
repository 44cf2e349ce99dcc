"""Verified requests are cached for a minute."""

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


class CountingVerifier(Verifier):
    calls = 0
    is_rejecting = False

    async def verify(self, *arguments: Any) -> Any:
        self.calls += 1
        if self.is_rejecting:
            raise SignatureRejected("InvalidAccessKeyId", "credentials removed")
        return await super().verify(*arguments)


@pytest.fixture
def verifier() -> CountingVerifier:
    return CountingVerifier(STORE)


def target(version: str, expires_s: int = 60, **parameters: str) -> str:
    client = boto3.client(
        "s3", endpoint_url="http://ceph.example.org", region_name="us-east-1", aws_access_key_id="ID",
        aws_secret_access_key="secret", config=Config(signature_version=version, s3={"addressing_style": "path"}),
    )  # fmt: skip
    url = client.generate_presigned_url("get_object", {"Bucket": "bucket", "Key": "key", **parameters}, expires_s)
    return str(url).removeprefix("http://ceph.example.org")


async def authorized_key(authorizations: AuthorizationCache, target: str, method: str = "GET", **headers: str) -> str:
    named = {"Host": "ceph.example.org", **{name.replace("_", "-"): value for name, value in headers.items()}}
    return (await authorizations.authorize(make_mocked_request(method, target, headers=named))).key


@pytest.mark.parametrize("version", ["s3", "s3v4"])
async def test_a_repeated_url_is_verified_once_and_any_other_request_each_time(
    verifier: CountingVerifier, version: str
) -> None:
    authorizations, url = AuthorizationCache(verifier), target(version)
    for _ in range(3):
        assert await authorized_key(authorizations, url, Range="bytes=0-9") == "key"
    assert verifier.calls == 1
    for wrong, options in ((url[:-1], {}), (url, {"method": "HEAD"}), (url.replace("/key", "/other"), {}),
                           (url + "&versionId=x", {})):  # fmt: skip
        with pytest.raises(SignatureRejected):
            await authorized_key(authorizations, wrong, **options)
    with pytest.raises(SignatureRejected, match="Authorization"):
        await authorized_key(authorizations, url, Authorization="Bearer x")
    if version == "s3":
        with pytest.raises(SignatureRejected):  # V2 signs these headers wherever they are sent
            await authorized_key(authorizations, url, x_amz_own="x")
        with pytest.raises(SignatureRejected):
            await authorized_key(authorizations, url, Content_Type="x")
    else:
        await authorized_key(authorizations, url, host="other.example.org")
        assert verifier.calls == 7, "signed for the store's host, so the cache's host does not matter"


@pytest.mark.parametrize("version", ["s3", "s3v4"])
async def test_a_cached_authorization_expires_with_its_url(
    verifier: CountingVerifier, version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    authorizations, url, now_s = AuthorizationCache(verifier), target(version, expires_s=30), int(time.time())
    assert await authorized_key(authorizations, url) == "key"
    for later_s, is_valid in ((28, True), (32, False)):
        with monkeypatch.context() as later:
            later.setattr(time, "time", lambda later_s=later_s: now_s + later_s)
            if is_valid:
                assert await authorized_key(authorizations, url) == "key"
            else:
                with pytest.raises(SignatureRejected, match="expired"):
                    await authorized_key(authorizations, url)


async def test_removed_credentials_work_for_at_most_a_minute(
    verifier: CountingVerifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    authorizations, url, now_s = AuthorizationCache(verifier), target("s3", expires_s=3600), time.time()
    await authorized_key(authorizations, url)
    verifier.is_rejecting = True
    await authorized_key(authorizations, url)
    monkeypatch.setattr(time, "time", lambda: now_s + authorization.MAX_AGE_S + 1)
    with pytest.raises(SignatureRejected, match="removed"):
        await authorized_key(authorizations, url)


async def test_the_cache_is_bounded_and_rejected_requests_are_not_cached(
    verifier: CountingVerifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(authorization, "MAX_CACHED", 3)
    authorizations = AuthorizationCache(verifier)
    for number in range(5):
        await authorized_key(authorizations, target("s3", expires_s=60 + number))
        with pytest.raises(SignatureRejected):
            await authorized_key(authorizations, f"/bucket/key?Signature={number}")
    assert len(authorizations._cached) == 3
