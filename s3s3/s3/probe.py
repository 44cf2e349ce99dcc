"""Probe a store by listing and reading, for `s3s3 check`."""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Sequence
from typing import Literal

from ..errors import NoSuchBucket, NoSuchKey, StoreError, StoreUnavailable
from ..model import Endpoint, Entry, md5_of_etag
from .address import Address
from .capabilities import StoreCapabilities
from .client import Store
from .keys import KeyMapper
from .list_parser import ListPage
from .listing import BucketLister
from .probe_writes import probe_key, probe_writes
from .request import S3Requester
from .transport.pool import Timeouts

__all__ = ["StoreCapabilities", "probe"]

_TIMEOUTS = Timeouts(connect_s=5, read_s=15, write_s=15)
_SMALL_BYTES = 1024 * 1024


async def probe(endpoint: Endpoint, *, writes: bool) -> StoreCapabilities:
    """Probe a store; errors of StoreError's tree become problems.

    Args:
        writes: also write a few small objects under a unique name, and delete them.
    """
    capabilities = StoreCapabilities(endpoint.name, str(Address.of(endpoint)), endpoint.bucket_name)
    try:
        entries, error = await _probe_listing(endpoint, capabilities)
        if _may_concern_listing_only(error):
            if writes:
                await probe_writes(endpoint, capabilities, _TIMEOUTS)
            else:
                await _probe_read(endpoint, capabilities, entries)
    except StoreUnavailable as error:
        capabilities.errors.append(str(error))
    capabilities.add_conclusions()
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
    _, other_error, _ = await _list(dataclasses.replace(endpoint, signature_version=other))
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
    requester = S3Requester(endpoint, connections=1, timeouts=_TIMEOUTS)
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
    async with Store(endpoint, source_prefix=endpoint.prefix, timeouts=_TIMEOUTS) as store:
        try:
            stream, content = await store.fetch(key or endpoint.prefix + probe_key(), _SMALL_BYTES)
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
