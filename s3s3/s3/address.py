"""Where a store is, who asks it, and a boto3 resource for it that works."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote

from ..model import Endpoint
from .keys import Query
from .signing import RequestTarget

if TYPE_CHECKING:
    pass


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

    def target(self, encoded_key: str, query: Query = ()) -> RequestTarget:
        """Return the target of a request for a key, or for the bucket where it is ""."""
        return RequestTarget(f"{self.base}/{encoded_key}", f"{self.resource_base}/{encoded_key}", query)

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
