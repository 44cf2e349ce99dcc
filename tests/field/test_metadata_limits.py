"""An object whose metadata is at its destination's limit is copied, with what s3s3 adds left out."""

from __future__ import annotations

import http.client
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from s3s3.s3 import RECORDED_ETAG
from s3s3.scripts.demo.servers import StoreServer
from s3s3.scripts.demo.swift_server import SwiftServer
from tests.contents import random_bytes
from tests.faults.kinds import Respond
from tests.faults.messages import Message
from tests.faults.proxy import Proxy
from tests.integration.commands import report_lines, run, write_config
from tests.real.ceph_server import CephServer

pytestmark = [pytest.mark.real, pytest.mark.timeout(120)]

MIB = 1024**2
CONTENT = random_bytes(5 * MIB + 1)
NINETY = {f"item-{number}": "v" for number in range(90)}
LIMIT = "copied without recording the source's ETag: the destination's metadata limit"

#: What AWS counts (S3 user guide, "Working with object metadata"): 2,042 bytes, so that no record fits.
NEARLY_2_KIB = {"note": "v" * (2042 - len("note"))}
METADATA_TOO_LARGE = (
    b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/xml\r\ncontent-length: 71\r\n\r\n"
    b"<Error><Code>MetadataTooLarge</Code><Message>too large</Message></Error>"[:-1]
    + b"\n"
)


def exceeds_2_kib(message: Message) -> bool:
    """Whether AWS would refuse a request for its metadata."""
    lines = [line.split(b":", 1) for line in message.head.lower().split(b"\r\n") if line.startswith(b"x-amz-meta-")]
    return sum(len(name) - len("x-amz-meta-") + len(value.strip()) for name, value in lines) > 2048


class Place:
    """A multipart object in Ceph, and a destination."""

    def __init__(
        self, ceph: CephServer, there: StoreServer, new_bucket: Callable[..., str], redis_url: str, folder: Path
    ) -> None:
        self.source = ceph.endpoint(new_bucket(ceph))
        self.destination = there.endpoint(new_bucket(there), "destination", server_side_copy=False)
        self.from_client, self.to_client = ceph.boto3_client(), there.boto3_client()
        self.folder, self._redis_url = folder, redis_url

    def upload(self, key: str, metadata: dict[str, str]) -> None:
        client, bucket = self.from_client, self.source.bucket_name
        upload = client.create_multipart_upload(Bucket=bucket, Key=key, Metadata=metadata)["UploadId"]
        sent = [
            client.upload_part(Bucket=bucket, Key=key, UploadId=upload, PartNumber=number, Body=part)["ETag"]
            for number, part in enumerate((CONTENT[: 5 * MIB], CONTENT[5 * MIB :]), 1)
        ]
        parts: Any = {"Parts": [{"PartNumber": number, "ETag": etag} for number, etag in enumerate(sent, 1)]}
        client.complete_multipart_upload(Bucket=bucket, Key=key, UploadId=upload, MultipartUpload=parts)

    def compare(self, *, multipart: bool = False) -> list[tuple[str, str, str | None]]:
        """Run `s3s3 bucket`; return outcome, reason and proof of each object."""
        config = write_config(self.folder, self.source, [self.destination], self._redis_url)
        if multipart:
            limits = '[destination]\nmultipart = true\nmultipart_threshold = "5MiB"\n'
            config.write_text(config.read_text().replace("[destination]\n", limits))
        report = self.folder / "report.jsonl"
        run("bucket", "--config", config, "--report", report)
        lines = sorted(report_lines(report)[0], key=lambda line: str(line["key"]))
        return [(line["outcome"], line["reason"], line["proof"]) for line in lines]

    def metadata(self, key: str) -> dict[str, str]:
        return self.to_client.head_object(Bucket=self.destination.bucket_name, Key=key)["Metadata"]

    def content(self, key: str) -> bytes:
        return self.to_client.get_object(Bucket=self.destination.bucket_name, Key=key)["Body"].read()


@pytest.mark.parametrize("multipart", [False, pytest.param(True, marks=pytest.mark.long)])
def test_ninety_items_of_metadata_arrive_in_swift(
    multipart: bool, ceph: CephServer, swift: SwiftServer, new_bucket: Callable[..., str], redis_url: str,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(http.client, "_MAXHEADERS", 200)
    place = Place(ceph, swift, new_bucket, redis_url, tmp_path)
    place.upload("full", NINETY)

    first = place.compare(multipart=multipart)
    second = place.compare(multipart=multipart)

    assert first == [("copied", f"missing, {LIMIT}", "content" if multipart else "etag")]
    assert second == [("same", "same", "etag" if multipart else "content")]
    assert (place.metadata("full"), place.content("full")) == (NINETY, CONTENT)


def test_2042_bytes_of_metadata_arrive_in_a_store_with_the_limit_of_aws(
    ceph: CephServer, new_bucket: Callable[..., str], redis_url: str, tmp_path: Path
) -> None:
    place = Place(ceph, ceph, new_bucket, redis_url, tmp_path)
    place.upload("full", NEARLY_2_KIB)
    place.upload("room", {"note": "v"})

    with Proxy(ceph.port) as aws, aws.injecting(Respond(of=exceeds_2_kib, answer=METADATA_TOO_LARGE)):
        place.destination = aws.through(place.destination)
        first, second = place.compare(), place.compare()
        puts = aws.requests["PUT"]

    assert first == [("copied", f"missing, {LIMIT}", "etag"), ("copied", "missing", "etag")]
    assert second == [("same", "same", "content"), ("same", "same", "recorded_etag")]
    assert (place.metadata("full"), place.content("full")) == (NEARLY_2_KIB, CONTENT)
    assert set(place.metadata("room")) == {"note", RECORDED_ETAG.removeprefix("x-amz-meta-")}
    assert puts == 3, "one more for the object without room"
