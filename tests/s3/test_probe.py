from __future__ import annotations

import hashlib
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from time import time
from typing import Any
from urllib.parse import quote, unquote

import pytest
from aiohttp import web

from s3s3.model import Endpoint, Secret
from s3s3.s3.probe import StoreCapabilities, probe
from s3s3.scripts.demo.servers import StoreServer


@dataclass
class OddStore:
    """A store in memory with one bucket, and what is odd about it."""

    objects: dict[str, bytes] = field(default_factory=dict)
    lists_v2: bool = True
    by_utf16: bool = False
    takes_v2: bool = True
    heeds_md5: bool = True
    etag: str = ""
    ahead_s: int = 0
    forbidden: frozenset[str] = frozenset()
    """Methods, and "LIST"."""
    seen: list[str] = field(default_factory=list)
    port: int = 0

    def endpoint(self, **changes: Any) -> Endpoint:
        keys = {"access_key_id": "me", "secret_access_key": Secret("secret"), **changes}
        return Endpoint("dest-odd", "bucket", host="127.0.0.1", port=self.port, is_secure=False, **keys)

    async def answer(self, request: web.Request) -> web.Response:
        body = await request.read()
        answer = self._answer(request, request.raw_path.partition("?")[0].removeprefix("/bucket").lstrip("/"), body)
        answer.headers["Date"] = formatdate(time() + self.ahead_s, usegmt=True)
        return answer

    def _answer(self, request: web.Request, path: str, body: bytes) -> web.Response:
        key = unquote(path)
        operation = request.method if key else "LIST"
        self.seen.append(operation)
        if not self.takes_v2 and request.headers["Authorization"].startswith("AWS "):
            return error(400, "InvalidRequest", "Please use AWS4-HMAC-SHA256.")
        if operation in self.forbidden:
            return error(403, "AccessDenied", "Access Denied.")
        if operation == "LIST":
            return self._listing(request.query)
        return self._put(request, key, body) if operation == "PUT" else self._get_or_delete(operation, key)

    def _put(self, request: web.Request, key: str, body: bytes) -> web.Response:
        md5 = hashlib.md5(body).digest()
        if self.heeds_md5 and request.headers["Content-MD5"] != b64encode(md5).decode():
            return error(400, "BadDigest", "The Content-MD5 you specified did not match.")
        self.objects[key] = body
        return web.Response(headers={"ETag": f'"{self.etag or md5.hex()}"'})

    def _get_or_delete(self, operation: str, key: str) -> web.Response:
        if operation == "DELETE":
            self.objects.pop(key, None)
            return web.Response(status=204)
        if key not in self.objects:
            return error(404, "NoSuchKey", "No such key.")
        return web.Response(body=self.objects[key], headers={"ETag": f'"{self._etag_of(key)}"'})

    def _etag_of(self, key: str) -> str:
        return self.etag or hashlib.md5(self.objects[key]).hexdigest()

    def _listing(self, query: Any) -> web.Response:
        order = (lambda key: key.encode("utf-16-be")) if self.by_utf16 else None
        entries = "".join(
            f"<Contents><Key>{quote(key)}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>"
            f"<ETag>&quot;{self._etag_of(key)}&quot;</ETag><Size>{len(self.objects[key])}</Size></Contents>"
            for key in sorted(self.objects, key=order)
            if key.startswith(query.get("prefix", ""))
        )
        count = "<KeyCount>1</KeyCount>" if self.lists_v2 and "list-type" in query else ""
        return web.Response(
            text=f"<ListBucketResult><IsTruncated>false</IsTruncated><EncodingType>url</EncodingType>{count}{entries}"
            "</ListBucketResult>"
        )


def error(status: int, code: str, message: str) -> web.Response:
    return web.Response(status=status, text=f"<Error><Code>{code}</Code><Message>{message}</Message></Error>")


@asynccontextmanager
async def served(store: OddStore) -> AsyncIterator[OddStore]:
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", store.answer)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    store.port = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]
    try:
        yield store
    finally:
        await runner.cleanup()


async def found(store: OddStore, *, writes: bool = True, **changes: Any) -> StoreCapabilities:
    async with served(store):
        return await probe(store.endpoint(**changes), writes=writes)


async def test_a_store_that_does_everything_has_nothing_wrong_and_keeps_nothing() -> None:
    store = OddStore({"k": b"1"})
    findings = await found(store)
    assert (findings.errors, findings.notes) == ([], [])
    told = (findings.signature_v2, findings.signature_v4, findings.content_md5_enforced, findings.etag_is_md5,
            findings.list_version, findings.list_in_order, findings.may_read, findings.may_write)  # fmt: skip
    assert told == (True, True, True, True, 2, True, True, True)
    assert store.objects == {"k": b"1"}


async def test_reading_alone_writes_nothing() -> None:
    store = OddStore({"k": b"1"})
    findings = await found(store, writes=False)
    assert (findings.may_read, findings.etag_is_md5, findings.may_write) == (True, True, None)
    assert set(store.seen) == {"LIST", "GET"}


async def test_reading_is_tried_on_a_key_that_there_is_not_where_the_bucket_is_empty() -> None:
    findings = await found(OddStore(), writes=False)
    assert (findings.may_read, findings.etag_is_md5, findings.errors) == (True, None, [])
    findings = await found(OddStore(forbidden=frozenset(["GET"])), writes=False)
    assert findings.may_read is False
    assert "AccessDenied" in findings.errors[0]


async def test_a_store_that_takes_v4_only_is_told_with_the_setting() -> None:
    findings = await found(OddStore(takes_v2=False))
    assert (findings.reachable, findings.signature_v2, findings.signature_v4) == (True, False, True)
    assert 'signature_version = "s3v4" in [dest-odd]' in findings.errors[0]
    assert len(findings.errors) == 1
    assert not (await found(OddStore(takes_v2=False), signature_version="s3v4")).errors


async def test_a_listing_of_version_1_is_good_enough() -> None:
    findings = await found(OddStore(lists_v2=False))
    assert (findings.list_version, findings.list_in_order, findings.errors) == (1, True, [])


async def test_an_order_that_only_rare_characters_show_is_found() -> None:
    findings = await found(OddStore(by_utf16=True))
    assert findings.list_in_order is False
    assert "UTF-8 byte order" in findings.errors[0]


async def test_a_store_that_ignores_content_md5_is_noted() -> None:
    store = OddStore(heeds_md5=False)
    findings = await found(store)
    assert (findings.content_md5_enforced, findings.errors) == (False, [])
    assert "does not enforce Content-MD5" in findings.notes[0]
    assert not store.objects


async def test_etags_that_are_no_md5s_are_noted() -> None:
    findings = await found(OddStore(etag="0" * 32))
    assert (findings.etag_is_md5, findings.errors) == (False, [])
    assert "ETags are not MD5s" in findings.notes[0]


async def test_a_store_where_no_damage_could_be_noticed_is_wrong() -> None:
    findings = await found(OddStore(etag="0" * 32, heeds_md5=False))
    assert "would not be detected" in findings.errors[0]


@pytest.mark.parametrize(("ahead_s", "says"), [(1000, "ahead of"), (-1000, "behind"), (20, "")])
async def test_clocks_that_are_minutes_apart_are_wrong(ahead_s: int, says: str) -> None:
    findings = await found(OddStore(ahead_s=ahead_s))
    assert findings.clock_skew_s is not None
    assert abs(findings.clock_skew_s - ahead_s) <= 2
    assert len(findings.errors) == bool(says)
    if says:
        assert f" s {says} this machine's" in findings.errors[0]
        assert "NTP" in findings.errors[0]


async def test_writing_that_is_forbidden_is_wrong_and_nothing_more_is_tried() -> None:
    store = OddStore({"k": b"1"}, forbidden=frozenset(["PUT"]))
    findings = await found(store)
    assert (findings.may_write, findings.content_md5_enforced) == (False, None)
    assert len(findings.errors) == 1
    assert "permit this" in findings.errors[0]


async def test_listing_that_is_forbidden_leaves_the_rest_to_be_tried() -> None:
    findings = await found(OddStore(forbidden=frozenset(["LIST"])))
    assert (findings.list_version, findings.may_read, findings.may_write) == (None, True, True)
    assert len(findings.errors) == 1


async def test_what_may_not_be_removed_is_named() -> None:
    store = OddStore(forbidden=frozenset(["DELETE"]))
    findings = await found(store)
    assert findings.errors == []
    (left,) = {key.rpartition("/")[0] for key in store.objects}
    assert left in findings.notes[0]


async def test_a_prefix_is_kept_to() -> None:
    store = OddStore({"other": b"1"}, forbidden=frozenset(["DELETE"]))
    await found(store, prefix="raw/")
    assert {key.partition("s3s3-check-")[0] for key in store.objects if key != "other"} == {"raw/"}


async def test_a_store_that_is_away_is_not_reachable() -> None:
    findings = await probe(Endpoint("dest", "b", host="127.0.0.1", port=9, is_secure=False, access_key_id="a"),
                           writes=True)  # fmt: skip
    assert findings.reachable is False
    assert "check host and port in [dest]" in findings.errors[0]


@pytest.mark.real
@pytest.mark.parametrize("name", ["swift", "ceph"])
async def test_real_stores_have_nothing_wrong(name: str, request: pytest.FixtureRequest, new_bucket: Any) -> None:
    store: StoreServer = request.getfixturevalue(name)
    bucket = new_bucket(store)
    findings = await probe(store.endpoint(bucket), writes=True)
    assert (findings.errors, findings.notes) == ([], [])
    assert (findings.signature_v2, findings.content_md5_enforced, findings.list_in_order) == (True, True, True)
    assert "Contents" not in store.boto3_client().list_objects_v2(Bucket=bucket)


@pytest.mark.real
async def test_a_wrong_secret_is_told_once(swift: StoreServer, new_bucket: Any) -> None:
    endpoint = swift.endpoint(new_bucket(swift), secret_access_key=Secret("wrong"))
    findings = await probe(endpoint, writes=True)
    assert (findings.signature_v2, findings.signature_v4) == (False, False)
    assert len(findings.errors) == 1
    assert "aws_secret_access_key" in findings.errors[0]


@pytest.mark.real
async def test_a_real_store_that_takes_v4_only_is_told_with_the_setting(
    rclone_store: StoreServer, new_bucket: Any
) -> None:
    endpoint = rclone_store.endpoint(new_bucket(rclone_store), signature_version="s3")
    findings = await probe(endpoint, writes=True)
    assert (findings.reachable, findings.signature_v2, findings.signature_v4) == (True, False, True)
    assert len(findings.errors) == 1
    assert findings.errors[0].endswith('signature_version = "s3v4" in [source] works')
