"""Let the store copy objects between its own buckets.

The content does not pass through this process, so the only proof is the ETag of the response: it has to equal the
source's. In every other case the object is read and written as usual, within the same job. A store that turns out to
be unable to copy gets no further copy requests.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

from ..errors import NoSuchKey, S3S3Error, StoreUnavailable
from ..model import SINGLE_PUT_LIMIT_BYTES, Endpoint, md5_of_etag
from ..s3 import ObjectInfo, Source
from .decision import MAX_UNCOMPARED_BYTES, NEEDS_CONTENT
from .destination import DestinationCopy, LeaseCheck
from .fanout import gather_or_cancel

log = logging.getLogger(__name__)

#: Refusals, or responses with another ETag, until a store counts as unable: one object may just have been rewritten.
MAX_REFUSALS = 3

#: A copy of more than this that times out may be too large for the store; a smaller one is not.
QUICK_BYTES = 4 * 1024 * 1024


def is_same_store(source: Endpoint, destination: Endpoint) -> bool:
    """Return whether both endpoints are one store, used with the same access key."""
    return _store_of(source) == _store_of(destination)


def _store_of(endpoint: Endpoint) -> tuple[object, ...]:
    host = (endpoint.host or "").lower().rstrip(".")
    port = endpoint.port or (443 if endpoint.is_secure else 80)
    credentials = endpoint.access_key_id, endpoint.secret_access_key, endpoint.session_token
    return host, port, endpoint.is_secure, endpoint.base_path, endpoint.region, *credentials


class ServerSideCopier:
    """Copies from one source to the named destinations in its own store."""

    def __init__(self, source: Source, destinations: Iterable[str]) -> None:
        self._source = source
        # By destination, and by whether the ETag is an MD5: some stores can copy only objects of one kind.
        self._refusals_left = {(name, is_md5): MAX_REFUSALS for name in destinations for is_md5 in (True, False)}
        self._proven: set[tuple[str, bool]] = set()
        self._max_bytes: dict[str, int] = {}

    async def copy(
        self, key: str, copies: Sequence[DestinationCopy], check_lease: LeaseCheck,
        *, compare: bool, compare_large: bool = False,
    ) -> None:  # fmt: skip
        """Copy if the store can; where an outcome is still open, the caller must read and write the object."""
        able = [copy for copy in copies if self._is_able(copy.store.name, True)]
        if not able:
            return
        try:
            source = await self._source.head(key)
        except S3S3Error:
            return  # the GET that follows gets the same error
        if source is None or source.encrypted or not source.etag or source.size_bytes > SINGLE_PUT_LIMIT_BYTES:
            return
        is_md5 = md5_of_etag(source.etag) is not None
        able = [copy for copy in able if self._is_able(copy.store.name, is_md5, source.size_bytes)]
        if compare or (compare_large and source.size_bytes > MAX_UNCOMPARED_BYTES):
            verify_md5 = self._source.endpoint.verify_md5
            await gather_or_cancel(copy.compare(source, verify_md5, is_notified=not compare) for copy in able)
        differing = [copy for copy in able if copy.outcome is None and copy.decision is not NEEDS_CONTENT]
        await gather_or_cancel(self._copy(copy, source, is_md5, check_lease) for copy in differing)

    def _is_able(self, name: str, is_md5: bool, size_bytes: int = 0) -> bool:
        return self._refusals_left.get((name, is_md5), 0) > 0 and size_bytes <= self._max_bytes.get(name, size_bytes)

    async def _copy(self, copy: DestinationCopy, source: ObjectInfo, is_md5: bool, check_lease: LeaseCheck) -> None:
        name, size_bytes = copy.store.name, source.size_bytes
        error = await copy.copy_server_side(source, self._source.endpoint.bucket_name, check_lease)
        outcome = copy.outcome
        if outcome is None:
            if error is None or isinstance(error, NoSuchKey) or (name, is_md5) in self._proven:
                return
            self._refusals_left[name, is_md5] -= MAX_REFUSALS if error.status in (405, 501) else 1
            if not self._is_able(name, is_md5):
                log.info("%s: server-side copy does not work; objects are read and written from now on: %s",
                         name, error)  # fmt: skip
        elif outcome.error is None:
            self._proven.add((name, is_md5))
        elif outcome.indeterminate and isinstance(outcome.error, StoreUnavailable) and size_bytes > QUICK_BYTES:
            log.info("%s: a server-side copy of %d bytes timed out; objects of that size are read and written from "
                     "now on", name, size_bytes)  # fmt: skip
            self._max_bytes[name] = min(size_bytes - 1, self._max_bytes.get(name, size_bytes))
