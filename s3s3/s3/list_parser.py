"""Parse ListObjects responses (S3 API reference, "ListObjectsV2" and "ListObjects").

Keys are requested percent-encoded (encoding-type=url), because XML cannot represent most control characters. In that
encoding a space is `+` on AWS and rclone, `%20` on Ceph and Swift; a plus is `%2B` on all of them. Ceph encodes only
the keys: its StartAfter and NextContinuationToken contain raw control characters, which is not XML.

A page in the form of AWS, Ceph and Swift is read by one regular expression, which takes a third of the CPU time of an
XML parser (xml.etree, lxml and pyexpat were measured); any other page by the parser.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from ..errors import StoreRefused
from ..model import Entry
from .timestamps import iso_time_ms
from .xml import parse, unescape

#: How much is read of one page.
PAGE_LIMIT_BYTES = 32 * 1024 * 1024

_ENTRY = re.compile(
    r"<Contents><Key>([^<]*)</Key><LastModified>([^<]*)</LastModified><ETag>([^<]*)</ETag>"
    r"(?:<Checksum\w+>[^<]*</Checksum\w+>)*<Size>([0-9]+)</Size>"
)
_HEADER = re.compile(r"<(IsTruncated|EncodingType|KeyCount|NextContinuationToken|NextMarker)>([^<]*)</")
_NOT_IN_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")

#: Key, LastModified, ETag and Size of each entry.
_Fields = list[tuple[str, str, str, str]]
#: The elements of the page that are not entries.
_Header = dict[str, str]


@dataclass(frozen=True, slots=True)
class ListPage:
    """One page of a listing.

    Attributes:
        entries: with the keys that `rename` returned.
        first_key, last_key: at the endpoint; "" if the page is empty.
        is_truncated: there are more pages.
        is_v2: the store supports list-type=2.
        token: the store's token for the next page; "" if there is none.
    """

    entries: list[Entry]
    first_key: str
    last_key: str
    is_truncated: bool
    is_v2: bool
    token: str


def parse_page(body: bytes, rename: Callable[[str], str] | None = None) -> ListPage:
    """Parse a page. Raises StoreRefused if it is not a listing."""
    try:
        text = body.decode("utf-8")
        fields, header = _match(text.replace("&quot;", '"')) or _parse(text)
        keys = [field[0] for field in fields]
        if header.get("EncodingType", "").lower() == "url":
            keys = [_decode(key) if "%" in key or "+" in key else key for key in keys]
        names = keys if rename is None else [rename(key) for key in keys]
        entries = [
            Entry(name, int(size), etag.strip('"'), iso_time_ms(modified))
            for name, (_, modified, etag, size) in zip(names, fields)  # noqa: B905  # equal lengths; the check is slow
        ]
    except ValueError as error:
        raise StoreRefused(f"the response is not a listing: {error}") from error
    return ListPage(
        entries,
        keys[0] if keys else "",
        keys[-1] if keys else "",
        is_truncated=header["IsTruncated"] == "true",
        is_v2="KeyCount" in header,
        token=header.get("NextContinuationToken") or header.get("NextMarker") or "",
    )


def _decode(key: str) -> str:
    key = key.replace("+", " ").replace("%2F", "/")  # Ceph encodes every slash
    return unquote_to_bytes(key).decode("utf-8") if "%" in key else key


def _match(text: str) -> tuple[_Fields, _Header] | None:
    """Read a page by the regular expression; None if any part of it has another form."""
    fields: _Fields = _ENTRY.findall(text)
    if len(fields) != text.count("<Contents") or "<ListBucketResult" not in text or "<!" in text:
        return None
    end = text.rfind("</Contents>")
    header = dict(_HEADER.findall(text[: text.find("<Contents>")]) + _HEADER.findall(text[end:]))
    if "IsTruncated" not in header:
        return None
    if "&" in text:
        fields = [(unescape(key), modified, unescape(etag), size) for key, modified, etag, size in fields]
        header = {name: unescape(value) for name, value in header.items()}
    return fields, header


def _parse(text: str) -> tuple[_Fields, _Header]:
    """Read a page with the XML parser. Raises StoreRefused and ValueError."""
    if "<EncodingType>" in text:  # keys are encoded, so these characters are only in tokens, which are not needed then
        text = _NOT_IN_XML.sub("?", text)
    root = parse(text.encode(), PAGE_LIMIT_BYTES)
    if root.tag != "ListBucketResult":
        raise ValueError(f"it is a {root.tag[:60]!r}")
    header = {child.tag: (child.text or "").strip() for child in root if not len(child)}
    if "IsTruncated" not in header:
        raise ValueError("it has no IsTruncated")
    fields: _Fields = []
    for entry in root.iterfind("Contents"):
        key, modified, size = (entry.findtext(name) for name in ("Key", "LastModified", "Size"))
        if key is None or modified is None or size is None:
            raise ValueError("an entry has no Key, LastModified or Size")
        fields.append((key, modified.strip(), (entry.findtext("ETag") or "").strip(), size))
    return fields, header
