"""Everything that an endpoint holds under its prefix, page by page, in order, or not at all."""

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
from .list_parser import ListPage, parse_page
from .request import S3Requester, with_retries
from .transport.errors import TransportError

Page = list[Entry]

PAGE_KEYS = 1000
"""The most that a store lists in one page (S3 API reference, "ListObjectsV2")."""

_key_of = operator.attrgetter("key")
_PAGE_LIMIT_BYTES = 32 * 1024 * 1024


class BucketLister:
    """Goes through one listing.

    A page is asked for by the last key of the one before (start-after, or marker for version 1), not by the store's
    continuation token: Ceph writes raw control characters into that. A store that knows no list-type=2, or no
    start-after, is asked by version 1 from then on.
    """

    def __init__(self, exchange: S3Requester, endpoint: Endpoint, names: KeyMapper, version: Literal[1, 2]) -> None:
        self._exchange = exchange
        self._endpoint = endpoint
        self._rename = None if names.same else names.source
        self._version = version

    async def pages(self, start_after: str, until: str | None = None) -> AsyncGenerator[Page, None]:
        """Yield the pages after a held key; the next one is fetched while one is looked at.

        `until`: the last name that is wanted, as `rename` gives it; None: all of them.
        """
        token, last_name = "", ""
        if start_after:
            last_name = start_after if self._rename is None else self._rename(start_after)
        fetching: asyncio.Task[ListPage] | None = asyncio.create_task(self._fetch(start_after, token))
        try:
            while fetching is not None:
                listed = await fetching
                fetching = None
                page = self._checked(listed.entries, last_name)
                ends_here = until is not None and bool(page) and page[-1].key >= until
                if until is not None and ends_here:
                    page = page[: bisect_right(page, until, key=_key_of)]
                if listed.is_truncated and not ends_here:
                    start_after, token = self._next(listed, start_after, token)
                    fetching = asyncio.create_task(self._fetch(start_after, token))
                if page:
                    last_name = page[-1].key
                    yield page
        finally:
            if fetching is not None:
                fetching.cancel()
                await asyncio.gather(fetching, return_exceptions=True)

    async def some(self, after: str, most: int) -> Page:
        """Return up to `most` entries after a held key, in one page; none where nothing comes after it."""
        token, last_name = "", after if self._rename is None or not after else self._rename(after)
        while True:
            listed = await self._fetch(after, token, most)
            if (page := self._checked(listed.entries, last_name)) or not listed.is_truncated:
                return page
            after, token = self._next(listed, after, token)

    async def _fetch(self, after: str, token: str, most: int = PAGE_KEYS) -> ListPage:
        """Fetch one page, by version 1 where version 2 is not understood."""
        if self._version == 2:
            try:
                listed = await with_retries(lambda: self._ask(2, after, token, most))
            except StoreRefused as error:
                if error.status not in (400, 501):
                    raise
            else:
                goes_on = listed.first_key >= after and (listed.last_key > after or not listed.is_truncated)
                if not listed.entries or (listed.is_v2 and goes_on):
                    return listed
                if not after:  # an answer of version 1, from the beginning, as it was meant
                    self._version = 1
                    return listed
            self._version = 1
        return await with_retries(lambda: self._ask(1, after, token, most))

    async def _ask(self, version: int, after: str, token: str, most: int) -> ListPage:
        query: list[tuple[str, str | None]] = [("encoding-type", "url"), ("max-keys", str(most))]
        if version == 2:
            query.append(("list-type", "2"))
        if self._endpoint.prefix:
            query.append(("prefix", self._endpoint.prefix))
        if token:
            query.append(("continuation-token" if version == 2 else "marker", token))
        elif after:
            query.append(("start-after" if version == 2 else "marker", after))
        answer = await self._exchange.ask("LIST", None, "", query=query)
        try:
            raw = await answer.beginning(_PAGE_LIMIT_BYTES)
        except TransportError as error:
            raise self._exchange.failure("LIST", None, error) from error
        try:
            listed = parse_page(raw, self._rename)
        except ValueError as error:
            advice = f"check host and port in {self._endpoint.table}"
            raise self._refused(f"not to be understood: {error}", advice) from error
        prefix = self._endpoint.prefix
        if not (listed.first_key.startswith(prefix) and listed.last_key.startswith(prefix)) and listed.entries:
            raise self._refused(f"the listing leaves the prefix {prefix!r} that was asked for")
        return listed

    def _next(self, listed: ListPage, after: str, token: str) -> tuple[str, str]:
        """Return where the next page begins. A truncated page may be empty (Ceph, among many deleted keys)."""
        if listed.last_key > after:
            return listed.last_key, ""
        if listed.entries or not listed.token or listed.token == token:
            raise self._refused(f"the page after {after!r} does not go on, and says that there is more")
        return after, listed.token

    def _checked(self, page: Page, last_name: str) -> Page:
        """Return the page without its first entry where that ended the page before. Raises ListingOutOfOrder.

        Python compares strings by code point, which is the order of their UTF-8 bytes.
        """
        if page and page[0].key == last_name:
            page = page[1:]
        names = [last_name, *[entry.key for entry in page]]
        if not all(map(operator.lt, names, islice(names, 1, None))):
            before, after = next(pair for pair in pairwise(names) if pair[0] >= pair[1])
            raise ListingOutOfOrder(
                f"{after!r} comes after {before!r}",
                store=self._endpoint.name,
                operation="LIST",
                advice="s3s3 compares listings in UTF-8 byte order, as S3 gives them",
            )
        return page

    def _refused(self, message: str, advice: str = "") -> StoreRefused:
        return StoreRefused(message, store=self._endpoint.name, operation="LIST", advice=advice)
