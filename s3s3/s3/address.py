"""Where a request goes: host, port, path and query, in path style or virtual-host style."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import quote

from ..model import Endpoint

#: Names and values, not encoded. The value None is a name without "=" (`?acl`).
Query = Sequence[tuple[str, "str | None"]]


def encode_query(query: Query) -> str:
    """Return the query string, in the order given, with `%20` for a space."""
    return "&".join(
        quote(name, safe="") if value is None else f"{quote(name, safe='')}={quote(value, safe='')}"
        for name, value in query
    )


class RequestTarget(NamedTuple):
    """Path and query of a request.

    Attributes:
        path: as sent, encoded.
        resource: the path with the bucket, encoded; differs from `path` in virtual-host style.
        query: not encoded.
    """

    path: str
    resource: str
    query: Query = ()


@dataclass(frozen=True, slots=True)
class Address:
    """Where an endpoint's bucket is.

    Attributes:
        host: to connect to.
        host_header: as sent and signed, without the scheme's default port.
        base: the path before a key as sent, without the bucket in virtual-host style.
        resource_base: the path before a key as V2 signs it, with the bucket in both styles.
    """

    host: str
    port: int
    is_secure: bool
    host_header: str
    base: str
    resource_base: str

    @classmethod
    def of(cls, endpoint: Endpoint) -> Address:
        """Return an endpoint's address; without a `host` that of AWS in its region, which botocore knows."""
        host = endpoint.host
        if not host:
            import botocore.session  # noqa: PLC0415  takes half a second, and only AWS needs it

            resolver = botocore.session.Session().get_component("endpoint_resolver")
            found = resolver.construct_endpoint("s3", endpoint.region)
            host = str(found["hostname"]) if found else f"s3.{endpoint.region}.amazonaws.com"
        bucket = quote(endpoint.bucket_name, safe="")
        if not endpoint.path_style:
            host = f"{endpoint.bucket_name}.{host}"
        default_port = 443 if endpoint.is_secure else 80
        port = endpoint.port or default_port
        name = f"[{host.partition('%')[0]}]" if ":" in host else host  # without the zone of an IPv6 address
        base = endpoint.base_path + (f"/{bucket}" if endpoint.path_style else "")
        return cls(
            host=host,
            port=port,
            is_secure=endpoint.is_secure,
            host_header=name if port == default_port else f"{name}:{port}",
            base=base,
            resource_base=base if endpoint.path_style else f"/{bucket}{base}",
        )

    @property
    def url(self) -> str:
        """The URL of the store, without a path."""
        return f"{'https' if self.is_secure else 'http'}://{self.host_header}"

    def target(self, encoded_key: str, query: Query = ()) -> RequestTarget:
        """Return the target of a request for a key; "" is the bucket."""
        return RequestTarget(f"{self.base}/{encoded_key}", f"{self.resource_base}/{encoded_key}", query)

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"
