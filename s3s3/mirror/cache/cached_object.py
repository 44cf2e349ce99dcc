"""Metadata of a cached object."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import formatdate
from functools import cached_property


@dataclass(frozen=True)
class CachedObject:
    """Metadata of a cached object, as stored in its JSON file.

    Attributes:
        modified_ms: Last-Modified of the store (Unix, ms).
        headers: the object's own headers, with lower-case names.
        md5: MD5 of the body, in hex digits.
        body: name of the body's file.
    """

    bucket: str
    key: str
    size_bytes: int
    etag: str
    modified_ms: int
    headers: Mapping[str, str]
    md5: str
    body: str

    @cached_property
    def response_headers(self) -> Mapping[str, str]:
        """Headers of a response that carries the object."""
        headers = {name.title(): valid_utf8(value) for name, value in self.headers.items()}
        headers["ETag"] = f'"{self.etag}"'
        headers["Last-Modified"] = formatdate(self.modified_ms // 1000, usegmt=True)
        headers["Accept-Ranges"] = "bytes"
        headers.setdefault("Content-Type", "binary/octet-stream")
        return headers


def valid_utf8(value: str) -> str:
    """Return a header's value with bytes that are not UTF-8 replaced."""
    return value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
