"""A cache before a destination answers HEADs from the past: what it shows as equal may be an older copy."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from s3s3.model import Job, Lane, Outcome, Result, Route
from s3s3.monitoring.metrics import Metrics
from s3s3.scripts.demo.servers import free_ports
from s3s3.transfer.decision import MAX_UNCOMPARED_BYTES
from s3s3.transfer.destination import DATE_ROUNDING_MS
from s3s3.transfer.route_stores import opened
from tests.field.nginx import running_nginx
from tests.field.workplace import SETTINGS
from tests.real.ceph_server import CephServer

pytestmark = pytest.mark.real

KEY = "image.fits"

#: With `proxy_cache_methods GET HEAD`, the default, and a validity of its own; a PUT does not purge.
CACHE = """
    proxy_cache_path {folder}/cache keys_zone=cache:1m;
    server {{
        listen 127.0.0.1:{port};
        client_max_body_size 0;
        location / {{
            proxy_pass http://127.0.0.1:{store_port};
            proxy_set_header Host $http_host;
            proxy_cache cache;
            proxy_cache_convert_head off;
            proxy_cache_key $request_method$request_uri;
            proxy_cache_valid 200 1h;
        }}
    }}
"""


@pytest.fixture
def cache_port(ceph: CephServer, tmp_path: Path) -> Iterator[int]:
    [port] = free_ports(1)
    with running_nginx(tmp_path, CACHE.format(folder=tmp_path, port=port, store_port=ceph.port), port):
        yield port


@pytest.mark.parametrize("deleted", [False, True], ids=["overwritten", "deleted"])
async def test_a_large_object_that_returns_to_an_older_content_is_copied(
    ceph: CephServer, cache_port: int, new_bucket: Callable[..., str], deleted: bool
) -> None:
    client = ceph.boto3_client()
    source = ceph.endpoint(new_bucket(ceph))
    destination = ceph.endpoint(new_bucket(ceph), "destination", port=cache_port, delete=True, server_side_copy=False)
    old, new = b"old" * MAX_UNCOMPARED_BYTES, b"new" * MAX_UNCOMPARED_BYTES

    async def put_and_notify(content: bytes | None) -> Outcome:
        if content is None:
            client.delete_object(Bucket=source.bucket_name, Key=KEY)
        else:
            client.put_object(Bucket=source.bucket_name, Key=KEY, Body=content)
        job = Job(KEY, ("destination",), Lane.FRESH, unconditional=True)
        [outcome] = await stores.copier.copy_job(job, job.destinations, lambda: None)
        return outcome

    async with opened(Route("default", source, (destination,)), SETTINGS, Metrics()) as stores:
        assert (await put_and_notify(old)).result is Result.COPIED
        assert (await put_and_notify(old)).result is Result.SAME  # the cache has this HEAD from now on
        await put_and_notify(None if deleted else new)
        await asyncio.sleep(2 * DATE_ROUNDING_MS / 1000)  # Last-Modified has whole seconds
        await put_and_notify(old)

    copied = ceph.boto3_client().get_object(Bucket=destination.bucket_name, Key=KEY)
    assert copied["Body"].read() == old
