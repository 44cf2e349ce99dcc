"""`s3s3 bucket --metadata` finds differences that listings do not show, and copies none of them twice."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path

import pytest

from s3s3.s3 import Store
from s3s3.scripts.demo.servers import StoreServer
from s3s3.scripts.demo.swift_server import SwiftServer
from tests.faults.fleet import Bucket
from tests.field.test_metadata_only_overwrites import CONTENT, put, version_at
from tests.integration.commands import report_lines, run, write_config
from tests.real.ceph_server import CephServer

pytestmark = [pytest.mark.real, pytest.mark.timeout(120)]

ODD_METADATA = [
    {"ContentType": "text/plain; charset=utf-8", "Metadata": {"under_score": "1", "blanks": "a  b"}},
    {"Metadata": {"empty": "", "quoted": 'a, "b"; c'}, "ContentDisposition": 'attachment; filename="a b"'},
    {"Expires": "Thu, 01 Dec 2033 16:00:00 GMT", "ContentLanguage": "de, en", "ContentEncoding": "gzip"},
    {},
]


#: Values outside ASCII, which boto3 does not send. Swift returns a long one in several lines.
LATIN_1 = b"gr\xfc\xdfe".decode("utf-8", "surrogateescape")
RAW_VALUES = ["gr\xfc\xdf gott", "\u65e5\u672c " * 40 + "end", LATIN_1]


async def put_raw(bucket: Bucket) -> None:
    async with Store(bucket.server.endpoint(bucket.name)) as store:
        for number, value in enumerate(RAW_VALUES):
            about = {"x-amz-meta-raw": value, "content-type": "text/plain"}
            md5 = hashlib.md5(CONTENT).digest()
            await store.put(f"raw {number}", CONTENT, size_bytes=len(CONTENT), md5=md5, headers=about)


class Reconciled:
    """Buckets in Ceph and Swift with the same objects, and `s3s3 bucket` between them."""

    def __init__(self, source: Bucket, destination: Bucket, redis_url: str, folder: Path) -> None:
        # V4: with V2, Ceph refuses names that contain `_`.
        there = destination.server.endpoint(destination.name, "destination", signature_version="s3v4")
        self.config = write_config(folder, source.server.endpoint(source.name), [there], redis_url)
        self.report = folder / "report.jsonl"

    def reasons(self, *options: str, status: int = 0) -> dict[str, str]:
        """Run `s3s3 bucket`; return the reason for each key, with its outcome."""
        run("bucket", "--config", self.config, "--report", self.report, *options, status=status)
        return {line["key"]: f"{line['outcome']} {line['reason']}" for line in report_lines(self.report)[0]}


@pytest.mark.parametrize("together", [(), pytest.param(("--distributed",), marks=pytest.mark.long)])
def test_only_the_option_metadata_finds_it_in_a_listing(
    together: tuple[str, ...], ceph: CephServer, swift: SwiftServer, redis_url: str, tmp_path: Path
) -> None:
    source, destination = Bucket.new(ceph), Bucket.new(swift)
    reconciled = Reconciled(source, destination, redis_url, tmp_path)
    for bucket in (source, destination):
        for key in "ab":
            put(bucket, key, 1)
    put(source, "a", 2)

    assert reconciled.reasons(*together) == {"a": "same same", "b": "same same"}
    found = reconciled.reasons("--metadata", "--dry-run", *together, status=1)
    assert found == {"a": "would_copy metadata", "b": "same same"}
    assert version_at(destination, "a") == "1"
    assert reconciled.reasons("--metadata", *together) == {"a": "copied metadata", "b": "same same"}
    assert version_at(destination, "a") == "2"


@pytest.fixture(params=["ceph to swift", "swift to ceph"])
def way(request: pytest.FixtureRequest, ceph: CephServer, swift: SwiftServer) -> tuple[StoreServer, StoreServer]:
    return (ceph, swift) if request.param == "ceph to swift" else (swift, ceph)


def test_what_a_store_makes_of_metadata_is_copied_at_most_once(
    way: tuple[StoreServer, StoreServer], redis_url: str, tmp_path: Path
) -> None:
    source, destination = (Bucket.new(server) for server in way)
    reconciled = Reconciled(source, destination, redis_url, tmp_path)
    for number, about in enumerate(ODD_METADATA):
        source.client.put_object(Bucket=source.name, Key=str(number), Body=CONTENT, **about)  # type: ignore[arg-type]
    asyncio.run(put_raw(source))

    reconciled.reasons()

    assert set(reconciled.reasons("--metadata").values()) == {"same same"}


@pytest.mark.parametrize(("stored", "copied"), [("aws-chunked", ""), ("gzip,aws-chunked", "gzip")])
def test_the_coding_of_the_upload_is_not_copied_and_no_difference(
    ceph: CephServer, swift: SwiftServer, redis_url: str, tmp_path: Path, stored: str, copied: str
) -> None:
    source, destination = Bucket.new(ceph), Bucket.new(swift)
    reconciled = Reconciled(source, destination, redis_url, tmp_path)
    source.client.put_object(Bucket=source.name, Key="key", Body=CONTENT, ContentEncoding=stored)
    assert stored in source.client.head_object(Bucket=source.name, Key="key")["ContentEncoding"]
    assert reconciled.reasons() == {"key": "copied missing"}
    assert destination.client.head_object(Bucket=destination.name, Key="key").get("ContentEncoding", "") == copied
    assert reconciled.reasons("--metadata") == {"key": "same same"}
