"""What a store can do and what is wrong with it, found out by trying."""

from __future__ import annotations

import dataclasses
import hashlib
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from ..errors import (
    Damaged,
    ListingOutOfOrder,
    NoSuchBucket,
    NoSuchKey,
    StoreError,
    StoreRefused,
    StoreUnavailable,
)
from ..model import Endpoint, Entry, md5_of_etag
from .client import Store
from .connection import address_of
from .exchange import Exchange, again
from .listing import Listed, parse_page
from .pool import Timeouts
from .broken import WireError

KEY_PREFIX = "s3s3-check-"
CLOCK_SKEW_LIMIT_S = 300
"""A third of what S3 lets pass: RequestTimeTooSkewed comes at 15 minutes (S3 API reference, "Error responses")."""

_TIMEOUTS = Timeouts(connect_s=5, read_s=15, write_s=15)
_SMALL_BYTES = 1024 * 1024
_CONTENT = b"s3s3 check"
_REFUSED_NAME = "wrong Content-MD5"
_PAGE_LIMIT_BYTES = 32 * 1024 * 1024
_NAMES = ("Z", "a", "\uff5e", "\U0001f600")
"""In UTF-8 order; by UTF-16 the last two change places, by a language's rules or without case the first two."""


@dataclass
class Findings:
    """What was found out of one store. None is what could not be found out, or was not tried.

    Attributes:
        wrong: what has to be cured, with the setting that cures it.
        notes: what is worth knowing.
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
    wrong: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


async def probe(endpoint: Endpoint, *, writes: bool) -> Findings:
    """Try a store; errors of StoreError's tree become findings.

    Args:
        writes: also write a few tiny objects, under a name that nobody else has, and remove them again.
    """
    findings = Findings(endpoint.name, str(address_of(endpoint)), endpoint.bucket_name)
    try:
        entries, error = await _look(endpoint, findings)
        if _may_be_of_listing_alone(error):
            await (_write(endpoint, findings) if writes else _read(endpoint, findings, entries))
    except StoreUnavailable as error:
        findings.wrong.append(str(error))
    _judge(findings)
    return findings


# -- listing, by both signatures


async def _look(endpoint: Endpoint, findings: Findings) -> tuple[Sequence[Entry], StoreError | None]:
    """List the beginning of the bucket; return it, and what the store says against it. Raises StoreUnavailable."""
    own = endpoint.signature_version
    other: Literal["s3", "s3v4"] = "s3v4" if own == "s3" else "s3"
    listed, error, skew_s = await _list(endpoint)
    if isinstance(error, StoreUnavailable):
        raise error
    findings.reachable = True
    findings.clock_skew_s = round(skew_s)
    _, other_error, _ = await _list(dataclasses.replace(endpoint, signature_version=other))
    accepted = {own: _accepted(error), other: _accepted(other_error)}
    findings.signature_v2, findings.signature_v4 = accepted["s3"], accepted["s3v4"]
    if error is not None:
        cure = f'; signature_version = "{other}" in [{findings.name}] works' if accepted[other] else ""
        findings.wrong.append(f"{error}{cure if accepted[own] is False else ''}")
    if listed is None:
        return (), error
    findings.list_version = 2 if listed.is_v2 else 1
    keys = [entry.key for entry in listed.entries]
    findings.list_in_order = keys == sorted(keys) if len(keys) > 1 else None
    return listed.entries, None


async def _list(endpoint: Endpoint) -> tuple[Listed | None, StoreError | None, float]:
    """Return the first page, or what the store says against it, and by how much its clock is ahead of ours (s)."""
    exchange = Exchange(endpoint, connections=1, timeouts=_TIMEOUTS)
    try:
        return await again(lambda: _first_page(exchange, endpoint)), None, exchange.time_ms() / 1000 - time.time()
    except StoreError as error:
        return None, error, exchange.time_ms() / 1000 - time.time()
    finally:
        await exchange.close()


async def _first_page(exchange: Exchange, endpoint: Endpoint) -> Listed:
    about = [("encoding-type", "url"), ("max-keys", "1000"), ("prefix", endpoint.prefix)]
    try:
        answer = await exchange.ask("LIST", None, "", query=[*about, ("list-type", "2")])
    except StoreRefused as error:
        if error.status not in (400, 501):
            raise
        answer = await exchange.ask("LIST", None, "", query=about)
    try:
        return parse_page(await answer.beginning(_PAGE_LIMIT_BYTES))
    except (WireError, ValueError) as error:
        raise StoreRefused(f"not to be understood: {error}", store=endpoint.name, operation="LIST") from error


def _accepted(error: StoreError | None) -> bool | None:
    """Tell whether a signature was accepted; None where the answer does not tell."""
    if error is None or isinstance(error, NoSuchBucket):
        return True
    if isinstance(error, StoreUnavailable) or _may_be_of_listing_alone(error):
        return None
    return False


def _may_be_of_listing_alone(error: StoreError | None) -> bool:
    """Tell whether reading and writing may work in spite of it."""
    return error is None or error.code == "AccessDenied"


# -- reading what is there


async def _read(endpoint: Endpoint, findings: Findings, entries: Sequence[Entry]) -> None:
    """Read one small object of those listed, or one that there is not. Raises StoreUnavailable."""
    small = [entry for entry in entries if entry.size_bytes <= _SMALL_BYTES]
    key = next((entry.key for entry in small if md5_of_etag(entry.etag)), entries[0].key if entries else None)
    async with Store(endpoint, source_prefix=endpoint.prefix, timeouts=_TIMEOUTS) as store:
        try:
            reading, content = await store.fetch(key or endpoint.prefix + _name(), _SMALL_BYTES)
            await reading.close()
        except NoSuchKey:
            findings.may_read = True  # to be told so, one must be permitted to read
        except StoreUnavailable:
            raise
        except StoreError as error:
            findings.may_read = False
            findings.wrong.append(str(error))
        else:
            findings.may_read = True
            if content is not None and md5_of_etag(reading.entry.etag):
                findings.etag_is_md5 = not reading.encrypted and reading.entry.etag == _md5(content).hex()


def _name() -> str:
    return KEY_PREFIX + secrets.token_hex(8)


def _md5(content: bytes) -> bytes:
    return hashlib.md5(content, usedforsecurity=False).digest()


# -- writing


async def _write(endpoint: Endpoint, findings: Findings) -> None:
    """Write a few objects, list and read them, and remove them. Raises StoreUnavailable."""
    within = dataclasses.replace(endpoint, prefix=f"{endpoint.prefix}{_name()}/")
    async with Store(within, timeouts=_TIMEOUTS) as store:
        try:
            for step in (_put_rightly, _put_wrongly, _list_back, _read_back):
                await step(store, findings)
                if not findings.may_write:
                    return
        finally:
            await _remove(store, findings)


async def _put_rightly(store: Store, findings: Findings) -> None:
    try:
        for name in _NAMES:
            written = await store.put(name, _CONTENT, size_bytes=len(_CONTENT), md5=_md5(_CONTENT), headers={})
    except StoreUnavailable:
        raise
    except StoreError as error:
        findings.may_write = False
        findings.wrong.append(str(error))
    else:
        findings.may_write = True
        findings.etag_is_md5 = not written.encrypted and written.etag == _md5(_CONTENT).hex()


async def _put_wrongly(store: Store, findings: Findings) -> None:
    async def body() -> AsyncIterator[bytes]:  # one that is sent only once
        yield _CONTENT

    try:
        await store.put(_REFUSED_NAME, body, size_bytes=len(_CONTENT), md5=_md5(b"another"), headers={})
    except Damaged:
        findings.content_md5_enforced = True
    except StoreUnavailable:
        raise
    except StoreError as error:
        findings.notes.append(f"a PUT with a wrong Content-MD5 was refused in an unexpected way: {error}")
    else:
        findings.content_md5_enforced = False


async def _list_back(store: Store, findings: Findings) -> None:
    try:
        names = [entry.key async for page in store.pages() for entry in page]
    except ListingOutOfOrder as error:
        findings.list_in_order = False
        findings.wrong.append(str(error))
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


async def _read_back(store: Store, findings: Findings) -> None:
    try:
        _, content = await store.fetch(_NAMES[0], _SMALL_BYTES)
        await store.head(_NAMES[0])
    except StoreUnavailable:
        raise
    except StoreError as error:
        findings.may_read = False
        findings.wrong.append(str(error))
    else:
        findings.may_read = True
        if content != _CONTENT:
            findings.wrong.append(f"{findings.name}: what was written came back as something else: {content!r}")


async def _remove(store: Store, findings: Findings) -> None:
    """Remove what was written. One that is not permitted to delete leaves it, and says so."""
    for name in (*_NAMES, _REFUSED_NAME):
        try:
            await store.delete(name)
        except StoreError as error:
            if findings.may_write is not False:
                under = store.endpoint.prefix
                findings.notes.append(f"what was written for this under {under!r} could not be removed: {error}")
            return


# -- what it all means


def _judge(findings: Findings) -> None:
    """Add what follows from the findings."""
    name, skew_s = findings.name, findings.clock_skew_s
    if skew_s is not None and abs(skew_s) > CLOCK_SKEW_LIMIT_S:
        ahead = "ahead of" if skew_s > 0 else "behind"
        findings.wrong.append(
            f"{name}: its clock is {abs(skew_s):,} s {ahead} this machine's; stores refuse requests "
            "that are 15 minutes off: set the wrong one of them right (NTP)"
        )
    if findings.content_md5_enforced is False and findings.etag_is_md5 is False:
        findings.wrong.append(
            f"{name}: it neither heeds Content-MD5 nor answers with the MD5 of what it got, so damage on the way to it "
            "could not be noticed"
        )
    elif findings.content_md5_enforced is False:
        findings.notes.append(f"{name}: it does not heed Content-MD5; s3s3 relies on the ETag that it answers with")
    elif findings.etag_is_md5 is False:
        findings.notes.append(f"{name}: its ETags are no MD5s; s3s3 records the source's ETag with each copy")
