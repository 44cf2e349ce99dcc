"""Keys and queries as they stand in a URL: percent-encoded, and never changed after that."""

from __future__ import annotations

import re
from collections.abc import Sequence
from urllib.parse import quote

from ..errors import InvalidKey
from ..model import KEY_LIMIT_BYTES, Endpoint

_PLAIN = re.compile(r"[A-Za-z0-9._~/-]*").fullmatch

Query = Sequence[tuple[str, "str | None"]]
"""Names and values as they are meant, not encoded. None is a name without "=" (`?acl`)."""


def encode_key(key: str) -> str:
    """Percent-encode a key for a path: all but A-Z a-z 0-9 - . _ ~ and / (S3 user guide, "Signature calculations").

    Dot segments, empty segments and a leading slash stay: they are part of the name.
    """
    return key if _PLAIN(key) else quote(key, safe="/")


def encode_query(query: Query) -> str:
    """Return the query string, in the order given, with `%20` for a space."""
    return "&".join(
        quote(name, safe="") if value is None else f"{quote(name, safe='')}={quote(value, safe='')}"
        for name, value in query
    )


class KeyMapper:
    """Maps an object's one name, its key in the source, to the key that an endpoint holds it under, and back."""

    __slots__ = ("_own_prefix", "_source_prefix", "_store", "same")

    def __init__(self, endpoint: Endpoint, source_prefix: str) -> None:
        self._store = endpoint.name
        self._own_prefix = endpoint.prefix
        self._source_prefix = source_prefix
        self.same = endpoint.prefix == source_prefix

    def held(self, key: str) -> str:
        """Return the key at this endpoint. Raises InvalidKey for what is no key there.

        An empty key would address the bucket itself: DELETE of it would be DELETE of the bucket.
        """
        if not key.startswith(self._source_prefix):
            raise self._invalid(key, f"the key is not under the route's prefix {self._source_prefix!r}")
        held = key if self.same else self._own_prefix + key[len(self._source_prefix) :]
        if not held:
            raise self._invalid(key, "an empty key")
        if len(held) * 3 > KEY_LIMIT_BYTES or not held.isascii():
            self._check_bytes(key, held)
        return held

    def source(self, held: str) -> str:
        """Return the source's name of a key that a listing of this endpoint gave."""
        return held if self.same else self._source_prefix + held[len(self._own_prefix) :]

    def _check_bytes(self, key: str, held: str) -> None:
        try:
            size_bytes = len(held.encode())
        except UnicodeEncodeError:
            raise self._invalid(key, "the key is not valid UTF-8") from None
        if size_bytes > KEY_LIMIT_BYTES:
            raise self._invalid(key, f"the key is {size_bytes} bytes long; S3 takes {KEY_LIMIT_BYTES}")

    def _invalid(self, key: str, message: str) -> InvalidKey:
        return InvalidKey(message, store=self._store, key=key)
