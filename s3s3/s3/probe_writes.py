"""What can be found out of a store by writing to it: a few tiny objects under a name that nobody else has."""

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
_REFUSED_NAME = "wrong Content-MD5"
_NAMES = ("Z", "a", "\uff5e", "\U0001f600")
"""In UTF-8 order; by UTF-16 the last two change places, by a language's rules or without case the first two."""


def probe_key() -> str:
    """Return a key that there is not."""
    return KEY_PREFIX + secrets.token_hex(8)


async def write(endpoint: Endpoint, findings: StoreCapabilities, timeouts: Timeouts) -> None:
    """Write a few objects, list and read them, and remove them. Raises StoreUnavailable."""
    within = dataclasses.replace(endpoint, prefix=f"{endpoint.prefix}{probe_key()}/")
    async with Store(within, timeouts=timeouts) as store:
        try:
            for step in (_put_rightly, _put_wrongly, _list_back, _read_back):
                await step(store, findings)
                if not findings.may_write:
                    return
        finally:
            await _remove(store, findings)


async def _put_rightly(store: Store, findings: StoreCapabilities) -> None:
    try:
        for name in _NAMES:
            written = await store.put(name, _CONTENT, size_bytes=len(_CONTENT), md5=_MD5, headers={})
    except StoreUnavailable:
        raise
    except StoreError as error:
        findings.may_write = False
        findings.errors.append(str(error))
    else:
        findings.may_write = True
        findings.etag_is_md5 = not written.encrypted and written.etag == _MD5.hex()


async def _put_wrongly(store: Store, findings: StoreCapabilities) -> None:
    async def body() -> AsyncIterator[bytes]:  # one that is sent only once
        yield _CONTENT

    try:
        await store.put(_REFUSED_NAME, body, size_bytes=len(_CONTENT), md5=bytes(16), headers={})
    except IntegrityError:
        findings.content_md5_enforced = True
    except StoreUnavailable:
        raise
    except StoreError as error:
        findings.notes.append(f"a PUT with a wrong Content-MD5 was refused in an unexpected way: {error}")
    else:
        findings.content_md5_enforced = False


async def _list_back(store: Store, findings: StoreCapabilities) -> None:
    try:
        names = [entry.key async for page in store.pages() for entry in page]
    except ListingOutOfOrder as error:
        findings.list_in_order = False
        findings.errors.append(str(error))
    except StoreUnavailable:
        raise
    except StoreError:
        return  # why has been said
    else:
        findings.list_in_order = True
        if missing := sorted(set(_NAMES) - set(names)):
            findings.notes.append(
                f"{findings.name}: its listing lacks objects that were just written, {missing}: `s3s3 bucket` copies "
                "such objects once more than needed"
            )


async def _read_back(store: Store, findings: StoreCapabilities) -> None:
    try:
        _, content = await store.fetch(_NAMES[0], len(_CONTENT))
        await store.head(_NAMES[0])
    except StoreUnavailable:
        raise
    except StoreError as error:
        findings.may_read = False
        findings.errors.append(str(error))
    else:
        findings.may_read = True
        if content != _CONTENT:
            findings.errors.append(f"{findings.name}: what was written came back as something else: {content!r}")


async def _remove(store: Store, findings: StoreCapabilities) -> None:
    """Remove what was written. One that is not permitted to delete leaves it, and says so."""
    for name in (*_NAMES, _REFUSED_NAME):
        try:
            await store.delete(name)
        except StoreError as error:
            if findings.may_write is not False:
                under = store.endpoint.prefix
                findings.notes.append(f"what was written for this under {under!r} could not be removed: {error}")
            return
