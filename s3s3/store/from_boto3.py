"""From any boto3 client to an endpoint: the same store, the same keys, whoever made it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from ..errors import AccessDenied, ConfigError
from ..model import Endpoint, Secret

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


def endpoint_of(client: S3Client, bucket_name: str, name: str) -> Endpoint:
    """Return the endpoint that a bucket is for a boto3 client.

    Address, region, signature version, addressing style and keys are taken from the client as they are now: keys
    that expire are good for as long as they would have been. Path style is used unless the client insists on
    "virtual": every store understands it, AWS too. Proxies and certificates of the client are not taken over.

    Args:
        client: such as `resource.meta.client`.
        bucket_name: the bucket.
        name: what the endpoint is called in messages.

    Raises:
        ConfigError: the client cannot be followed: unsigned requests, another signature, a path in the address.
        AccessDenied: the client has no keys, or cannot get them.
    """
    settings: Any = client.meta.config
    parts = urlsplit(client.meta.endpoint_url)
    signature_version = _signature_version(settings.signature_version, name)
    key_id, secret, token = _keys(client, name)
    return Endpoint(
        name=name,
        bucket_name=bucket_name,
        host=_host(client, name),
        port=parts.port,
        is_secure=parts.scheme != "http",
        access_key_id=key_id,
        secret_access_key=secret,
        session_token=token,
        path_style=(settings.s3 or {}).get("addressing_style") != "virtual",
        signature_version=signature_version,
        region=client.meta.region_name or "us-east-1",
    )


def _host(client: S3Client, name: str) -> str:
    parts = urlsplit(client.meta.endpoint_url)
    if not parts.hostname or parts.path.strip("/") or parts.query:
        raise ConfigError(
            [f"{name}: endpoint_url {client.meta.endpoint_url!r} must be no more than scheme, host, port"]
        )
    return parts.hostname


def _signature_version(version: object, name: str) -> Literal["s3", "s3v4"]:
    if version == "s3":
        return "s3"
    if version == "s3v4":
        return "s3v4"
    shown = repr(version) if isinstance(version, str) else "UNSIGNED"
    raise ConfigError([f'{name}: signature_version is {shown}; s3s3 signs with "s3" (V2) or "s3v4"'])


def _keys(client: Any, name: str) -> tuple[str, Secret, Secret | None]:
    """Return the keys that the client signs with. botocore has no public way to them; this one is as old as boto3."""
    from botocore.exceptions import BotoCoreError  # noqa: PLC0415  who has a client has imported it

    credentials = client._request_signer._credentials
    advice = "set aws_access_key_id and aws_secret_access_key, or boto3's environment or profile"
    try:
        frozen = credentials.get_frozen_credentials() if credentials is not None else None
    except BotoCoreError as error:
        raise AccessDenied(str(error), store=name, advice=advice) from error
    if frozen is None or not frozen.access_key:
        raise AccessDenied("this boto3 client has no credentials", store=name, advice=advice)
    return frozen.access_key, Secret(frozen.secret_key), Secret(frozen.token) if frozen.token else None
