"""Probe a store by writing a few small objects."""

from __future__ import annotations

import dataclasses
import hashlib
import secrets
from collections.abc import AsyncIterator

from ..errors import IntegrityError, ListingOutOfOrder, StoreError, StoreUnavailable
from ..model import Endpoint
from .capabilities import StoreCapabilities
from .client import Store
from .transport.pool import Timeouts

KEY_PREFIX = "s3s3-check-"

_CONTENT = b"s3s3 check"
_MD5 = hashlib.md5(_CONTENT, usedforsecurity=False).digest()
_REFUSED_KEY = "wrong Content-MD5"
#: In UTF-8 order. In UTF-16 order the last two are swapped; in a locale's order, or without case, the first two.
_KEYS = ("Z", "a", "\uff5e", "\U0001f600")


def probe_key() -> str:
    """Return a key that no object has."""
    return KEY_PREFIX + secrets.token_hex(8)


async def probe_writes(endpoint: Endpoint, capabilities: StoreCapabilities, timeouts: Timeouts) -> None:
    """Write a few objects, list and read them, and delete them. Raises StoreUnavailable."""
    unique = dataclasses.replace(endpoint, prefix=f"{endpoint.prefix}{probe_key()}/")
    async with Store(unique, timeouts=timeouts) as store:
        try:
            for step in (_put, _put_with_wrong_md5, _list, _read):
                await step(store, capabilities)
                if not capabilities.may_write:
                    return
        finally:
            await _delete(store, capabilities)


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
    async def body() -> AsyncIterator[bytes]:  # a stream is not sent again after BadDigest
        yield _CONTENT

    try:
        await store.put(_REFUSED_KEY, body, size_bytes=len(_CONTENT), md5=bytes(16), headers={})
    except IntegrityError:
        capabilities.content_md5_enforced = True
    except StoreUnavailable:
        raise
    except StoreError as error:
        capabilities.notes.append(f"a PUT with a wrong Content-MD5 was refused with an unexpected error: {error}")
    else:
        capabilities.content_md5_enforced = False


async def _list(store: Store, capabilities: StoreCapabilities) -> None:
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


async def _read(store: Store, capabilities: StoreCapabilities) -> None:
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


async def _delete(store: Store, capabilities: StoreCapabilities) -> None:
    """Delete what was written; if that is not permitted, add a note."""
    for key in (*_KEYS, _REFUSED_KEY):
        try:
            await store.delete(key)
        except StoreError as error:
            if capabilities.may_write is not False:
                prefix = store.endpoint.prefix
                capabilities.notes.append(f"the objects that the check wrote under {prefix!r} remain: {error}")
            return
