from __future__ import annotations

from typing import Any

import boto3
import botocore
import pytest
from botocore.config import Config

from s3s3.errors import AccessDenied, ConfigError
from s3s3.model import Endpoint
from s3s3.s3 import create_resource
from s3s3.s3.address import Address
from s3s3.s3.boto3_bridge import endpoint_from_client

KEYS = {"aws_access_key_id": "me", "aws_secret_access_key": "secret"}


def endpoint(config: Config | None = None, **arguments: Any) -> Endpoint:
    client = boto3.session.Session().client("s3", **{"region_name": "us-east-1", **KEYS, **arguments}, config=config)
    return endpoint_from_client(client, "images", "source")


@pytest.fixture(autouse=True)
def nobody_is_logged_in(monkeypatch: pytest.MonkeyPatch) -> None:
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
    assert (found.access_key_id, found.secret_access_key) == ("me", "secret")


def test_the_secret_is_not_in_the_repr() -> None:
    assert "secret'" not in repr(endpoint(aws_session_token="a-token")).replace("Secret('***')", "")
    assert "a-token" not in repr(endpoint(aws_session_token="a-token"))


def test_a_plain_boto3_client_means_aws_v4_and_path_style() -> None:
    found = endpoint(region_name="eu-central-1")
    assert str(Address.of(found)) == "s3.eu-central-1.amazonaws.com:443"
    assert (found.signature_version, found.region, found.path_style) == ("s3v4", "eu-central-1", True)


def test_a_session_token_is_taken_from_the_client() -> None:
    assert endpoint(aws_session_token="token").session_token == "token"


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


def test_an_endpoint_url_with_a_path_is_refused() -> None:
    with pytest.raises(ConfigError, match="only scheme, host and port"):
        endpoint(endpoint_url="http://gateway.example.org/s3")
