from __future__ import annotations

from typing import Any

import boto3
import botocore
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from s3s3.errors import AccessDenied, ConfigError
from s3s3.model import Endpoint, Secret
from s3s3.s3 import create_resource
from s3s3.s3.address import Address
from s3s3.s3.boto3_bridge import endpoint_from_client
from s3s3.scripts.demo.servers import StoreServer

KEYS = {"aws_access_key_id": "me", "aws_secret_access_key": "secret"}


def endpoint(config: Config | None = None, **arguments: Any) -> Endpoint:
    client = boto3.session.Session().client("s3", **{"region_name": "us-east-1", **KEYS, **arguments}, config=config)
    return endpoint_from_client(client, "images", "source")


@pytest.fixture(autouse=True)
def no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")


@pytest.mark.parametrize(
    "arguments",
    [
        {"host": "ceph.example.org", "port": 7480, "is_secure": False},
        {"host": "ceph.example.org", "calling_format": "SubdomainCallingFormat"},
        {"host": "::1", "port": 8080, "signature_version": "s3v4", "region": "default"},
    ],
)
def test_an_endpoint_has_the_arguments_of_its_resource(arguments: dict[str, Any]) -> None:
    found = endpoint_from_client(create_resource({**KEYS, **arguments}).meta.client, "images", "source")
    assert (found.host, found.port) == (arguments["host"], arguments.get("port"))
    assert found.is_secure is arguments.get("is_secure", True)
    assert found.path_style is ("calling_format" not in arguments)
    assert found.signature_version == arguments.get("signature_version", "s3")
    assert found.region == arguments.get("region", "us-east-1")
    assert (found.access_key_id, found.secret_access_key) == ("me", Secret("secret"))


def test_the_secret_is_not_in_the_repr() -> None:
    assert "secret'" not in repr(endpoint(aws_session_token="a-token")).replace("Secret('***')", "")
    assert "a-token" not in repr(endpoint(aws_session_token="a-token"))


def test_a_plain_boto3_client_means_aws_v4_and_path_style() -> None:
    found = endpoint(region_name="eu-central-1")
    assert str(Address.of(found)) == "s3.eu-central-1.amazonaws.com:443"
    assert (found.signature_version, found.region, found.path_style) == ("s3v4", "eu-central-1", True)


def test_a_session_token_is_taken_from_the_client() -> None:
    assert endpoint(aws_session_token="token").session_token == Secret("token")


def test_credentials_of_the_environment_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "from-the-environment")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
    assert endpoint(aws_access_key_id=None, aws_secret_access_key=None).access_key_id == "from-the-environment"


def test_a_client_without_credentials_is_refused() -> None:
    with pytest.raises(AccessDenied, match="no credentials"):
        endpoint(aws_access_key_id=None, aws_secret_access_key=None)


def test_a_client_that_does_not_sign_is_refused() -> None:
    with pytest.raises(ConfigError, match="signature_version is UNSIGNED"):
        endpoint(Config(signature_version=botocore.UNSIGNED))


def test_the_path_of_an_endpoint_url_is_kept_and_a_query_refused() -> None:
    assert endpoint(endpoint_url="http://gateway.example.org/s3/").base_path == "/s3"
    with pytest.raises(ConfigError, match="only scheme, host, port and path"):
        endpoint(endpoint_url="http://gateway.example.org/s3?tenant=a")


# resources that work with Swift and Ceph


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
