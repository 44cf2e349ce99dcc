"""Where a store is, who asks it, and a boto3 resource for it that works."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from ..errors import AccessDenied, ConfigError
from ..model import Endpoint, Secret
from .names import Query
from .signing import Keys, Target

if TYPE_CHECKING:
    from botocore.awsrequest import AWSRequest
    from mypy_boto3_s3.service_resource import S3ServiceResource

_KEYS_GOOD_FOR_S = 60.0


@dataclass(frozen=True, slots=True)
class Address:
    """Where an endpoint's bucket is.

    Attributes:
        host: to connect to.
        host_header: as sent and signed; the port is left out where it is the scheme's own.
        base: what stands before a key in a path as sent; "" in virtual-host style.
        resource_base: the same with the bucket in it whatever the style.
    """

    host: str
    port: int
    is_secure: bool
    host_header: str
    base: str
    resource_base: str

    @property
    def url(self) -> str:
        """The URL of the store, without a path."""
        return f"{'https' if self.is_secure else 'http'}://{self.host_header}"

    def target(self, encoded_key: str, query: Query = ()) -> Target:
        """Return the target of a request for a key, or for the bucket where it is ""."""
        return Target(f"{self.base}/{encoded_key}", f"{self.resource_base}/{encoded_key}", query)

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


def address_of(endpoint: Endpoint) -> Address:
    """Return where the endpoint is. No `host` is AWS, whose name for the region botocore knows."""
    host = endpoint.host or _aws_host(endpoint.region)
    bucket = quote(endpoint.bucket_name, safe="")
    if not endpoint.path_style:
        host = f"{endpoint.bucket_name}.{host}"
    usual_port = 443 if endpoint.is_secure else 80
    port = endpoint.port or usual_port
    name = f"[{host}]" if ":" in host else host
    return Address(
        host=host,
        port=port,
        is_secure=endpoint.is_secure,
        host_header=name if port == usual_port else f"{name}:{port}",
        base=f"/{bucket}" if endpoint.path_style else "",
        resource_base=f"/{bucket}",
    )


def _aws_host(region: str) -> str:
    import botocore.session  # noqa: PLC0415  it takes half a second, and is for who uses AWS

    resolver = botocore.session.Session().get_component("endpoint_resolver")
    found = resolver.construct_endpoint("s3", region)
    return str(found["hostname"]) if found else f"s3.{region}.amazonaws.com"


class KeySource:
    """The keys of an endpoint: those configured, else those of boto3's chain (environment, profile, instance role).

    The chain is asked when keys are first needed, in a thread since it may do requests of its own, and again every
    minute, which costs nothing unless they are about to expire.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self._name = endpoint.name
        self._table = endpoint.table
        self._good_until_s = 0.0
        self._keys: Keys | None = None
        self._found: Any = None
        self._asking = asyncio.Lock()
        if endpoint.access_key_id is not None:
            secret = endpoint.secret_access_key or Secret("")
            self._keys = Keys(endpoint.access_key_id, secret, endpoint.session_token)
            self._good_until_s = float("inf")

    def at_hand(self) -> Keys | None:
        """Return the keys where nobody needs to be asked for them."""
        return self._keys if time.monotonic() < self._good_until_s else None

    async def keys(self) -> Keys:
        """Return the keys. Raises AccessDenied where none are to be found."""
        async with self._asking:
            keys = self.at_hand()
            if keys is None:
                keys = await asyncio.to_thread(self._ask_chain)
                self._keys = keys
                self._good_until_s = time.monotonic() + _KEYS_GOOD_FOR_S
            return keys

    def _ask_chain(self) -> Keys:
        import botocore.session  # noqa: PLC0415  as above: for who has no keys configured
        from botocore.exceptions import BotoCoreError  # noqa: PLC0415

        try:
            if self._found is None:
                self._found = botocore.session.Session().get_credentials()
            frozen = self._found.get_frozen_credentials() if self._found is not None else None
        except BotoCoreError as error:
            raise self._none(str(error)) from error
        if frozen is None or not frozen.access_key:
            raise self._none("no credentials are configured, and boto3 finds none")
        token = Secret(frozen.token) if frozen.token else None
        return Keys(frozen.access_key, Secret(frozen.secret_key), token)

    def _none(self, message: str) -> AccessDenied:
        advice = f"set aws_access_key_id and aws_secret_access_key in {self._table}, or boto3's environment or profile"
        return AccessDenied(message, store=self._name, advice=advice)


_ARGUMENTS: Mapping[str, type] = {
    "aws_access_key_id": str,
    "aws_secret_access_key": str,
    "aws_session_token": str,
    "host": str,
    "port": int,
    "is_secure": bool,
    "signature_version": str,
    "region": str,
}
_OF_THE_BUCKET = frozenset(("bucket_name", "prefix", "verify_md5"))


def create_resource(connection_args: Mapping[str, Any]) -> S3ServiceResource:
    """Return a boto3 S3 resource that is safe for such stores.

    `connection_args` are the keys of an endpoint's table: aws_access_key_id, aws_secret_access_key, host, port,
    is_secure (HTTPS unless False), calling_format (path style unless "SubdomainCallingFormat"), signature_version
    ("s3" is V2, the default, or "s3v4"), region. No host is AWS, no access key boto3's own chain. Those of the bucket
    are passed over.

    Raises:
        ConfigError: an unknown key or a value of a wrong type.
    """
    import boto3  # noqa: PLC0415  as above: for who wants a resource of it
    from botocore.config import Config  # noqa: PLC0415

    args = _checked(connection_args)
    path_style = _path_style(args.pop("calling_format", "OrdinaryCallingFormat"))
    secure = args.get("is_secure", True)
    url = None
    if args.get("host"):
        host, port = args["host"], args.get("port")
        name = f"[{host}]" if ":" in host else host
        url = f"{'https' if secure else 'http'}://{name}" + (f":{port}" if port else "")
    resource = boto3.session.Session().resource(
        "s3",
        endpoint_url=url,
        use_ssl=secure,
        aws_access_key_id=args.get("aws_access_key_id"),
        aws_secret_access_key=args.get("aws_secret_access_key"),
        aws_session_token=args.get("aws_session_token"),
        region_name=args.get("region") or "us-east-1",
        config=Config(
            signature_version=args.get("signature_version", "s3"),
            s3={"addressing_style": "path" if path_style else "virtual"},
            # the default sends aws-chunked bodies with trailers, which Ceph and Swift refuse or store as they are
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        ),
    )
    if path_style:
        resource.meta.client.meta.events.register("before-sign.s3", _sign_the_path_as_sent)
    return resource


def _sign_the_path_as_sent(request: AWSRequest, **_: object) -> None:
    """In path style botocore sends /bucket and signs /bucket/ with V2; Ceph and Swift then refuse the signature."""
    request.auth_path = urlsplit(str(request.url)).path


def _checked(connection_args: Mapping[str, Any]) -> dict[str, Any]:
    faults = []
    args = {name: value for name, value in connection_args.items() if value is not None and name not in _OF_THE_BUCKET}
    for name, value in args.items():
        if name == "calling_format":
            continue
        wanted = _ARGUMENTS.get(name)
        if wanted is None:
            faults.append(
                f"{name}: no such connection argument; there are {', '.join([*_ARGUMENTS, 'calling_format'])}"
            )
        elif not isinstance(value, wanted) or (wanted is int and isinstance(value, bool)):
            faults.append(f"{name}: must be of type {wanted.__name__}, not {type(value).__name__}")
    if args.get("signature_version", "s3") not in ("s3", "s3v4"):
        faults.append('signature_version: must be "s3" or "s3v4"')
    if faults:
        raise ConfigError(faults)
    return args


def _path_style(calling_format: object) -> bool:
    """Accept boto 2's names, and its objects, which the predecessor took."""
    name = calling_format if isinstance(calling_format, str) else type(calling_format).__name__
    if name not in ("OrdinaryCallingFormat", "SubdomainCallingFormat"):
        raise ConfigError(['calling_format: must be "OrdinaryCallingFormat" or "SubdomainCallingFormat"'])
    return name == "OrdinaryCallingFormat"
