"""Server-side copies of real stores."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from s3s3.config import WorkerSettings
from s3s3.model import Endpoint, Job, Lane, Outcome, Proof, Result, Route
from s3s3.monitoring.metrics import Metrics
from s3s3.s3 import RECORDED_ETAG, Store
from s3s3.scripts.demo.servers import StoreServer
from s3s3.transfer.route_stores import RouteStores, opened
from tests.contents import random_bytes
from tests.integration.objects import MIB, ODD_KEYS, Thing, differences, put
from tests.integration.test_real_copies import Buckets

pytestmark = pytest.mark.real
NewBucket = Callable[..., str]


@pytest.fixture(params=["swift", "ceph"])
def server(request: pytest.FixtureRequest) -> StoreServer:
    server: StoreServer = request.getfixturevalue(request.param)
    return server


@pytest.fixture
def contents_through_here(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The keys of which any content came through s3s3."""
    seen: list[str] = []
    fetch, read = Store.fetch, Store.get

    async def noted_fetch(store: Store, key: str, *arguments: Any) -> Any:
        seen.append(key)
        return await fetch(store, key, *arguments)

    async def noted_get(store: Store, key: str) -> Any:
        seen.append(key)
        return await read(store, key)

    monkeypatch.setattr(Store, "fetch", noted_fetch)
    monkeypatch.setattr(Store, "get", noted_get)
    return seen


@asynccontextmanager
async def between(source: Endpoint, there: Endpoint) -> AsyncIterator[RouteStores]:
    async with AsyncExitStack() as stack:
        route = Route("default", source, (there,))
        settings = WorkerSettings(32, 8, 60.0, os.curdir, 10**9)  # type: ignore[arg-type]
        yield await stack.enter_async_context(opened(route, settings, Metrics()))


async def copy(stores: RouteStores, key: str, *, look: bool = False) -> Outcome:
    job = Job(key, ("destination",), Lane.FRESH, "1", "t", not look, {}, 0)
    (outcome,) = await stores.copier.copy_job(job, job.destinations, lambda: None)
    return outcome


@pytest.mark.parametrize("version", ["s3", pytest.param("s3v4", marks=pytest.mark.long)])
async def test_keys_of_every_kind_and_their_metadata_are_copied_by_the_store(
    server: StoreServer, new_bucket: NewBucket, contents_through_here: list[str], version: str
) -> None:
    headers = {"ContentType": "image/fits", "ContentEncoding": "gzip", "CacheControl": "max-age=60",
               "Metadata": {"camera-name": "LSST cam"}}  # fmt: skip
    wanted = [Thing(key, 100 + number, number, headers) for number, key in enumerate(ODD_KEYS)]
    wanted.append(Thing("large", 17 * MIB, 99, headers))
    source = server.endpoint(new_bucket(server), signature_version=version)
    there = server.endpoint(new_bucket(server), "destination", signature_version=version)
    put(server.boto3_client(), source.bucket_name, wanted)

    async with between(source, there) as stores:
        outcomes = [await copy(stores, thing.key) for thing in wanted]
        again = await copy(stores, "large", look=True)

    assert {outcome.result for outcome in outcomes} == {Result.COPIED}, [o.reason for o in outcomes if o.error]
    assert all(outcome.source_md5 == outcome.destination_md5 is not None for outcome in outcomes)
    assert differences(server.boto3_client(), there.bucket_name, wanted) == []
    assert again.proof is Proof.ETAG
    assert contents_through_here == []


async def test_an_object_of_parts_keeps_its_etag_or_goes_the_ordinary_road(
    server: StoreServer, new_bucket: NewBucket
) -> None:
    buckets = Buckets(server, new_bucket, destinations=1)
    body = random_bytes(6 * MIB)
    buckets.write_in_parts("parts", body)
    (there,) = buckets.destinations

    async with between(buckets.source, dataclasses.replace(there, name="destination")) as stores:
        copied = await copy(stores, "parts")
        same = await copy(stores, "parts", look=True)

    assert (copied.result, same.result) == (Result.COPIED, Result.SAME)
    assert buckets.read(there, "parts") == body


async def test_a_record_of_an_earlier_copy_is_left_out(server: StoreServer, new_bucket: NewBucket) -> None:
    source, there = server.endpoint(new_bucket(server)), server.endpoint(new_bucket(server), "destination")
    client = server.boto3_client()
    recorded = {RECORDED_ETAG.removeprefix("x-amz-meta-"): "older", "kept": "yes"}
    client.put_object(Bucket=source.bucket_name, Key="k", Body=b"x", ContentType="image/fits", Metadata=recorded)

    async with between(source, there) as stores:
        assert (await copy(stores, "k")).result is Result.COPIED

    about = client.head_object(Bucket=there.bucket_name, Key="k")
    assert (about["ContentType"], about["Metadata"]) == ("image/fits", {"kept": "yes"})


async def test_another_account_s_bucket_and_a_setting_mean_the_ordinary_road(
    server: StoreServer, new_bucket: NewBucket, contents_through_here: list[str]
) -> None:
    source = server.endpoint(new_bucket(server))
    server.boto3_client().put_object(Bucket=source.bucket_name, Key="k", Body=b"x")
    for there in (
        server.endpoint(new_bucket(server, 1), "destination", account=1),
        server.endpoint(new_bucket(server), "destination", server_side_copy=False),
    ):
        async with between(source, there) as stores:
            assert (await copy(stores, "k")).result is Result.COPIED
    assert contents_through_here == ["k", "k"]


async def test_an_object_rewritten_while_the_store_copies_arrives_as_it_is_then(
    server: StoreServer, new_bucket: NewBucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, there = server.endpoint(new_bucket(server)), server.endpoint(new_bucket(server), "destination")
    client = server.boto3_client()
    client.put_object(Bucket=source.bucket_name, Key="k", Body=b"old")
    copy_within = Store.copy

    async def rewritten(store: Store, *arguments: Any, **named: Any) -> Any:
        client.put_object(Bucket=source.bucket_name, Key="k", Body=b"new one")
        return await copy_within(store, *arguments, **named)

    monkeypatch.setattr(Store, "copy", rewritten)
    async with between(source, there) as stores:
        assert (await copy(stores, "k")).result is Result.COPIED
    assert client.get_object(Bucket=there.bucket_name, Key="k")["Body"].read() == b"new one"
