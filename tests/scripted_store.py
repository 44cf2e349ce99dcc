"""A store in memory with scripted failures that are too rare on real stores."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from s3s3.errors import IntegrityError, NoSuchKey, StoreError, StoreUnavailable
from s3s3.model import Endpoint
from s3s3.s3 import RECORDED_ETAG, RECORDED_HEADERS, ObjectInfo, PutResult


@dataclass(frozen=True)
class Object:
    """An object of a scripted store. The `etag` "" means the MD5 of the content."""

    content: bytes
    etag: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    encrypted: bool = False
    recorded_etag: str | None = None
    recorded_headers: str | None = None
    size_bytes: int | None = None
    modified_ms: int = 0

    def info(self, key: str) -> ObjectInfo:
        size_bytes = len(self.content) if self.size_bytes is None else self.size_bytes
        etag = self.etag or hashlib.md5(self.content).hexdigest()
        return ObjectInfo(
            key, size_bytes, etag, self.modified_ms, dict(self.headers), self.encrypted, self.recorded_etag,
            self.recorded_headers,
        )  # fmt: skip


class ScriptedStream:
    """Like `ObjectStream`. Content that is shorter than announced raises IntegrityError."""

    def __init__(self, store: ScriptedStore, key: str, stored: Object) -> None:
        self.info = stored.info(key)
        self._store, self._content = store, stored.content
        store.open_streams += 1
        self._closed = False

    async def chunks(self, size_bytes: int) -> AsyncIterator[bytes]:
        for start in range(0, len(self._content), size_bytes):
            await asyncio.sleep(0)
            assert not self._closed
            self._store.bytes_read += len(self._content[start : start + size_bytes])
            yield self._content[start : start + size_bytes]
        if len(self._content) < self.info.size_bytes:
            await self.close()
            raise IntegrityError("the content ended early", store=self._store.name, operation="GET", key=self.info.key)
        await self.close()

    def can_be_spliced(self, _: Endpoint) -> bool:
        return False

    async def body(self) -> bytes:
        return b"".join([chunk async for chunk in self.chunks(64 * 1024)])

    async def close(self) -> None:
        self._store.open_streams -= not self._closed
        self._closed = True

    async def __aenter__(self) -> ScriptedStream:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


@dataclass
class ScriptedStore:
    """Like `Store`.

    Attributes:
        serves: the results of GETs of a key, in order; the last one repeats.
        ghosts: objects that only its listing has.
        answers: called with the object to store; raises, or returns the result. None: store it normally.
        settings: more fields of its endpoint.
        returns: what it makes of an object's headers.
        copies: returns the object that a server-side copy writes, or only the result; or raises.
        deletes_late: an attempt of a DELETE got no response before another succeeded.
        pause_s: between two chunks of a PUT.
        requests: the operations, in order.
    """

    name: str
    objects: dict[str, Object] = field(default_factory=dict)
    serves: dict[str, list[Object | Exception]] = field(default_factory=dict)
    ghosts: dict[str, Object] = field(default_factory=dict)
    answers: Callable[[Object], PutResult] | None = None
    returns: Callable[[dict[str, str]], dict[str, str]] = dict
    head_error: StoreError | None = None
    delete_error: Exception | None = None
    deletes_late: bool = False
    copies: Callable[[], Object | PutResult] | None = None
    get_error: StoreError | None = None
    ignores_content_md5: bool = False
    answers_after: int | None = None
    pause_s: float = 0.0
    verify_md5: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    cut_off: int = 0
    open_streams: int = 0
    bytes_read: int = 0

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint(self.name, "bucket", verify_md5=self.verify_md5, **self.settings)

    async def get(self, key: str) -> ScriptedStream:
        self.requests.append("GET")
        await asyncio.sleep(0)
        if self.get_error is not None:
            raise self.get_error
        if key in self.serves:
            served = self.serves[key].pop(0) if len(self.serves[key]) > 1 else self.serves[key][0]
            if isinstance(served, Exception):
                raise served
            return ScriptedStream(self, key, served)
        if key not in self.objects:
            raise NoSuchKey("no such key", store=self.name, operation="GET", key=key, status=404, code="NoSuchKey")
        return ScriptedStream(self, key, self.objects[key])

    async def fetch(self, key: str, limit_bytes: int) -> tuple[ScriptedStream, bytes | None]:
        reading = await self.get(key)
        return reading, await reading.body() if reading.info.size_bytes <= limit_bytes else None

    async def head(self, key: str) -> ObjectInfo | None:
        self.requests.append("HEAD")
        await asyncio.sleep(0)
        if self.head_error is not None:
            raise self.head_error
        return self.objects[key].info(key) if key in self.objects else None

    async def confirm_missing(self, key: str) -> ObjectInfo | None:
        info = await self.head(key)
        if info is None:
            self.requests.append("LIST")
            return self.ghosts[key].info(key) if key in self.ghosts else None
        return info

    async def put(
        self,
        key: str,
        body: bytes | Callable[[], AsyncIterator[bytes]],
        *,
        size_bytes: int,
        md5: bytes,
        headers: Mapping[str, str],
        check_lease: Callable[[], None],
        is_hashed: bool = True,
    ) -> PutResult:
        check_lease()
        self.requests.append("PUT")
        try:
            content = body if isinstance(body, bytes) else await self._receive(body)
        except BaseException:
            self.cut_off += 1
            raise
        headers = dict(headers)
        etag_record, headers_record = headers.pop(RECORDED_ETAG, None), headers.pop(RECORDED_HEADERS, None)
        stored = Object(
            content, headers=self.returns(headers), recorded_etag=etag_record, recorded_headers=headers_record
        )
        if self.answers_after is not None:
            return PutResult(md5.hex(), False, False)
        assert len(content) == size_bytes
        if hashlib.md5(content).digest() != md5 and not self.ignores_content_md5:
            raise IntegrityError("bad digest", store=self.name, operation="PUT", key=key, status=400, code="BadDigest")
        written = self.answers(stored) if self.answers else PutResult(stored.info(key).etag, False, False)
        self.objects[key] = replace(stored, etag=written.etag, encrypted=written.encrypted)
        return written

    async def copy(
        self,
        key: str,
        source_bucket: str,
        *,
        etag: str,
        headers: Mapping[str, str] | None = None,
        check_lease: Callable[[], None],
    ) -> PutResult:
        check_lease()
        self.requests.append("COPY")
        await asyncio.sleep(0)
        assert self.copies is not None, "the test does not set `copies`"
        copied = self.copies()
        if isinstance(copied, PutResult):
            return copied
        if headers is not None:
            copied = self._with_headers(copied, headers)
        if self.answers is not None:
            self.answers(copied)
        self.objects[key] = copied
        return PutResult(copied.info(key).etag, copied.encrypted, False)

    async def delete(self, key: str, *, check_lease: Callable[[], None]) -> bool:
        check_lease()
        self.requests.append("DELETE")
        await asyncio.sleep(0)
        if self.delete_error is not None:
            raise self.delete_error
        self.objects.pop(key, None)
        return self.deletes_late

    def _with_headers(self, stored: Object, headers: Mapping[str, str]) -> Object:
        kept = dict(headers)
        etag_record, headers_record = kept.pop(RECORDED_ETAG, None), kept.pop(RECORDED_HEADERS, None)
        return replace(stored, headers=self.returns(kept), recorded_etag=etag_record, recorded_headers=headers_record)

    async def _receive(self, body: Callable[[], AsyncIterator[bytes]]) -> bytes:
        """Like the real client, stop at an early response; the last chunk is sent after the end of the iterator."""
        chunks: list[bytes] = []
        async for chunk in body():
            chunks.append(chunk)
            await asyncio.sleep(self.pause_s)
            if self.answers_after is not None and len(chunks) >= self.answers_after:
                break
        return b"".join(chunks)


def unavailable(store: str, *, indeterminate: bool = False) -> StoreUnavailable:
    error = StoreUnavailable("did not answer in time", store=store, operation="PUT")
    error.indeterminate = indeterminate
    return error
