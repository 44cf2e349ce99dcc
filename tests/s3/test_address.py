"""Addresses, credentials, and boto3 resources that work with Swift and Ceph."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from s3s3.errors import AccessDenied, ConfigError
from s3s3.model import Endpoint, Secret
from s3s3.s3 import create_resource
from s3s3.s3.address import Address
from s3s3.s3.signing import CredentialProvider
from s3s3.scripts.demo.servers import StoreServer


def endpoint(**changed: Any) -> Endpoint:
    return Endpoint(**{"name": "source", "bucket_name": "bucket", **changed})


@pytest.mark.parametrize(
    ("settings", "connects_to", "host_header", "path", "resource"),
    [
        ({"host": "h", "is_secure": False}, ("h", 80), "h", "/bucket/k", "/bucket/k"),
        ({"host": "h", "is_secure": True}, ("h", 443), "h", "/bucket/k", "/bucket/k"),
        ({"host": "h", "port": 7480, "is_secure": False}, ("h", 7480), "h:7480", "/bucket/k", "/bucket/k"),
        ({"host": "h", "port": 80, "is_secure": True}, ("h", 80), "h:80", "/bucket/k", "/bucket/k"),
        ({"host": "::1", "port": 7480}, ("::1", 7480), "[::1]:7480", "/bucket/k", "/bucket/k"),
        ({"host": "h", "path_style": False}, ("bucket.h", 443), "bucket.h", "/k", "/bucket/k"),
        (
            {"region": "eu-west-1"},
            ("s3.eu-west-1.amazonaws.com", 443),
            "s3.eu-west-1.amazonaws.com",
            "/bucket/k",
            "/bucket/k",
        ),
        (
            {"region": "cn-north-1", "path_style": False},
            ("bucket.s3.cn-north-1.amazonaws.com.cn", 443),
            "bucket.s3.cn-north-1.amazonaws.com.cn",
            "/k",
            "/bucket/k",
        ),
        ({"host": "h", "bucket_name": "tenant:b"}, ("h", 443), "h", "/tenant%3Ab/k", "/tenant%3Ab/k"),
    ],
)
def test_the_address_of_an_endpoint(
    settings: dict[str, Any], connects_to: tuple[str, int], host_header: str, path: str, resource: str
) -> None:
    address = Address.of(endpoint(**settings))
    target = address.target("k")
    assert ((address.host, address.port), address.host_header) == (connects_to, host_header)
    assert (target.path, target.resource) == (path, resource)


# credentials


async def test_configured_credentials_are_current_without_loading(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "from-the-environment")
    keys = CredentialProvider(endpoint(access_key_id="mine", secret_access_key=Secret("s"), session_token=Secret("t")))
    found = keys.current()
    assert found is not None
    assert (found.access_key_id, found.secret_access_key, found.session_token) == ("mine", "s", "t")


async def test_without_configured_credentials_those_of_boto3s_chain_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "from-the-environment")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    source = CredentialProvider(endpoint())
    assert source.current() is None  # the chain did not run yet
    keys = await source.load()
    assert (keys.access_key_id, keys.secret_access_key, keys.session_token) == ("from-the-environment", "secret", None)
    assert source.current() is keys


@pytest.fixture
def no_keys(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    return tmp_path


async def test_an_error_for_missing_credentials_names_the_settings(no_keys: Path) -> None:
    with pytest.raises(AccessDenied, match=r"aws_access_key_id and aws_secret_access_key in \[source\]"):
        await CredentialProvider(endpoint()).load()


async def test_expiring_credentials_are_loaded_again(no_keys: Path) -> None:
    """credential_process makes the refresh of the chain visible without AWS."""
    calls, script = no_keys / "calls", no_keys / "keys.sh"

    def keys_until(minutes: int) -> None:
        until = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(minutes=minutes)
        credentials = {"Version": 1, "AccessKeyId": "AK", "SecretAccessKey": "SK", "SessionToken": "T"}
        output = json.dumps({**credentials, "Expiration": until.isoformat()})
        script.write_text(f"echo >> {calls}; echo '{output}'")

    (no_keys / "config").write_text(f"[default]\ncredential_process = sh {script}\n")
    keys_until(1)
    source = CredentialProvider(endpoint())
    first = await source.load()
    assert first.session_token == "T"
    assert await source.load() is first
    keys_until(600)
    a_minute_later(source)
    assert source.current() is None
    await source.load()
    asked = len(calls.read_text())
    assert asked > 1
    a_minute_later(source)
    await source.load()  # valid for hours
    assert len(calls.read_text()) == asked


def a_minute_later(source: CredentialProvider) -> None:
    source.valid_until_s = 0.0


# the boto3 resource


def connection_args(server: StoreServer, **changed: Any) -> dict[str, Any]:
    account = server.accounts[0]
    return {
        "aws_access_key_id": account.access_key_id,
        "aws_secret_access_key": str(account.secret_access_key),
        "host": "127.0.0.1",
        "port": server.port,
        "is_secure": False,
        **changed,
    }


@pytest.mark.real
@pytest.mark.parametrize("server_fixture", ["swift", "ceph"])
@pytest.mark.parametrize("signature_version", [None, "s3", "s3v4"])
def test_a_resource_works_at_every_level(
    server_fixture: str, signature_version: str | None, request: pytest.FixtureRequest
) -> None:
    server: StoreServer = request.getfixturevalue(server_fixture)
    s3 = create_resource(connection_args(server, signature_version=signature_version))
    bucket = s3.Bucket(f"resource-{signature_version or 'default'}".lower())
    bucket.create()
    s3.meta.client.head_bucket(Bucket=bucket.name)
    assert bucket.name in {other.name for other in s3.buckets.all()}
    for key in ("a", "b c/d+e", "ü//%"):
        bucket.put_object(Key=key, Body=b"content of " + key.encode(), Metadata={"m": "v"})
    assert [entry.key for entry in bucket.objects.all()] == ["a", "b c/d+e", "ü//%"]
    answer = bucket.Object("b c/d+e").get()
    assert (answer["Body"].read(), answer["Metadata"]) == (b"content of b c/d+e", {"m": "v"})
    url = s3.meta.client.generate_presigned_url("get_object", Params={"Bucket": bucket.name, "Key": "a"})
    assert "Signature=" in url
    bucket.delete_objects(Delete={"Objects": [{"Key": "a"}, {"Key": "ü//%"}]})
    assert [entry.key for entry in bucket.objects.all()] == ["b c/d+e"]
    bucket.Object("b c/d+e").delete()
    bucket.delete()
    with pytest.raises(ClientError, match="404"):
        s3.meta.client.head_bucket(Bucket=bucket.name)


class OrdinaryCallingFormat:
    """An object like boto 2's, as users of the predecessor pass it."""


def test_a_resource_is_v2_and_path_style_by_default() -> None:
    keys = {"aws_access_key_id": "AK", "aws_secret_access_key": "SK", "host": "h"}
    for changed, version, style, url in (
        ({}, "s3", "path", "https://h"),
        ({"port": 7480, "is_secure": False}, "s3", "path", "http://h:7480"),
        ({"calling_format": OrdinaryCallingFormat()}, "s3", "path", "https://h"),
        ({"calling_format": "SubdomainCallingFormat", "signature_version": "s3v4"}, "s3v4", "virtual", "https://h"),
        ({"bucket_name": "b", "prefix": "", "verify_md5": False, "port": None}, "s3", "path", "https://h"),
    ):
        meta = create_resource({**keys, **changed}).meta.client.meta
        config: Any = meta.config  # its options are set at run time
        assert (config.signature_version, config.s3["addressing_style"]) == (version, style)
        assert meta.endpoint_url == url
        assert config.request_checksum_calculation == "when_required"


def test_every_invalid_argument_is_reported() -> None:
    with pytest.raises(ConfigError) as caught:
        create_resource({"hots": "h", "port": "7480", "is_secure": "no", "signature_version": "v3"})
    assert len(caught.value.problems) == 4
    with pytest.raises(ConfigError, match="calling_format"):
        create_resource({"calling_format": "Ordinary"})
