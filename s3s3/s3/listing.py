"""Page through a bucket listing in key order."""

from __future__ import annotations

import asyncio
import operator
from bisect import bisect_right
from collections.abc import AsyncGenerator
from itertools import islice, pairwise
from typing import Literal

from ..errors import ListingOutOfOrder, StoreRefused
from ..model import Endpoint, Entry
from .keys import KeyMapper
from .list_parser import PAGE_LIMIT_BYTES, ListPage, parse_page
from .request import Priority, Request, S3Requester

Page = list[Entry]

#: The maximum number of keys of one page (S3 API reference, "ListObjectsV2").
PAGE_KEYS = 1000

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
        """Yield the pages after an endpoint key; the next page is fetched ahead.

        `until` is the last key wanted, as a key of the source; None: all.
        """
        token, last_key = "", ""
        if start_after:
            last_key = start_after if self._rename is None else self._rename(start_after)
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
            listed = parse_page(response.content, self._rename)
        except StoreRefused as error:
            raise self._refused(error.message, f"check host and port in {self._endpoint.table}") from error
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

    def _refused(self, message: str, advice: str = "") -> StoreRefused:
        return StoreRefused(message, store=self._endpoint.name, operation="LIST", advice=advice)
