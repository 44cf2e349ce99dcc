from __future__ import annotations

import dataclasses
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
    """A store in memory with one bucket and the given deviations."""

    objects: dict[str, bytes] = field(default_factory=dict)
    lists_v2: bool = True
    by_utf16: bool = False
    takes_v2: bool = True
    enforces_md5: bool = True
    stores_anyway: bool = False
    replaces_anyway: bool = False
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
        if self.enforces_md5 and request.headers["Content-MD5"] != b64encode(md5).decode():
            if self.stores_anyway or (self.replaces_anyway and key in self.objects):
                self.objects[key] = body
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


async def probed(store: OddStore, *, writes: bool = True, **changes: Any) -> StoreCapabilities:
    async with served(store):
        return await probe(store.endpoint(**changes), writes=writes)


async def test_a_complete_store_has_no_errors_and_keeps_no_objects() -> None:
    store = OddStore({"k": b"1"})
    capabilities = await probed(store)
    assert (capabilities.errors, capabilities.notes) == ([], [])
    assert (
        dataclasses.asdict(capabilities).items()
        >= {
            "signature_v2": True,
            "signature_v4": True,
            "content_md5_enforced": True,
            "etag_is_md5": True,
            "list_version": 2,
            "list_in_order": True,
            "may_read": True,
            "may_write": True,
        }.items()
    )
    assert store.objects == {"k": b"1"}


async def test_a_read_only_probe_writes_nothing() -> None:
    store = OddStore({"k": b"1"})
    capabilities = await probed(store, writes=False)
    assert (capabilities.may_read, capabilities.etag_is_md5, capabilities.may_write) == (True, True, None)
    assert set(store.seen) == {"LIST", "GET"}


async def test_a_missing_key_is_read_in_an_empty_bucket() -> None:
    capabilities = await probed(OddStore(), writes=False)
    assert (capabilities.may_read, capabilities.etag_is_md5, capabilities.errors) == (True, None, [])
    capabilities = await probed(OddStore(forbidden=frozenset(["GET"])), writes=False)
    assert capabilities.may_read is False
    assert "AccessDenied" in capabilities.errors[0]


async def test_a_store_that_requires_v4_is_reported_with_the_setting() -> None:
    capabilities = await probed(OddStore(takes_v2=False))
    assert (capabilities.reachable, capabilities.signature_v2, capabilities.signature_v4) == (True, False, True)
    assert 'signature_version = "s3v4" in [dest-odd]' in capabilities.errors[0]
    assert len(capabilities.errors) == 1
    assert not (await probed(OddStore(takes_v2=False), signature_version="s3v4")).errors


async def test_a_listing_of_version_1_is_not_an_error() -> None:
    capabilities = await probed(OddStore(lists_v2=False))
    assert (capabilities.list_version, capabilities.list_in_order, capabilities.errors) == (1, True, [])


async def test_utf16_order_is_detected() -> None:
    capabilities = await probed(OddStore(by_utf16=True))
    assert capabilities.list_in_order is False
    assert "UTF-8 byte order" in capabilities.errors[0]


async def test_a_store_that_ignores_content_md5_gets_a_note() -> None:
    store = OddStore(enforces_md5=False)
    capabilities = await probed(store)
    assert (capabilities.content_md5_enforced, capabilities.errors) == (False, [])
    assert "does not enforce Content-MD5" in capabilities.notes[0]
    assert not store.objects


@pytest.mark.parametrize("oddity", ["stores_anyway", "replaces_anyway"])
async def test_a_store_that_refuses_a_wrong_content_md5_and_keeps_the_object_does_not_enforce_it(oddity: str) -> None:
    store = dataclasses.replace(OddStore(), **{oddity: True})  # type: ignore[arg-type]
    capabilities = await probed(store)
    assert (capabilities.content_md5_enforced, capabilities.verifies, capabilities.errors) == (False, False, [])
    assert "but stores the object" in capabilities.notes[0]
    assert not store.objects


async def test_the_setting_store_is_an_error_for_a_store_that_does_not_verify() -> None:
    assert (await probed(OddStore(), checksum="store")).errors == []
    capabilities = await probed(OddStore(enforces_md5=False), checksum="store")
    assert 'checksum = "store" in [dest-odd]' in capabilities.errors[0]


async def test_etags_that_are_not_md5s_get_a_note() -> None:
    capabilities = await probed(OddStore(etag="0" * 32))
    assert (capabilities.etag_is_md5, capabilities.verifies, capabilities.errors) == (False, False, [])
    assert "ETags are not MD5s" in capabilities.notes[0]


async def test_a_store_without_damage_detection_is_an_error() -> None:
    capabilities = await probed(OddStore(etag="0" * 32, enforces_md5=False))
    assert "would not be detected" in capabilities.errors[0]


@pytest.mark.parametrize(("ahead_s", "direction"), [(1000, "ahead of"), (-1000, "behind"), (20, "")])
async def test_clock_skew_of_minutes_is_an_error(ahead_s: int, direction: str) -> None:
    capabilities = await probed(OddStore(ahead_s=ahead_s))
    assert capabilities.clock_skew_s is not None
    assert abs(capabilities.clock_skew_s - ahead_s) <= 2
    assert len(capabilities.errors) == bool(direction)
    if direction:
        assert f" s {direction} this machine's" in capabilities.errors[0]
        assert "NTP" in capabilities.errors[0]


async def test_forbidden_writing_is_an_error_and_ends_the_probe() -> None:
    store = OddStore({"k": b"1"}, forbidden=frozenset(["PUT"]))
    capabilities = await probed(store)
    assert (capabilities.may_write, capabilities.content_md5_enforced) == (False, None)
    assert len(capabilities.errors) == 1
    assert "permit this" in capabilities.errors[0]


async def test_forbidden_listing_does_not_end_the_probe() -> None:
    capabilities = await probed(OddStore(forbidden=frozenset(["LIST"])))
    assert (capabilities.list_version, capabilities.may_read, capabilities.may_write) == (None, True, True)
    assert len(capabilities.errors) == 1


async def test_objects_that_cannot_be_deleted_are_named() -> None:
    store = OddStore(forbidden=frozenset(["DELETE"]))
    capabilities = await probed(store)
    assert capabilities.errors == []
    (left,) = {key.rpartition("/")[0] for key in store.objects}
    assert left in capabilities.notes[0]


async def test_a_probe_stays_under_the_prefix() -> None:
    store = OddStore({"other": b"1"}, forbidden=frozenset(["DELETE"]))
    await probed(store, prefix="raw/")
    assert {key.partition("s3s3-check-")[0] for key in store.objects if key != "other"} == {"raw/"}


async def test_a_store_that_is_down_is_not_reachable() -> None:
    capabilities = await probe(Endpoint("dest", "b", host="127.0.0.1", port=9, is_secure=False, access_key_id="a"),
                           writes=True)  # fmt: skip
    assert capabilities.reachable is False
    assert "check host and port in [dest]" in capabilities.errors[0]


@pytest.mark.real
@pytest.mark.parametrize("name", ["swift", "ceph"])
async def test_real_stores_have_no_errors(name: str, request: pytest.FixtureRequest, new_bucket: Any) -> None:
    store: StoreServer = request.getfixturevalue(name)
    bucket = new_bucket(store)
    capabilities = await probe(store.endpoint(bucket), writes=True)
    assert (capabilities.errors, capabilities.notes) == ([], [])
    assert (capabilities.signature_v2, capabilities.content_md5_enforced, capabilities.list_in_order) == (
        True,
        True,
        True,
    )
    assert "Contents" not in store.boto3_client().list_objects_v2(Bucket=bucket)


@pytest.mark.real
async def test_a_wrong_secret_is_reported_once(swift: StoreServer, new_bucket: Any) -> None:
    endpoint = swift.endpoint(new_bucket(swift), secret_access_key=Secret("wrong"))
    capabilities = await probe(endpoint, writes=True)
    assert (capabilities.signature_v2, capabilities.signature_v4) == (False, False)
    assert len(capabilities.errors) == 1
    assert "aws_secret_access_key" in capabilities.errors[0]


@pytest.mark.real
async def test_a_real_store_that_requires_v4_is_reported_with_the_setting(
    rclone_store: StoreServer, new_bucket: Any
) -> None:
    endpoint = rclone_store.endpoint(new_bucket(rclone_store), signature_version="s3")
    capabilities = await probe(endpoint, writes=True)
    assert (capabilities.reachable, capabilities.signature_v2, capabilities.signature_v4) == (True, False, True)
    assert len(capabilities.errors) == 1
    assert capabilities.errors[0].endswith('signature_version = "s3v4" in [source] works')
