"""Percent-encode keys and queries; map route keys to endpoint keys and back."""

from __future__ import annotations

import re
from collections.abc import Sequence
from urllib.parse import quote

from ..errors import InvalidKey
from ..model import MAX_KEY_BYTES, Endpoint

_UNRESERVED = re.compile(r"[A-Za-z0-9._~/-]*").fullmatch

#: Names and values, not encoded. The value None is a name without "=" (`?acl`).
Query = Sequence[tuple[str, "str | None"]]


def encode_key(key: str) -> str:
    """Percent-encode a key for a path: all but A-Z a-z 0-9 - . _ ~ and / (S3 user guide, "Signature calculations").

    Dot segments, empty segments and a leading slash are part of the key and stay.
    """
    return key if _UNRESERVED(key) else quote(key, safe="/")


def encode_query(query: Query) -> str:
    """Return the query string, in the order given, with `%20` for a space."""
    return "&".join(
        quote(name, safe="") if value is None else f"{quote(name, safe='')}={quote(value, safe='')}"
        for name, value in query
    )


class KeyMapper:
    """Maps the key of an object in the source to its key at one endpoint, and back.

    Attributes:
        is_identity: both keys are always equal.
    """

    __slots__ = ("_prefix", "_source_prefix", "_store", "is_identity")

    def __init__(self, endpoint: Endpoint, source_prefix: str) -> None:
        self._store = endpoint.name
        self._prefix = endpoint.prefix
        self._source_prefix = source_prefix
        self.is_identity = endpoint.prefix == source_prefix

    def endpoint_key(self, key: str) -> str:
        """Return the key at the endpoint. Raises InvalidKey if no object there can have it.

        An empty key is invalid because it addresses the bucket: DELETE would delete the bucket.
        """
        if not key.startswith(self._source_prefix):
            raise self._invalid(key, f"the key is not under the route's prefix {self._source_prefix!r}")
        endpoint_key = key if self.is_identity else self._prefix + key[len(self._source_prefix) :]
        if not endpoint_key:
            raise self._invalid(key, "an empty key")
        if len(endpoint_key) * 3 > MAX_KEY_BYTES or not endpoint_key.isascii():
            self._check_bytes(key, endpoint_key)
        return endpoint_key

    def encoded_key(self, key: str) -> str:
        """Return the key at the endpoint, percent-encoded for a path. Raises InvalidKey."""
        endpoint_key = self.endpoint_key(key)
        return endpoint_key if _UNRESERVED(endpoint_key) else quote(endpoint_key, safe="/")

    def source_key(self, endpoint_key: str) -> str:
        """Return the key in the source of a key that a listing of the endpoint returned."""
        return endpoint_key if self.is_identity else self._source_prefix + endpoint_key[len(self._prefix) :]

    def _check_bytes(self, key: str, endpoint_key: str) -> None:
        try:
            size_bytes = len(endpoint_key.encode())
        except UnicodeEncodeError:
            raise self._invalid(key, "the key is not valid UTF-8") from None
        if size_bytes > MAX_KEY_BYTES:
            raise self._invalid(key, f"the key has {size_bytes} bytes; S3 allows {MAX_KEY_BYTES}")

    def _invalid(self, key: str, message: str) -> InvalidKey:
        return InvalidKey(message, store=self._store, key=key)
