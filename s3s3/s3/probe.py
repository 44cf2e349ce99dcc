"""Probe a store by listing, reading and writing, for `s3s3 check`."""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from ..errors import IntegrityError, ListingOutOfOrder, NoSuchBucket, NoSuchKey, StoreError, StoreUnavailable
from ..model import Endpoint, Entry, md5_of_etag
from .address import Address
from .client import Store
from .listing import BucketLister, ListPage
from .request import KeyMapper, S3Requester
from .transport.limits import Timeouts

KEY_PREFIX = "s3s3-check-"
#: A third of what S3 allows: it returns RequestTimeTooSkewed from 15 minutes (S3 API reference, "Error responses").
MAX_CLOCK_SKEW_S = 300
_TIMEOUTS = Timeouts(connect_s=5, read_s=15, list_s=120, write_s=15)
_SMALL_BYTES = 1024 * 1024
_CONTENT = b"s3s3 check"
_MD5 = hashlib.md5(_CONTENT, usedforsecurity=False).digest()
#: Written with a wrong Content-MD5. The second one exists already and has to stay as it is.
_REFUSED_KEYS = ("wrong Content-MD5", "wrong Content-MD5, overwritten")
#: Above the size from which copies may rely on the store's own check.
_REFUSED_CONTENT = _CONTENT * 30_000
#: In UTF-8 order. In UTF-16 order the last two are swapped; in a locale's order, or without case, the first two.
_KEYS = ("Z", "a", "\uff5e", "\U0001f600")


@dataclass
class StoreCapabilities:
    """What a probe found out about one store. None: not tried, or the result was unclear.

    Attributes:
        errors: what must be fixed, with the setting that fixes it.
        notes: other information.
    """

    name: str
    address: str
    bucket_name: str
    reachable: bool = False
    signature_v2: bool | None = None
    signature_v4: bool | None = None
    content_md5_enforced: bool | None = None
    etag_is_md5: bool | None = None
    list_version: Literal[1, 2] | None = None
    list_in_order: bool | None = None
    clock_skew_s: int | None = None
    may_read: bool | None = None
    may_write: bool | None = None
    errors: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def verifies(self) -> bool | None:
        """Whether copies can be verified by the store itself: it refuses other bytes, and its ETags are MD5s."""
        if self.content_md5_enforced is None or self.etag_is_md5 is None:
            return None
        return self.content_md5_enforced and self.etag_is_md5

    def add_conclusions(self) -> None:
        """Add the problems and notes that follow from the other attributes."""
        name, skew_s = self.name, self.clock_skew_s
        if skew_s is not None and abs(skew_s) > MAX_CLOCK_SKEW_S:
            ahead = "ahead of" if skew_s > 0 else "behind"
            self.errors.append(
                f"{name}: its clock is {abs(skew_s):,} s {ahead} this machine's; stores refuse requests "
                "that are 15 minutes off: correct the wrong clock (NTP)"
            )
        if self.content_md5_enforced is False and self.etag_is_md5 is False:
            self.errors.append(
                f"{name}: it neither enforces Content-MD5 nor returns the MD5 of what it stored, so damage in transit "
                "would not be detected"
            )
        elif self.content_md5_enforced is False:
            self.notes.append(f"{name}: it does not enforce Content-MD5; s3s3 compares the ETag that it returns")
        elif self.etag_is_md5 is False:
            self.notes.append(f"{name}: its ETags are not MD5s; s3s3 records the source's ETag with each copy")


async def probe(endpoint: Endpoint, *, writes: bool) -> StoreCapabilities:
    """Probe a store; errors of StoreError's tree become problems.

    With `writes` it also writes a few small objects under a unique name, and deletes them.
    """
    capabilities = StoreCapabilities(endpoint.name, str(Address.of(endpoint)), endpoint.bucket_name)
    try:
        entries, error = await _probe_listing(endpoint, capabilities)
        if _may_concern_listing_only(error):
            if writes:
                await _probe_writes(endpoint, capabilities)
            else:
                await _probe_read(endpoint, capabilities, entries)
    except StoreUnavailable as error:
        capabilities.errors.append(str(error))
    capabilities.add_conclusions()
    if endpoint.checksum == "store" and capabilities.verifies is False:
        capabilities.errors.append(
            f'{endpoint.name}: checksum = "store" in {endpoint.table}, but it does not verify copies: set "client"'
        )
    return capabilities


async def _probe_listing(
    endpoint: Endpoint, capabilities: StoreCapabilities
) -> tuple[Sequence[Entry], StoreError | None]:
    """List the first page with both signature versions. Return its entries, or the error. Raises StoreUnavailable."""
    own = endpoint.signature_version
    other: Literal["s3", "s3v4"] = "s3v4" if own == "s3" else "s3"
    listed, error, skew_s = await _list(endpoint)
    if isinstance(error, StoreUnavailable):
        raise error
    capabilities.reachable = True
    capabilities.clock_skew_s = round(skew_s)
    _, other_error, _ = await _list(replace(endpoint, signature_version=other))
    accepted = {own: _signature_accepted(error), other: _signature_accepted(other_error)}
    capabilities.signature_v2, capabilities.signature_v4 = accepted["s3"], accepted["s3v4"]
    if error is not None:
        fix = f'; signature_version = "{other}" in {endpoint.table} works' if accepted[other] else ""
        capabilities.errors.append(f"{error}{fix if accepted[own] is False else ''}")
    if listed is None:
        return (), error
    capabilities.list_version = 2 if listed.is_v2 else 1
    keys = [entry.key for entry in listed.entries]
    capabilities.list_in_order = keys == sorted(keys) if len(keys) > 1 else None
    return listed.entries, None


async def _list(endpoint: Endpoint) -> tuple[ListPage | None, StoreError | None, float]:
    """Return the first page or the error, and by how many seconds the store's clock is ahead of the local one."""
    requester = S3Requester(endpoint, connections=1, timeouts=_TIMEOUTS.for_endpoint(endpoint))
    listed, store_error = None, None
    try:
        listed = await BucketLister(requester, endpoint, KeyMapper(endpoint, endpoint.prefix)).fetch_page()
    except StoreError as error:
        store_error = error
    finally:
        await requester.close()
    return listed, store_error, requester.time_ms() / 1000 - time.time()


def _signature_accepted(error: StoreError | None) -> bool | None:
    """Return whether a signature was accepted; None if the error does not show it."""
    if error is None or isinstance(error, NoSuchBucket):
        return True
    if isinstance(error, StoreUnavailable) or _may_concern_listing_only(error):
        return None
    return False


def _may_concern_listing_only(error: StoreError | None) -> bool:
    """Return whether reading and writing may work in spite of an error of the listing."""
    return error is None or error.code == "AccessDenied"


async def _probe_read(endpoint: Endpoint, capabilities: StoreCapabilities, entries: Sequence[Entry]) -> None:
    """Read a small listed object, or a missing one if there is none. Raises StoreUnavailable."""
    small = [entry for entry in entries if entry.size_bytes <= _SMALL_BYTES]
    key = next((entry.key for entry in small if md5_of_etag(entry.etag)), entries[0].key if entries else None)
    async with Store(endpoint, source_prefix=endpoint.prefix, timeouts=_TIMEOUTS.for_endpoint(endpoint)) as store:
        try:
            stream, content = await store.fetch(key or endpoint.prefix + _probe_key(), _SMALL_BYTES)
            await stream.close()
        except NoSuchKey:
            capabilities.may_read = True  # without permission to read it would be AccessDenied
        except StoreUnavailable:
            raise
        except StoreError as error:
            capabilities.may_read = False
            capabilities.errors.append(str(error))
        else:
            capabilities.may_read = True
            info = stream.info
            if content is not None and md5_of_etag(info.etag):
                md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
                capabilities.etag_is_md5 = not info.encrypted and info.etag == md5


def _probe_key() -> str:
    """Return a key that no object has."""
    return KEY_PREFIX + secrets.token_hex(8)


async def _probe_writes(endpoint: Endpoint, capabilities: StoreCapabilities) -> None:
    """Write a few objects, list and read them, and delete them. Raises StoreUnavailable."""
    unique = replace(endpoint, prefix=f"{endpoint.prefix}{_probe_key()}/")
    async with Store(unique, timeouts=_TIMEOUTS.for_endpoint(endpoint)) as store:
        try:
            for step in (_put, _put_with_wrong_md5, _list_written, _read_written):
                await step(store, capabilities)
                if not capabilities.may_write:
                    return
        finally:
            for key in (*_KEYS, *_REFUSED_KEYS):
                try:
                    await store.delete(key)
                except StoreError as error:
                    if capabilities.may_write is not False:
                        remaining = f"the objects that the check wrote under {unique.prefix!r} remain: {error}"
                        capabilities.notes.append(remaining)
                    break


async def _put(store: Store, capabilities: StoreCapabilities) -> None:
    try:
        for key in _KEYS:
            result = await store.put(key, _CONTENT, size_bytes=len(_CONTENT), md5=_MD5, headers={})
    except StoreUnavailable:
        raise
    except StoreError as error:
        capabilities.may_write = False
        capabilities.errors.append(str(error))
    else:
        capabilities.may_write = True
        capabilities.etag_is_md5 = not result.encrypted and result.etag == _MD5.hex()


async def _put_with_wrong_md5(store: Store, capabilities: StoreCapabilities) -> None:
    """Find out whether a wrong Content-MD5 is refused, with nothing stored and nothing replaced."""

    async def body() -> AsyncIterator[bytes]:  # a stream is not sent again after BadDigest
        yield _REFUSED_CONTENT

    try:
        await store.put(_REFUSED_KEYS[1], _CONTENT, size_bytes=len(_CONTENT), md5=_MD5, headers={})
        for key in _REFUSED_KEYS:
            before = await store.head(key)
            try:
                await store.put(key, body, size_bytes=len(_REFUSED_CONTENT), md5=bytes(16), headers={})
            except IntegrityError:
                after = await store.head(key)
                if (after and (after.size_bytes, after.etag)) == (before and (before.size_bytes, before.etag)):
                    continue
                capabilities.notes.append(
                    f"{capabilities.name}: it reports BadDigest for a wrong Content-MD5, but stores the object"
                )
            capabilities.content_md5_enforced = False
            return
        capabilities.content_md5_enforced = True
    except StoreUnavailable:
        raise
    except StoreError as error:
        capabilities.notes.append(f"a PUT with a wrong Content-MD5 was refused with an unexpected error: {error}")


async def _list_written(store: Store, capabilities: StoreCapabilities) -> None:
    try:
        keys = [entry.key async for page in store.pages() for entry in page]
    except ListingOutOfOrder as error:
        capabilities.list_in_order = False
        capabilities.errors.append(str(error))
    except StoreUnavailable:
        raise
    except StoreError:
        return  # the first listing reported it
    else:
        capabilities.list_in_order = True
        if missing := sorted(set(_KEYS) - set(keys)):
            capabilities.notes.append(
                f"{capabilities.name}: its listing does not contain objects that were just written, {missing}: "
                "`s3s3 bucket` copies such objects more often than necessary"
            )


async def _read_written(store: Store, capabilities: StoreCapabilities) -> None:
    try:
        _, content = await store.fetch(_KEYS[0], len(_CONTENT))
        await store.head(_KEYS[0])
    except StoreUnavailable:
        raise
    except StoreError as error:
        capabilities.may_read = False
        capabilities.errors.append(str(error))
    else:
        capabilities.may_read = True
        if content != _CONTENT:
            capabilities.errors.append(
                f"{capabilities.name}: reading an object returned other bytes than were written: {content!r}"
            )
