"""A LIST page taken apart (S3 API reference, "ListObjectsV2" and "ListObjects").

Keys are asked for percent-encoded (encoding-type=url), since XML has no way to write most control characters. In that
encoding a space is `+` on AWS and rclone, `%20` on Ceph and Swift; a plus is `%2B` on all of them. Ceph encodes the
keys alone: its StartAfter and NextContinuationToken hold raw control characters, which is no XML.

A page is read with one regular expression where it looks as AWS, Ceph and Swift write it, which takes a third of the
CPU of an XML parser (xml.etree, lxml and pyexpat were measured), and by the parser where it does not.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes
from xml.etree import ElementTree

from ..model import Entry
from .timestamps import iso_time_ms

_ENTRY = re.compile(
    r"<Contents><Key>([^<]*)</Key><LastModified>([^<]*)</LastModified><ETag>([^<]*)</ETag>"
    r"(?:<Checksum\w+>[^<]*</Checksum\w+>)*<Size>([0-9]+)</Size>"
)
_ABOUT = re.compile(r"<(IsTruncated|EncodingType|KeyCount|NextContinuationToken|NextMarker)>([^<]*)</")
_NOT_IN_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")

_Fields = list[tuple[str, str, str, str]]  # key, LastModified, ETag and Size of each entry
_About = dict[str, str]


@dataclass(frozen=True, slots=True)
class ListPage:
    """One page as the store gave it.

    Attributes:
        entries: under the names that `rename` gave them.
        first_key, last_key: as the endpoint holds them; "" where the page is empty.
        is_truncated: there is more.
        is_v2: the store knows list-type=2.
        token: where the next page begins, in the store's own words; "" where it did not say.
    """

    entries: list[Entry]
    first_key: str
    last_key: str
    is_truncated: bool
    is_v2: bool
    token: str


def parse_page(raw: bytes, rename: Callable[[str], str] | None = None) -> ListPage:
    """Take a page apart. Raises ValueError for what is no listing."""
    text = raw.decode("utf-8")
    try:
        fields, about = _read_plainly(text.replace("&quot;", '"')) or _read_xml(text)
    except ElementTree.ParseError as error:
        raise ValueError(f"the answer is no XML: {error}") from error
    keys = [field[0] for field in fields]
    if about.get("EncodingType", "").lower() == "url":
        keys = [_decoded(key) if "%" in key or "+" in key else key for key in keys]
    names = keys if rename is None else [rename(key) for key in keys]
    entries = [
        Entry(name, int(size), etag.strip('"'), iso_time_ms(modified))
        for name, (_, modified, etag, size) in zip(names, fields)  # noqa: B905  # as many, and the check costs
    ]
    return ListPage(
        entries,
        keys[0] if keys else "",
        keys[-1] if keys else "",
        is_truncated=about["IsTruncated"] == "true",
        is_v2="KeyCount" in about,
        token=about.get("NextContinuationToken") or about.get("NextMarker") or "",
    )


def _decoded(key: str) -> str:
    key = key.replace("+", " ").replace("%2F", "/")  # Ceph writes every slash as %2F
    return unquote_to_bytes(key).decode("utf-8") if "%" in key else key


def _read_plainly(text: str) -> tuple[_Fields, _About] | None:
    """Read a page that looks as expected; None where anything in it does not."""
    fields: _Fields = _ENTRY.findall(text)
    if len(fields) != text.count("<Contents") or "<ListBucketResult" not in text or "<!" in text:
        return None
    end = text.rfind("</Contents>")
    about = dict(_ABOUT.findall(text[: text.find("<Contents>")]) + _ABOUT.findall(text[end:]))
    if "IsTruncated" not in about:
        return None
    if "&" in text:
        fields = [(_unescaped(key), when, _unescaped(etag), size) for key, when, etag, size in fields]
        about = {name: _unescaped(value) for name, value in about.items()}
    return fields, about


def _unescaped(text: str) -> str:
    return ElementTree.fromstring(f"<t>{text}</t>").text or "" if "&" in text else text


def _read_xml(text: str) -> tuple[_Fields, _About]:
    """Read a page with the XML parser. Raises ValueError and ParseError."""
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise ValueError("a listing that declares entities is not read")
    if "<EncodingType>" in text:  # then no key needs what XML cannot write, whatever Ceph writes beside them
        text = _NOT_IN_XML.sub("?", text)
    if "\0" in text:  # UTF-16, in which the parser would find the declarations that were not found above
        raise ValueError("a listing that holds NULs is not read")
    root = ElementTree.fromstring(text.encode())
    space = root.tag[: -len("ListBucketResult")]
    if root.tag != f"{space}ListBucketResult":
        raise ValueError(f"the answer is a {root.tag[:60]!r}, no listing")
    about = {child.tag[len(space) :]: (child.text or "").strip() for child in root if not len(child)}
    if "IsTruncated" not in about:
        raise ValueError("a listing without IsTruncated")
    fields: _Fields = []
    for entry in root.iterfind(f"{space}Contents"):
        key, when, size = (entry.findtext(space + name) for name in ("Key", "LastModified", "Size"))
        if key is None or when is None or size is None:
            raise ValueError("a listing with an entry without Key, LastModified or Size")
        fields.append((key, when.strip(), (entry.findtext(f"{space}ETag") or "").strip(), size))
    return fields, about
