"""Create boto3 resources that work with Ceph and Swift, and read endpoints from boto3 clients."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ..errors import ConfigError
from ..model import Endpoint
from .proxies import proxy_urls
from .signing import read_botocore_credentials
from .transport.connecting import TlsSettings

if TYPE_CHECKING:
    from botocore.awsrequest import AWSRequest
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.service_resource import S3ServiceResource


def endpoint_from_client(client: S3Client, bucket_name: str, name: str) -> Endpoint:
    """Return the endpoint of a boto3 client and a bucket.

    Address, region, signature version, addressing style and the current credentials are the client's; temporary
    credentials are not refreshed. Path style is used unless the client requires "virtual", because every store
    supports it. Proxies are those of the environment.

    Args:
        client: for example `resource.meta.client`.
        name: the endpoint's name in messages.

    Raises ConfigError for unsigned requests, another signature or a query in the endpoint URL, and InvalidCredentials
    if the client has no credentials or cannot get them.
    """
    settings: Any = client.meta.config
    url, version = client.meta.endpoint_url, settings.signature_version
    parts = urlsplit(url)
    if version not in ("s3", "s3v4"):
        shown = repr(version) if isinstance(version, str) else "UNSIGNED"
        raise ConfigError([f'{name}: signature_version is {shown}; s3s3 signs with "s3" (V2) or "s3v4"'])
    internals: Any = client  # botocore has no public access to these attributes, which are as old as boto3
    signer, verify = internals._request_signer, internals._endpoint.http_session._verify
    certificate = settings.client_cert
    cert_file, key_file = certificate if isinstance(certificate, tuple) else (certificate, None)
    missing = "this boto3 client has no credentials"
    credentials = read_botocore_credentials(lambda: signer._credentials, name, missing=missing)
    if not parts.hostname or parts.query:
        raise ConfigError([f"{name}: endpoint_url {url!r} must have only scheme, host, port and path"])
    return Endpoint(
        name=name,
        bucket_name=bucket_name,
        host=parts.hostname,
        port=parts.port,
        is_secure=parts.scheme != "http",
        access_key_id=credentials.access_key_id,
        secret_access_key=credentials.secret_access_key,
        session_token=credentials.session_token,
        path_style=(settings.s3 or {}).get("addressing_style") != "virtual",
        signature_version=version,
        region=client.meta.region_name or "us-east-1",
        base_path=parts.path.rstrip("/"),
        connect_timeout_s=_changed_timeout_s(settings.connect_timeout),
        read_timeout_s=_changed_timeout_s(settings.read_timeout),
        ca_file=verify if isinstance(verify, str) else None,
        verify_tls=verify is not False,
        client_cert_file=cert_file,
        client_key_file=key_file,
    )


def _changed_timeout_s(timeout_s: float | None) -> float | None:
    """Return a client's timeout if it is not botocore's default."""
    return None if timeout_s == BOTOCORE_TIMEOUT_S else timeout_s


def client_options(url: str | None, tls: TlsSettings) -> dict[str, Any]:
    """Return arguments of a boto3 client, `verify` and `config`, for TLS and the environment's proxies.

    `url` is that of the server; None: AWS's, which only botocore knows, with the proxies that it finds itself.
    """
    from botocore.config import Config  # noqa: PLC0415  slow, and rarely needed

    has_both = tls.cert_file is not None and tls.key_file is not None
    certificate: Any = (tls.cert_file, tls.key_file) if has_both else tls.cert_file
    config = Config(client_cert=certificate, proxies=None if url is None else proxy_urls(url))
    return {"verify": (tls.ca_file or None) if tls.verify else False, "config": config}


#: Of connecting and reading (botocore's documentation, "Config").
BOTOCORE_TIMEOUT_S = 60

#: The arguments of a connection, with their types.
_ARGUMENTS: Mapping[str, type] = {
    "aws_access_key_id": str,
    "aws_secret_access_key": str,
    "aws_session_token": str,
    "host": str,
    "port": int,
    "is_secure": bool,
    "signature_version": str,
    "region": str,
    "connect_timeout": float,
    "read_timeout": float,
    "ca_file": str,
    "verify_tls": bool,
    "client_cert_file": str,
    "client_key_file": str,
    "calling_format": object,  # a name or an object of boto 2
}

#: Matches a host name, an IPv4 or an IPv6 address; "" is AWS.
_HOST = re.compile(r"[\w.-]*|[0-9A-Fa-f:]+:[0-9A-Fa-f:.]*(%\w+)?").fullmatch

#: Matches the URL of a store, without a user name.
_URL = re.compile(r"https?://([\w.-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?(/[^?#@\s]*)?").fullmatch

#: Keys of an endpoint's table that do not concern the connection.
_BUCKET_ARGUMENTS = frozenset(("bucket_name", "prefix", "verify_md5"))


def create_resource(connection_args: Mapping[str, Any]) -> S3ServiceResource:
    """Return a boto3 S3 resource with settings that Ceph and Swift support.

    `connection_args` are keys of an endpoint's table: aws_access_key_id, aws_secret_access_key, host, port,
    is_secure (HTTPS unless False), calling_format (path style unless "SubdomainCallingFormat"), signature_version
    ("s3" is V2, the default, or "s3v4"), region, connect_timeout and read_timeout (in seconds), ca_file, verify_tls,
    client_cert_file, client_key_file. `host` may be the store's URL. Without a host it is AWS; without an access key
    boto3's credential chain is used. Keys that concern the bucket are ignored.

    Raises ConfigError for an unknown key or a value of a wrong type or form.
    """
    import boto3  # noqa: PLC0415  slow, and rarely needed
    from botocore.config import Config  # noqa: PLC0415

    args = _validated(connection_args)
    calling_format = args.pop("calling_format", "OrdinaryCallingFormat")
    format_name = calling_format if isinstance(calling_format, str) else type(calling_format).__name__
    if format_name not in ("OrdinaryCallingFormat", "SubdomainCallingFormat"):
        raise ConfigError(['calling_format: must be "OrdinaryCallingFormat" or "SubdomainCallingFormat"'])
    path_style = format_name == "OrdinaryCallingFormat"
    secure = args.get("is_secure", True)
    url = _endpoint_url(args)
    tls = TlsSettings(args.get("ca_file"), args.get("verify_tls", True), args.get("client_cert_file"),
                      args.get("client_key_file"))  # fmt: skip
    options = client_options(url, tls)
    own_config = Config(
        signature_version=args.get("signature_version", "s3"),
        s3={"addressing_style": "path" if path_style else "virtual"},
        connect_timeout=args.get("connect_timeout", BOTOCORE_TIMEOUT_S),
        read_timeout=args.get("read_timeout", BOTOCORE_TIMEOUT_S),
        # by default bodies are aws-chunked with trailers, which Ceph and Swift refuse or store unchanged
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    resource = boto3.session.Session().resource(
        "s3",
        endpoint_url=url,
        use_ssl=secure,
        aws_access_key_id=args.get("aws_access_key_id"),
        aws_secret_access_key=args.get("aws_secret_access_key"),
        aws_session_token=args.get("aws_session_token"),
        region_name=args.get("region") or "us-east-1",
        verify=options["verify"],
        config=own_config.merge(options["config"]),
    )
    if path_style:
        resource.meta.client.meta.events.register("before-sign.s3", _sign_path_as_sent)
    return resource


def _sign_path_as_sent(request: AWSRequest, **_: object) -> None:
    """Correct the signed path: with V2 botocore sends /bucket and signs /bucket/, which Ceph and Swift refuse."""
    request.auth_path = urlsplit(str(request.url)).path


def _endpoint_url(args: Mapping[str, Any]) -> str | None:
    """Return the store's URL, which `host` may be already; None for AWS."""
    host, port = args.get("host"), args.get("port")
    if not host:
        return None
    if "://" in host:
        parts = urlsplit(host)
        return str(host) if port is None or parts.port else parts._replace(netloc=f"{parts.netloc}:{port}").geturl()
    name = f"[{host}]" if ":" in host else host
    return f"{'https' if args.get('is_secure', True) else 'http'}://{name}" + (f":{port}" if port else "")


def _validated(connection_args: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(connection_args, Mapping):
        raise TypeError(f"connection_args must be a mapping such as a dict, not {type(connection_args).__name__}")
    problems = []
    args = {
        name: value for name, value in connection_args.items() if value is not None and name not in _BUCKET_ARGUMENTS
    }
    for name, value in args.items():
        expected = _ARGUMENTS.get(name)
        if expected is None:
            problems.append(f"{name}: unknown connection argument; known are {', '.join(_ARGUMENTS)}")
        elif not isinstance(value, int | float if expected is float else expected) or (
            expected in (int, float) and isinstance(value, bool)
        ):
            problems.append(f"{name}: must be of type {expected.__name__}, not {type(value).__name__}")
    host, port = args.get("host"), args.get("port")
    if isinstance(host, str) and not (_HOST(host) or _URL(host)):
        problems.append(f"host: must be a name, an address or a URL, such as ceph.example.org, not {host!r}; port and "
                        "is_secure (False: plain HTTP) are arguments of their own")  # fmt: skip
    elif isinstance(host, str) and "://" in host:
        parts = urlsplit(host)
        if args.get("is_secure") not in (None, parts.scheme == "https"):
            problems.append(f"is_secure: host begins with {parts.scheme}://; leave is_secure out")
        if port is not None and parts.port not in (None, port):
            problems.append("port: host has another port; give one of the two")
    if isinstance(port, int) and not 0 < port < 65536:
        problems.append(f"port: must be from 1 to 65535, not {port}")
    if args.get("signature_version", "s3") not in ("s3", "s3v4"):
        problems.append('signature_version: must be "s3" or "s3v4"')
    if problems:
        raise ConfigError(problems)
    return args
