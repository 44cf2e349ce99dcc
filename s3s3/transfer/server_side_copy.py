"""The road within one store: it copies by itself, and no content comes through here.

It proves less than the ordinary road, so it is taken only where the proof is complete: what the store says that its
copy's ETag is has to be the source's. Whatever else happens the object goes the ordinary road, at once; and all
objects do, from then on, where a store turns out not to be able to do it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

from ..errors import NoSuchKey, S3S3Error, StoreError, StoreUnavailable
from ..model import SINGLE_PUT_LIMIT_BYTES, Endpoint, Outcome, md5_of_etag
from ..s3 import ObjectInfo, Source
from .decision import NEEDS_CONTENT
from .destination import DestinationCopy, LeaseCheck
from .fanout import gather_or_cancel

log = logging.getLogger(__name__)

TRIES = 3
"""So often, at first, a store may refuse or answer with another ETag: the object may just have been rewritten."""

QUICK_BYTES = 4 * 1024 * 1024
"""A copy of more than this that is not answered in time may be too much for the store; not so a smaller one."""


def one_store(source: Endpoint, destination: Endpoint) -> bool:
    """Whether both are in one store, and one access key is used for both."""
    return _store_of(source) == _store_of(destination)


def _store_of(endpoint: Endpoint) -> tuple[object, ...]:
    host = (endpoint.host or "").lower().rstrip(".")
    port = endpoint.port or (443 if endpoint.is_secure else 80)
    keys = endpoint.access_key_id, endpoint.secret_access_key, endpoint.session_token
    return host, port, endpoint.is_secure, endpoint.region, *keys


class ServerSideCopier:
    """Copies from one source to destinations of its own store.

    Args:
        destinations: their names.
    """

    def __init__(self, source: Source, destinations: Iterable[str]) -> None:
        self._source = source
        # By destination, and whether ETags are MD5s: a store may be able to do the one and not the other.
        self._tries_left = {(name, is_md5): TRIES for name in destinations for is_md5 in (True, False)}
        self._able: set[tuple[str, bool]] = set()
        self._longest_bytes: dict[str, int] = {}

    async def copy(self, key: str, targets: Sequence[DestinationCopy], check_lease: LeaseCheck, *, look: bool) -> None:
        """Copy where the store can do it by itself. What is open after that has to go the ordinary road."""
        within = [target for target in targets if self._may(target.store.name, True)]
        if not within:
            return
        try:
            source = await self._source.head(key)
        except S3S3Error:
            return  # the ordinary road asks the same store, and tells
        if source is None or source.encrypted or source.size_bytes > SINGLE_PUT_LIMIT_BYTES:
            return
        is_md5 = md5_of_etag(source.etag) is not None
        within = [target for target in within if self._may(target.store.name, is_md5, source.size_bytes)]
        if look:
            await gather_or_cancel(target.look(source, self._source.endpoint.verify_md5) for target in within)
        copied = [target for target in within if target.outcome is None and target.decision is not NEEDS_CONTENT]
        await gather_or_cancel(self._copy(target, source, is_md5, check_lease) for target in copied)

    def _may(self, name: str, is_md5: bool, size_bytes: int = 0) -> bool:
        return self._tries_left.get((name, is_md5), 0) > 0 and size_bytes <= self._longest_bytes.get(name, size_bytes)

    async def _copy(self, target: DestinationCopy, source: ObjectInfo, is_md5: bool, check_lease: LeaseCheck) -> None:
        name, size_bytes = target.store.name, source.size_bytes
        error = await target.copy_within(source, self._source.endpoint.bucket_name, check_lease)
        if target.outcome is None:
            if error is not None and not isinstance(error, NoSuchKey):
                self._take_down(name, is_md5, error)
        elif target.outcome.error is None:
            self._able.add((name, is_md5))
        elif _in_vain(target.outcome) and size_bytes > QUICK_BYTES:
            log.info("%s: a copy of %d bytes within the store was not answered in time; as large ones are read and "
                     "written from now on", name, size_bytes)  # fmt: skip
            self._longest_bytes[name] = min(size_bytes - 1, self._longest_bytes.get(name, size_bytes))

    def _take_down(self, name: str, is_md5: bool, error: StoreError) -> None:
        """Note that a copy was refused. A store that never made one is not asked for ever."""
        if (name, is_md5) in self._able:
            return
        definite = error.status in (405, 501)
        self._tries_left[name, is_md5] -= TRIES if definite else 1
        if not self._may(name, is_md5):
            log.info("%s: the store makes no copies by itself; they are read and written from now on: %s", name, error)


def _in_vain(outcome: Outcome) -> bool:
    return outcome.indeterminate and isinstance(outcome.error, StoreUnavailable)
