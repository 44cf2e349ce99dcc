"""What is known of a kept object, and how an answer says it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import formatdate
from functools import cached_property


@dataclass(frozen=True)
class CachedObject:
    """What is known of a kept object.

    Attributes:
        modified_ms: by the store (Unix, ms).
        headers: the object's own, lower-case names.
        md5: of the body, in hex digits.
        body: the file's name.
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
    def answered(self) -> Mapping[str, str]:
        """The headers of an answer with it: its own, and what is said of it."""
        said = {name.title(): sendable(value) for name, value in self.headers.items()}
        said["ETag"] = f'"{self.etag}"'
        said["Last-Modified"] = formatdate(self.modified_ms // 1000, usegmt=True)
        said["Accept-Ranges"] = "bytes"
        said.setdefault("Content-Type", "binary/octet-stream")
        return said


def sendable(value: str) -> str:
    """Return a header's value without the bytes in it that are no UTF-8."""
    return value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
