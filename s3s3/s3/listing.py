"""Page through a bucket listing in key order (S3 API reference, "ListObjectsV2" and "ListObjects").

Keys are requested percent-encoded (encoding-type=url), because XML cannot represent most control characters. In that
encoding a space is `+` on AWS and rclone, `%20` on Ceph and Swift; a plus is `%2B` on all of them. Ceph encodes only
the keys: its StartAfter and NextContinuationToken contain raw control characters, which is not XML.

A page in the form of AWS, Ceph and Swift is read by one regular expression, which takes a third of the CPU time of an
XML parser (xml.etree, lxml and pyexpat were measured); any other page by the parser.
"""

from __future__ import annotations

import asyncio
import operator
import re
from bisect import bisect_right
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import Literal
from urllib.parse import unquote_to_bytes

from ..errors import ListingOutOfOrder, StoreRefused, UnexpectedResponse
from ..model import Endpoint, Entry
from .dates import listed_date_ms
from .error_mapping import not_from_store
from .objects import plain_etag
from .request import KeyMapper, Priority, Request, S3Requester, internal_error
from .xml import parse, unescape

Page = list[Entry]

#: The maximum number of keys of one page (S3 API reference, "ListObjectsV2").
PAGE_KEYS = 1000

#: The largest page. One of 1000 keys of 1024 bytes, each as an XML reference of 6 characters, has 7 MiB.
PAGE_LIMIT_BYTES = 8 * 1024 * 1024

#: The most tags of a page; an entry of AWS has up to 26. The XML parser needs 0.3 s for this many.
PAGE_LIMIT_TAGS = 64 * PAGE_KEYS

#: Smaller pages are parsed in the event loop; the usual one of 1000 keys has 350 KiB and 18,000 tags, and takes 5 ms.
INLINE_BYTES = 1024 * 1024
INLINE_TAGS = PAGE_LIMIT_TAGS // 2

#: Longer keys than S3 allows (1024 bytes) fail alone, when they are copied; above this, the listing is refused.
MAX_LISTED_KEY_CHARACTERS = 8192

_ENTRY = re.compile(
    r"<Contents><Key>([^<]*)</Key><LastModified>([^<]*)</LastModified><ETag>([^<]*)</ETag>"
    r"(?:<Checksum\w+>[^<]*</Checksum\w+>)*<Size>([0-9]{1,18})</Size>"
)
_HEADER = re.compile(r"<(IsTruncated|EncodingType|KeyCount|NextContinuationToken|NextMarker)>([^<]*)</")
_SIZE = re.compile(r"[0-9]{1,18}").fullmatch
_NOT_IN_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")

#: Key, LastModified, ETag and Size of each entry.
_Fields = list[tuple[str, str, str, str]]
#: The elements of the page that are not entries.
_Header = dict[str, str]

_key_of = operator.attrgetter("key")


class BucketLister:
    """Pages through one listing.

    A page is requested by the last key of the page before (start-after, or marker in version 1) instead of the
    store's continuation token, in which Ceph writes raw control characters. If the store does not support
    list-type=2 or start-after, the remaining pages are requested by version 1.
    """

    def __init__(
        self, requester: S3Requester, endpoint: Endpoint, mapper: KeyMapper, version: Literal[1, 2] = 2
    ) -> None:
        self._requester = requester
        self._endpoint = endpoint
        self._rename = None if mapper.is_identity else mapper.source_key
        self._version = version

    async def pages(self, start_after: str, until: str | None = None) -> AsyncGenerator[Page, None]:
        """Yield the pages after an endpoint key, up to `until`, a key of the source; the next one is fetched ahead."""
        token, last_key = "", start_after if self._rename is None or not start_after else self._rename(start_after)
        fetching: asyncio.Task[ListPage] | None = asyncio.create_task(self.fetch_page(start_after, token))
        try:
            while fetching is not None:
                listed = await fetching
                fetching = None
                page = self._in_order(listed.entries, last_key)
                ends_here = until is not None and bool(page) and page[-1].key >= until
                if until is not None and ends_here:
                    page = page[: bisect_right(page, until, key=_key_of)]
                if listed.is_truncated and not ends_here:
                    start_after, token = self._next(listed, start_after, token)
                    fetching = asyncio.create_task(self.fetch_page(start_after, token))
                if page:
                    last_key = page[-1].key
                    yield page
        finally:
            if fetching is not None:
                fetching.cancel()
                await asyncio.gather(fetching, return_exceptions=True)

    async def list_after(self, start_after: str, max_keys: int) -> Page:
        """Return up to `max_keys` entries after an endpoint key, in one page; an empty one at the end."""
        token, last_key = "", start_after if self._rename is None or not start_after else self._rename(start_after)
        while True:
            listed = await self.fetch_page(start_after, token, max_keys)
            if (page := self._in_order(listed.entries, last_key)) or not listed.is_truncated:
                return page
            start_after, token = self._next(listed, start_after, token)

    async def fetch_page(self, start_after: str = "", token: str = "", max_keys: int = PAGE_KEYS) -> ListPage:
        """Return one page, by version 1 if the store does not support version 2."""
        if self._version == 2:
            try:
                listed = await self._request_page(2, start_after, token, max_keys)
            except StoreRefused as error:
                if error.status not in (400, 501):
                    raise
            else:
                advances = listed.first_key >= start_after and (
                    listed.last_key > start_after or not listed.is_truncated
                )
                if not listed.entries or (listed.is_v2 and advances):
                    return listed
                if not start_after:  # a response of version 1, and it is the first page
                    self._version = 1
                    return listed
            self._version = 1
        return await self._request_page(1, start_after, token, max_keys)

    async def _request_page(self, version: int, start_after: str, token: str, max_keys: int) -> ListPage:
        query: list[tuple[str, str | None]] = [("encoding-type", "url"), ("max-keys", str(max_keys))]
        if version == 2:
            query.append(("list-type", "2"))
        if self._endpoint.prefix:
            query.append(("prefix", self._endpoint.prefix))
        if token:
            query.append(("continuation-token" if version == 2 else "marker", token))
        elif start_after:
            query.append(("start-after" if version == 2 else "marker", start_after))
        request = Request("LIST", None, "", query)
        response = await self._requester.call(request, priority=Priority.URGENT, limit_bytes=PAGE_LIMIT_BYTES)
        try:
            listed = await _parse(response.content, self._rename)
        except Exception as error:
            if not isinstance(error, UnexpectedResponse):
                raise internal_error(error, self._endpoint.name, "LIST", None) from error
            raise not_from_store(self._requester.signing_endpoint, "LIST", None, error.message) from error
        prefix = self._endpoint.prefix
        if not (listed.first_key.startswith(prefix) and listed.last_key.startswith(prefix)) and listed.entries:
            raise self._refused(f"the listing has keys outside of the requested prefix {prefix!r}")
        return listed

    def _next(self, listed: ListPage, start_after: str, token: str) -> tuple[str, str]:
        """Return where the next page starts. A truncated page may be empty (Ceph, among many deleted keys)."""
        if listed.last_key > start_after:
            return listed.last_key, ""
        if listed.entries or not listed.token or listed.token == token:
            raise self._refused(f"the page after {start_after!r} is truncated, but does not advance")
        return start_after, listed.token

    def _in_order(self, page: Page, last_key: str) -> Page:
        """Return the page, without its first entry if that was the last of the page before.

        Raises ListingOutOfOrder. Python compares strings by code point, which is the order of their UTF-8 bytes.
        """
        if page and page[0].key == last_key:
            page = page[1:]
        keys = [last_key, *[entry.key for entry in page]]
        if not all(map(operator.lt, keys, islice(keys, 1, None))):
            before, after = next(pair for pair in pairwise(keys) if pair[0] >= pair[1])
            raise ListingOutOfOrder(
                f"{after!r} comes after {before!r}",
                store=self._endpoint.name,
                operation="LIST",
                advice="s3s3 compares listings in UTF-8 byte order, the order of S3",
            )
        return page

    def _refused(self, message: str, advice: str = "") -> UnexpectedResponse:
        return UnexpectedResponse(message, store=self._endpoint.name, operation="LIST", advice=advice)


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


async def _parse(body: bytes, rename: Callable[[str], str] | None) -> ListPage:
    """Do what `parse_page` does; a page that takes long is parsed in a thread, and does not block the event loop."""
    if len(body) > INLINE_BYTES or body.count(b"<") > INLINE_TAGS:
        return await asyncio.to_thread(parse_page, body, rename)
    return parse_page(body, rename)


def parse_page(body: bytes, rename: Callable[[str], str] | None = None) -> ListPage:
    """Parse a page. Raises UnexpectedResponse if it is not a whole listing."""
    try:
        if len(body) > PAGE_LIMIT_BYTES or body.count(b"<") > PAGE_LIMIT_TAGS:
            raise ValueError(f"it has more than {PAGE_LIMIT_BYTES} bytes or {PAGE_LIMIT_TAGS} tags")  # noqa: TRY301
        text = body.decode("utf-8")
        fields, header = _match(text.replace("&quot;", '"')) or _parse_xml(text)
        keys = [field[0] for field in fields]
        if header.get("EncodingType", "").lower() == "url":
            keys = [_decode(key) if "%" in key or "+" in key else key for key in keys]
        if keys and max(map(len, keys)) > MAX_LISTED_KEY_CHARACTERS:
            raise ValueError(f"it has a key of more than {MAX_LISTED_KEY_CHARACTERS} characters")  # noqa: TRY301
        if ">W/" in text:  # weak ETags, which prove nothing about bytes (RFC 9110, 8.8.1)
            fields = [(key, at, "" if etag.startswith("W/") else etag, size) for key, at, etag, size in fields]
        is_truncated = _boolean(header["IsTruncated"], "IsTruncated")
        etags = [etag.strip('" \r\n\t') for _, _, etag, _ in fields]
        names = keys if rename is None else [rename(key) for key in keys]
        entries = [
            Entry(name, int(size), etag if etag.islower() else plain_etag(etag), listed_date_ms(modified))
            for name, etag, (_, modified, _, size) in zip(names, etags, fields)  # noqa: B905  # equal lengths; slow
        ]
    except ValueError as error:
        raise UnexpectedResponse(f"the response is not a listing: {error}") from error
    return ListPage(
        entries,
        keys[0] if keys else "",
        keys[-1] if keys else "",
        is_truncated=is_truncated,
        is_v2="KeyCount" in header,
        token=header.get("NextContinuationToken") or header.get("NextMarker") or "",
    )


def _boolean(text: str, name: str) -> bool:
    """Parse a boolean (XML Schema, 3.2.2). Raises ValueError: an unknown value must not end a listing early."""
    value = {"true": True, "1": True, "false": False, "0": False}.get(text.strip().lower())
    if value is None:
        raise ValueError(f"its {name} is {text[:40]!r}")
    return value


def _decode(key: str) -> str:
    key = key.replace("+", " ").replace("%2F", "/")  # Ceph encodes every slash
    return unquote_to_bytes(key).decode("utf-8") if "%" in key else key


def _match(text: str) -> tuple[_Fields, _Header] | None:
    """Read a page by the regular expression; None if any part of it has another form."""
    fields: _Fields = _ENTRY.findall(text)
    if len(fields) != text.count("<Contents") or "<ListBucketResult" not in text or "<!" in text:
        return None
    if not text.rstrip().endswith("</ListBucketResult>"):  # it may have been cut off between two entries
        return None
    end = text.rfind("</Contents>")
    header = dict(_HEADER.findall(text[: text.find("<Contents>")]) + _HEADER.findall(text[end:]))
    if "IsTruncated" not in header:
        return None
    if "&" in text:
        fields = [(unescape(key), modified, unescape(etag), size) for key, modified, etag, size in fields]
        header = {name: unescape(value) for name, value in header.items()}
    return fields, header


def _parse_xml(text: str) -> tuple[_Fields, _Header]:
    """Read a page with the XML parser. Raises UnexpectedResponse and ValueError."""
    if "<EncodingType>" in text:  # keys are encoded, so these characters are only in tokens, which are not needed then
        text = _NOT_IN_XML.sub("?", text)
    root = parse(text)
    if root.tag != "ListBucketResult":
        raise ValueError(f"it is a {root.tag[:60]!r}")
    header = {child.tag: (child.text or "").strip() for child in root if not len(child)}
    if "IsTruncated" not in header:
        raise ValueError("it has no IsTruncated")
    fields: _Fields = []
    for entry in root.iterfind("Contents"):
        key, modified, size = (entry.findtext(name) for name in ("Key", "LastModified", "Size"))
        if key is None or size is None:
            raise ValueError("an entry has no Key or Size")
        size = size.strip()
        if not _SIZE(size):
            raise ValueError(f"an entry has the size {size[:40]!r}")
        fields.append((key, (modified or "").strip(), (entry.findtext("ETag") or "").strip(), size))
    return fields, header
