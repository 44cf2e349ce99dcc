"""What goes over the wire: plain PUTs with V2 signatures, as old stores understand them, and nothing else."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from s3s3.scripts.demo.swift_server import SwiftServer
from s3s3.transfer.decision import MAX_UNCOMPARED_BYTES
from tests.integration.commands import Listener, eventually, run, write_config
from tests.integration.objects import MIB, differences, keys_of, put, things
from tests.integration.recorder import Recorder, Request
from tests.integration.test_main_job import publish

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.real

COUNT = 60


@pytest.mark.long
def test_objects_go_as_plain_v2_puts_and_each_costs_one_get_and_one_put(
    swift: SwiftServer, redis_url: str, new_bucket: Callable[..., str], tmp_path: Path
) -> None:
    source_bucket, bucket = new_bucket(swift), new_bucket(swift, account=1)
    wanted = things(COUNT, 20 * MIB)
    put(swift.boto3_client(), source_bucket, wanted)
    # A multipart object: its ETag is not an MD5, so it is spooled and its source's ETag recorded.
    client = swift.boto3_client()
    upload = client.create_multipart_upload(Bucket=source_bucket, Key="in parts")["UploadId"]
    part = client.upload_part(Bucket=source_bucket, Key="in parts", UploadId=upload, PartNumber=1, Body=b"x" * 6 * MIB)
    client.complete_multipart_upload(
        Bucket=source_bucket, Key="in parts", UploadId=upload,
        MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]},
    )  # fmt: skip
    with Recorder(swift.port) as from_source, Recorder(swift.port) as to_destination:
        source = dataclasses.replace(swift.endpoint(source_bucket), port=from_source.port)
        destination = dataclasses.replace(swift.endpoint(bucket, "dest", account=1), port=to_destination.port)
        config = write_config(tmp_path, source, [destination], redis_url)
        with Listener(config):
            publish(redis_url, [thing.key for thing in wanted[: COUNT // 2]])
            eventually(lambda: len(keys_of(swift.boto3_client(1), bucket)) == COUNT // 2, "half of it", every_s=0.5)
        run("bucket", "--config", config)
        assert len(keys_of(swift.boto3_client(1), bucket)) == COUNT + 1
        swift.boto3_client(1).delete_object(Bucket=bucket, Key="in parts")
        assert differences(swift.boto3_client(1), bucket, wanted) == []
    assert_plain_v2_puts(from_source.requests + to_destination.requests)
    large = [thing for thing in wanted[: COUNT // 2] if thing.size_bytes > MAX_UNCOMPARED_BYTES]
    assert_cost(from_source.requests, to_destination.requests, compared=COUNT // 2 + 1 + len(large))


def assert_plain_v2_puts(everything: list[Request]) -> None:
    puts = [request for request in everything if request.method == "PUT"]
    assert len(puts) == COUNT + 1
    for request in puts:
        assert len(request.headers["content-md5"]) == 24
        assert "content-length" in request.headers
        assert request.headers.get("content-encoding", "") in ("", "gzip"), "no aws-chunked"
        assert "?" not in request.target, "no multipart: neither uploadId nor partNumber"
    for request in everything:
        assert request.headers["authorization"].startswith("AWS "), "V2"
        assert not any(name.startswith(("x-amz-checksum", "x-amz-content-sha256", "x-amz-sdk", "x-amz-trailer"))
                       for name in request.headers)  # fmt: skip
        assert {request.method} <= {"GET", "HEAD", "PUT"}


def assert_cost(from_source: list[Request], to_destination: list[Request], *, compared: int) -> None:
    gets = [request for request in from_source if request.method == "GET" and "list-type" not in request.target]
    heads = [request for request in to_destination if request.method == "HEAD"]
    assert len(gets) == COUNT + 1, "each object was read once"
    assert len(heads) == compared, "only large objects and what the comparison brought were looked at before"
    assert not any(request.method == "PUT" for request in from_source)
