"""What a store can do and what is wrong with it, found out by trying."""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Sequence
from typing import Literal

from ..errors import NoSuchBucket, NoSuchKey, StoreError, StoreRefused, StoreUnavailable
from ..model import Endpoint, Entry, md5_of_etag
from .address import address_of
from .capabilities import StoreCapabilities, judge
from .client import Store
from .list_parser import ListPage, parse_page
from .probe_writes import probe_key, write
from .request import S3Requester, with_retries
from .transport.errors import TransportError
from .transport.pool import Timeouts

__all__ = ["StoreCapabilities", "probe"]

_TIMEOUTS = Timeouts(connect_s=5, read_s=15, write_s=15)
_SMALL_BYTES = 1024 * 1024
_PAGE_LIMIT_BYTES = 32 * 1024 * 1024


async def probe(endpoint: Endpoint, *, writes: bool) -> StoreCapabilities:
    """Try a store; errors of StoreError's tree become findings.

    Args:
        writes: also write a few tiny objects, under a name that nobody else has, and remove them again.
    """
    findings = StoreCapabilities(endpoint.name, str(address_of(endpoint)), endpoint.bucket_name)
    try:
        entries, error = await _look(endpoint, findings)
        if _may_be_of_listing_alone(error):
            await (write(endpoint, findings, _TIMEOUTS) if writes else _read(endpoint, findings, entries))
    except StoreUnavailable as error:
        findings.errors.append(str(error))
    judge(findings)
    return findings


# -- listing, by both signatures


async def _look(endpoint: Endpoint, findings: StoreCapabilities) -> tuple[Sequence[Entry], StoreError | None]:
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
        cure = f'; signature_version = "{other}" in {endpoint.table} works' if accepted[other] else ""
        findings.errors.append(f"{error}{cure if accepted[own] is False else ''}")
    if listed is None:
        return (), error
    findings.list_version = 2 if listed.is_v2 else 1
    keys = [entry.key for entry in listed.entries]
    findings.list_in_order = keys == sorted(keys) if len(keys) > 1 else None
    return listed.entries, None


async def _list(endpoint: Endpoint) -> tuple[ListPage | None, StoreError | None, float]:
    """Return the first page, or what the store says against it, and by how much its clock is ahead of ours (s)."""
    exchange = S3Requester(endpoint, connections=1, timeouts=_TIMEOUTS)
    try:
        return (
            await with_retries(lambda: _first_page(exchange, endpoint)),
            None,
            exchange.time_ms() / 1000 - time.time(),
        )
    except StoreError as error:
        return None, error, exchange.time_ms() / 1000 - time.time()
    finally:
        await exchange.close()


async def _first_page(exchange: S3Requester, endpoint: Endpoint) -> ListPage:
    about = [("encoding-type", "url"), ("max-keys", "1000"), ("prefix", endpoint.prefix)]
    try:
        answer = await exchange.ask("LIST", None, "", query=[*about, ("list-type", "2")])
    except StoreRefused as error:
        if error.status not in (400, 501):
            raise
        answer = await exchange.ask("LIST", None, "", query=about)
    try:
        return parse_page(await answer.beginning(_PAGE_LIMIT_BYTES))
    except (TransportError, ValueError) as error:
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


async def _read(endpoint: Endpoint, findings: StoreCapabilities, entries: Sequence[Entry]) -> None:
    """Read one small object of those listed, or one that there is not. Raises StoreUnavailable."""
    small = [entry for entry in entries if entry.size_bytes <= _SMALL_BYTES]
    key = next((entry.key for entry in small if md5_of_etag(entry.etag)), entries[0].key if entries else None)
    async with Store(endpoint, source_prefix=endpoint.prefix, timeouts=_TIMEOUTS) as store:
        try:
            reading, content = await store.fetch(key or endpoint.prefix + probe_key(), _SMALL_BYTES)
            await reading.close()
        except NoSuchKey:
            findings.may_read = True  # to be told so, one must be permitted to read
        except StoreUnavailable:
            raise
        except StoreError as error:
            findings.may_read = False
            findings.errors.append(str(error))
        else:
            findings.may_read = True
            if content is not None and md5_of_etag(reading.info.etag):
                findings.etag_is_md5 = (
                    not reading.info.encrypted
                    and reading.info.etag == hashlib.md5(content, usedforsecurity=False).hexdigest()
                )
