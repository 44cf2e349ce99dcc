"""The S3 client with a real Swift and a real Ceph."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Literal

import pytest

from s3s3.errors import AccessDenied, IntegrityError, InvalidKey, NoSuchBucket, NoSuchKey, TooLarge
from s3s3.model import Endpoint, Secret
from s3s3.s3 import PutResult, Store
from s3s3.scripts.demo.servers import StoreServer
from tests.contents import random_bytes
from tests.s3.test_client import ODD_KEYS

NewBucket = Callable[..., str]
pytestmark = pytest.mark.real


@pytest.fixture(params=["swift", "ceph"])
def server(request: pytest.FixtureRequest) -> StoreServer:
    server: StoreServer = request.getfixturevalue(request.param)
    return server


@pytest.fixture
def endpoint(server: StoreServer, new_bucket: NewBucket) -> Endpoint:
    return server.endpoint(new_bucket(server), name="destination-real")


async def put(store: Store, key: str, body: bytes, **headers: str) -> PutResult:
    md5 = hashlib.md5(body).digest()
    return await store.put(
        key, body, size_bytes=len(body), md5=md5, headers={name.replace("_", "-"): v for name, v in headers.items()}
    )


@pytest.mark.parametrize("signature_version", ["s3", "s3v4"])
async def test_every_kind_of_key_round_trips(
    endpoint: Endpoint, server: StoreServer, signature_version: Literal["s3", "s3v4"]
) -> None:
    endpoint = dataclasses.replace(endpoint, signature_version=signature_version)
    async with Store(endpoint) as store:
        for key in ODD_KEYS:
            body = key.encode()
            written = await put(store, key, body, content_type="text/x-odd", x_amz_meta_a_b="with  blanks")
            assert written.etag == hashlib.md5(body).hexdigest()
            reading, read = await store.fetch(key, 10_000)
            assert read == body
            assert reading.info.headers["content-type"] == "text/x-odd"
            assert reading.info.headers["x-amz-meta-a-b"] == "with  blanks"
            info = await store.head(key)
            assert info is not None
            assert info.etag == written.etag
        client = server.boto3_client()
        theirs = client.list_objects_v2(Bucket=endpoint.bucket_name, EncodingType="url")
        assert theirs["KeyCount"] == len(ODD_KEYS)
        for key in ODD_KEYS:
            await store.delete(key)
            with pytest.raises(NoSuchKey):
                await store.get(key)
            assert await store.head(key) is None
            await store.delete(key)


async def test_metadata_is_preserved(endpoint: Endpoint) -> None:
    headers = {
        "content_type": "application/fits; x=1",
        "content_encoding": "gzip",
        "content_disposition": 'attachment; filename="a b.txt"',
        "content_language": "de",
        "cache_control": "max-age=5",
        "expires": "Thu, 01 Dec 2033 16:00:00 GMT",
        "x_amz_meta_with_hyphens": "value",
        "x_amz_meta_empty": "x",
    }
    async with Store(endpoint) as store:
        await put(store, "key", b"", **headers)
        reading, _ = await store.fetch("key", 0)
        info = await store.head("key")
    expected = {name.replace("_", "-"): value for name, value in headers.items()}
    assert reading.info.headers == expected
    assert info is not None
    assert info.headers == expected


async def test_metadata_bytes_are_preserved(ceph: StoreServer, new_bucket: NewBucket) -> None:
    """Only with Ceph: Swift encodes it twice."""
    for version in ("s3", "s3v4"):
        endpoint = ceph.endpoint(new_bucket(ceph), signature_version=version)
        async with Store(endpoint) as store:
            await put(store, "key", b"", x_amz_meta_raw="gr\u00fc\u00df  \u4f60")
            reading, _ = await store.fetch("key", 0)
            assert reading.info.headers["x-amz-meta-raw"] == "gr\u00fc\u00df  \u4f60"


async def test_a_wrong_md5_is_an_integrity_error_and_stores_nothing(endpoint: Endpoint) -> None:
    async with Store(endpoint) as store:
        with pytest.raises(IntegrityError, match="BadDigest"):
            await store.put("key", b"content", size_bytes=7, md5=b"m" * 16, headers={})
        assert await store.head("key") is None


def in_chunks(body: bytes, size_bytes: int, then: Exception | None = None) -> Callable[[], AsyncIterator[bytes]]:
    async def chunks() -> AsyncIterator[bytes]:
        for at in range(0, len(body), size_bytes):
            yield body[at : at + size_bytes]
            await asyncio.sleep(0.001)
        if then is not None:
            raise then

    return chunks


async def test_an_incomplete_stream_leaves_the_old_object(endpoint: Endpoint) -> None:
    body = random_bytes(20_000_000)
    md5 = hashlib.md5(body).digest()
    async with Store(endpoint) as store:
        await put(store, "key", b"old")
        with pytest.raises(ZeroDivisionError):
            chunks = in_chunks(body, 1_000_000, then=ZeroDivisionError())
            await store.put("key", chunks, size_bytes=len(body), md5=md5, headers={})
        await asyncio.sleep(0.5)
        assert (await store.fetch("key", 10))[1] == b"old"
        written = await store.put("key", in_chunks(body, 1_000_000), size_bytes=len(body), md5=md5, headers={})
        assert written.etag == md5.hex()
        reading = await store.get("key")
        assert b"".join([chunk async for chunk in reading.chunks(1_000_000)]) == body


@pytest.mark.long
async def test_a_listing_is_complete_and_sorted(endpoint: Endpoint, server: StoreServer) -> None:
    endpoint = dataclasses.replace(endpoint, prefix="p+ /")
    keys = [f"p+ /{key}" for key in ODD_KEYS if len(key.encode()) < 1000] + [f"p+ /{n:04}" for n in range(1100)]
    in_order = sorted(keys, key=str.encode)
    client = server.boto3_client()
    client.put_object(Bucket=endpoint.bucket_name, Key="outside", Body=b"")
    async with Store(endpoint, source_prefix="p+ /") as store:
        for at in range(0, len(keys), 32):
            await asyncio.gather(*(put(store, key, b"x") for key in keys[at : at + 32]))
    for signature_version in ("s3", "s3v4"):
        signed = dataclasses.replace(endpoint, signature_version=signature_version)
        for list_version in (1, 2):
            async with Store(signed, source_prefix="p+ /", list_version=list_version) as lister:
                entries = [entry async for page in lister.pages() for entry in page]
                assert [entry.key for entry in entries] == in_order
                assert {(entry.size_bytes, entry.etag) for entry in entries} == {(1, hashlib.md5(b"x").hexdigest())}
                assert all(abs(entry.modified_ms - lister.source_time_ms()) < 600_000 for entry in entries)
                # a page can start after any key
                for key in sorted(keys[:30], key=str.encode) if signature_version == "s3" else ():
                    async with aclosing(lister.pages(start_after=key)) as pages:
                        after = [entry.key for entry in await anext(pages, [])]
                    rest = in_order[in_order.index(key) + 1 :]
                    assert after == rest[: len(after)]
                    assert len(after) >= min(len(rest), 900)


async def test_errors_of_real_stores_are_mapped(endpoint: Endpoint) -> None:
    async with Store(endpoint) as store:
        with pytest.raises(NoSuchKey):
            await store.get("missing")
        with pytest.raises(TooLarge):
            await store.put(
                "key", in_chunks(b"x" * 100_000, 100), size_bytes=5 * 1024**3 + 1, md5=b"m" * 16, headers={}
            )
    absent = dataclasses.replace(endpoint, bucket_name="no-such-bucket")
    async with Store(absent) as store:
        for operation in (store.get("key"), put(store, "key", b""), anext(store.pages())):
            with pytest.raises(NoSuchBucket, match="check bucket_name in \\[destination-real\\]"):
                await operation
        assert await store.head("key") is None


@pytest.mark.parametrize("signature_version", ["s3", "s3v4"])
async def test_errors_for_wrong_credentials_name_the_setting(
    endpoint: Endpoint, signature_version: Literal["s3", "s3v4"]
) -> None:
    endpoint = dataclasses.replace(endpoint, signature_version=signature_version)
    wrong_secret = dataclasses.replace(endpoint, secret_access_key=Secret("not-the-secret"))
    wrong_id = dataclasses.replace(endpoint, access_key_id="unknown")
    for wrong, setting in ((wrong_secret, "aws_secret_access_key"), (wrong_id, "aws_access_key_id")):
        async with Store(wrong) as store:
            with pytest.raises(AccessDenied) as caught:
                await store.get("key")
            assert setting in caught.value.advice
            assert "[destination-real]" in caught.value.advice
            assert "not-the-secret" not in str(caught.value)


@pytest.mark.long
async def test_a_listing_tolerates_concurrent_changes(endpoint: Endpoint) -> None:
    async with Store(endpoint) as store:
        for at in range(0, 1100, 50):
            await asyncio.gather(*(put(store, f"{n:05}", b"") for n in range(at, at + 50)))
        seen: list[str] = []
        async for page in store.pages():
            if not seen:
                await store.delete(page[-1].key)
                await store.delete("01050")
                await put(store, "01099-new", b"")
            seen += [entry.key for entry in page]
    assert set(seen) >= {f"{n:05}" for n in range(1100)} - {"01050"}


async def test_a_key_that_is_too_long_is_invalid(ceph: StoreServer, new_bucket: NewBucket) -> None:
    async with Store(ceph.endpoint(new_bucket(ceph))) as store:
        await put(store, "k" * 1024, b"")
        with pytest.raises(InvalidKey):
            await put(store, "k" * 1025, b"")
