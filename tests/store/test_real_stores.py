"""The store on a real Swift and a real Ceph."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable

import pytest

from s3s3.demo.servers import StoreServer
from s3s3.errors import NoSuchKey
from s3s3.model import Endpoint
from s3s3.store import Store

from .test_client import ODD_KEYS

NewBucket = Callable[..., str]
pytestmark = pytest.mark.real


@pytest.fixture(params=["swift", "ceph"])
def server(request: pytest.FixtureRequest) -> StoreServer:
    server: StoreServer = request.getfixturevalue(request.param)
    return server


@pytest.fixture
def endpoint(server: StoreServer, new_bucket: NewBucket) -> Endpoint:
    return server.endpoint(new_bucket(server), name="destination-real")


async def put(store: Store, key: str, body: bytes, **headers: str):
    md5 = hashlib.md5(body).digest()
    return await store.put(
        key, body, size_bytes=len(body), md5=md5, headers={name.replace("_", "-"): v for name, v in headers.items()}
    )


@pytest.mark.parametrize("signature_version", ["s3", "s3v4"])
async def test_every_kind_of_key_round_trips(endpoint: Endpoint, server: StoreServer, signature_version) -> None:
    endpoint = dataclasses.replace(endpoint, signature_version=signature_version)
    async with Store(endpoint) as store:
        for key in ODD_KEYS:
            body = key.encode()
            written = await put(store, key, body, content_type="text/x-odd", x_amz_meta_a_b="with  blanks")
            assert written.etag == hashlib.md5(body).hexdigest()
            reading, read = await store.fetch(key, 10_000)
            assert read == body
            assert reading.headers["content-type"] == "text/x-odd"
            assert reading.headers["x-amz-meta-a-b"] == "with  blanks"
            held = await store.head(key)
            assert held is not None
            assert held.entry.etag == written.etag
        client = server.boto3_client()
        theirs = client.list_objects_v2(Bucket=endpoint.bucket_name, EncodingType="url")
        assert theirs["KeyCount"] == len(ODD_KEYS)
        for key in ODD_KEYS:
            await store.delete(key)
            with pytest.raises(NoSuchKey):
                await store.get(key)
            assert await store.head(key) is None
            await store.delete(key)
