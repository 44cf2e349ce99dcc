"""Compare the headers of a copy with its source's, in the forms in which stores return them.

Stores change headers that they keep. Seen on Ceph 16.2.15 and Swift 2.38.3, and documented for AWS (S3 user guide,
"Working with object metadata"):

    names       `_` becomes `-` (Ceph)
    values      blanks around them are removed; bytes outside printable ASCII come back as RFC 2047 encoded words (AWS,
                Swift, and Ceph if they are not UTF-8 or contain control characters), their UTF-8 encoded twice (AWS,
                Swift); long ones as several encoded words with line breaks between them (Swift)
    defaults    an object without Content-Type gets one

For other changes the copy records a digest of the source's headers; see `DestinationCopy`.
"""

from __future__ import annotations

import hashlib
import re
from binascii import Error as InvalidEncoding
from binascii import a2b_base64, a2b_qp
from collections import OrderedDict
from collections.abc import Mapping
from urllib.parse import unquote_to_bytes

from ..errors import AccessDenied, IntegrityError, InvalidKey, NoSuchBucket, NoSuchKey, StoreError, StoreUnavailable
from ..s3 import RECORDED_ETAG, ObjectInfo, any_date_ms

#: Largest sum of the names and values of an object's user metadata on AWS (S3 user guide, "Working with object
#: metadata"), and most items in Swift (`max_meta_count` of swift.conf).
MAX_METADATA_BYTES = 2048
MAX_METADATA_ITEMS = 90

#: Copies without records that a process remembers.
MAX_REMEMBERED = 10_000

_USER_METADATA = "x-amz-meta-"
_DEFAULT_CONTENT_TYPES = frozenset(("binary/octet-stream", "application/octet-stream"))

#: Bytes that every store returns as they are.
_PRINTABLE = re.compile(rb"[\x20-\x7e]*").fullmatch


def headers_digest(headers: Mapping[str, str]) -> str:
    """Return a digest of an object's headers (32 hex digits)."""
    text = "\0".join(f"{name}\0{headers[name]}" for name in sorted(headers))
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:32]


def has_same_headers(source: ObjectInfo, copy: ObjectInfo) -> bool:
    """Return whether a copy has the headers of the source, or what its store made of them."""
    if source.headers == copy.headers:
        return True
    if copy.recorded_headers and copy.recorded_headers == headers_digest(source.headers):
        return True
    wanted = {name: value for name, value in source.headers.items() if value}  # an empty value counts as absent
    found = {name: value for name, value in copy.headers.items() if value}
    for name, value in wanted.items():
        returned = found.pop(name, None)
        if returned is None:
            returned = found.pop(name.replace("_", "-"), None)
        if value != returned and not _may_return(name, value, returned or ""):
            return False
    if "content-type" not in wanted and found.get("content-type") in _DEFAULT_CONTENT_TYPES:
        del found["content-type"]
    return not found


def has_room_for_record(source: ObjectInfo) -> bool:
    """Return whether a record of the source's ETag fits into a copy's user metadata on AWS and Swift."""
    metadata = {name: value for name, value in source.headers.items() if name.startswith(_USER_METADATA)}
    metadata[RECORDED_ETAG] = source.etag
    size_bytes = sum(len(f"{name}{value}".encode("utf-8", "surrogateescape")) for name, value in metadata.items())
    size_bytes -= len(metadata) * len(_USER_METADATA)
    return len(metadata) <= MAX_METADATA_ITEMS and size_bytes <= MAX_METADATA_BYTES


def may_concern_metadata(error: StoreError) -> bool:
    """Return whether a store may have refused a write because of its metadata.

    Such refusals are a 400 of S3 (AWS: MetadataTooLarge; Swift: InvalidRequest), a plain 400, 413 or 431 of an HTTP
    server with a limit on headers, and `500 UnknownError` (Ceph 16 with `rgw_max_attrs_num_in_req`).
    """
    if error.status == 500:
        return error.code == "UnknownError"
    if isinstance(error, AccessDenied | NoSuchBucket | NoSuchKey | InvalidKey | IntegrityError):
        return False
    if error.code in ("EntityTooLarge", "InvalidDigest") or (error.code and isinstance(error, StoreUnavailable)):
        return False
    return error.status in (400, 413, 431)


class RefusedRecords:
    """The copies that this process had to write without a record, the latest MAX_REMEMBERED.

    Such a copy is compared by content. A difference of its headers that was the same before and after the copy is not
    copied again.

    Attributes:
        without_redirects: names of the destinations that do not support WEBSITE_REDIRECT.
    """

    def __init__(self) -> None:
        self.without_redirects: set[str] = set()
        self._headers: OrderedDict[tuple[str, str], tuple[str, str]] = OrderedDict()

    def add(self, destination: str, source: ObjectInfo, replaced: ObjectInfo | None) -> None:
        """Remember a copy; `replaced`: what the destination had before, if its headers were the reason."""
        if replaced is None and self.has(destination, source):
            return
        found = "" if replaced is None else headers_digest(replaced.headers)
        self._headers.pop((destination, source.key), None)
        self._headers[destination, source.key] = headers_digest(source.headers), found
        if len(self._headers) > MAX_REMEMBERED:
            self._headers.popitem(last=False)

    def has(self, destination: str, source: ObjectInfo) -> bool:
        """Return whether an object with these headers was copied without a record."""
        known = self._headers.get((destination, source.key))
        return known is not None and known[0] == headers_digest(source.headers)

    def is_unchanged(self, destination: str, source: ObjectInfo, copy: ObjectInfo) -> bool:
        """Return whether the copy's headers are as they were before an object with these headers was copied."""
        known = self._headers.get((destination, source.key))
        return known is not None and known == (headers_digest(source.headers), headers_digest(copy.headers))


def _may_return(name: str, value: str, returned: str) -> bool:
    """Return whether a store may return `returned` for a header that was written as `value`."""
    value, returned = value.strip(), returned.strip()
    if value == returned:
        return True
    if name == "content-encoding":
        return [coding.strip() for coding in value.split(",")] == [coding.strip() for coding in returned.split(",")]
    if name == "expires":
        time_ms = any_date_ms(value)
        return time_ms is not None and time_ms == any_date_ms(returned)
    wanted, found = value.encode("utf-8", "surrogateescape"), returned.encode("utf-8", "surrogateescape")
    if _PRINTABLE(wanted):
        decoded = _decode_words(wanted)
        return decoded is not None and decoded == _decode_words(found)
    forms = (found, _decode_words(found), unquote_to_bytes(found))
    return wanted in forms or wanted.decode("latin-1").encode() in forms


def _decode_words(value: bytes) -> bytes | None:
    """Return the text of RFC 2047 encoded words in UTF-8; None if the value has another form."""
    decoded = b""
    for word in value.split():
        parts = word.split(b"?")
        if len(parts) != 5 or parts[0] != b"=" or parts[4] != b"=" or parts[1].lower() != b"utf-8":
            return None
        encoding, text = parts[2].lower(), parts[3]
        try:
            if encoding == b"b":
                decoded += a2b_base64(text)
            elif encoding == b"q":
                decoded += a2b_qp(text, header=True)
            else:
                return None
        except InvalidEncoding:
            return None
    return decoded
