"""A gateway or captive portal answers 200 in the place of a store: nothing is copied, deleted or overwritten by it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import redis

from s3s3.errors import StoreError
from s3s3.mirror.cache.directory import CacheDirectory
from s3s3.mirror.cache.downloads import Downloads
from s3s3.mirror.cache.eviction import DiskSpace
from s3s3.monitoring.metrics import Metrics
from s3s3.reconcile import executor
from s3s3.s3 import Store
from s3s3.scripts import bucket, check
from s3s3.scripts.demo.swift_server import SwiftServer
from tests.faults.kinds import Fault, Respond, anything, getting
from tests.faults.lies import EMPTY_PAGE, PAGE, PAGE_IN_CHUNKS, PAGE_WITH_ETAG
from tests.faults.messages import Message
from tests.faults.proxy import Proxy
from tests.integration.commands import Listener, endpoint_table, eventually, report_lines
from tests.integration.objects import MIB
from tests.scripts.command import Done, run
from tests.waiting import until

pytestmark = pytest.mark.real

NOT_S3 = "this is not a response of S3: check host and port in"
PAGES = pytest.mark.parametrize(
    "page", [PAGE, PAGE_WITH_ETAG, PAGE_IN_CHUNKS, EMPTY_PAGE], ids=["page", "etag", "chunks", "empty"]
)


def writing(message: Message) -> bool:
    return message.method in ("PUT", "POST", "DELETE")


class Place:
    """A source and two destinations in Swift; the source and the first destination are behind proxies."""

    def __init__(
        self, swift: SwiftServer, new_bucket: Callable[..., str], redis_url: str, folder: Path, stack: ExitStack
    ) -> None:
        self.source_proxy, self.proxy = stack.enter_context(Proxy(swift.port)), stack.enter_context(Proxy(swift.port))
        self.source = swift.endpoint(new_bucket(swift))
        self.destination = swift.endpoint(new_bucket(swift, 1), "destination", account=1)
        self.healthy = swift.endpoint(new_bucket(swift, 1), "destination-healthy", account=1)
        self.source_client, self.client = swift.boto3_client(), swift.boto3_client(1)
        self.redis_url = redis_url
        self.report = folder / "report.jsonl"
        self.config = folder / "s3s3.toml"
        tables = [endpoint_table(self.source_proxy.through(self.source))]
        for endpoint in (self.proxy.through(self.destination), self.healthy):
            tables.append(f"{endpoint_table(endpoint)}delete = true\nmax_delete = 1\n")
        self.config.write_text("\n".join([*tables, f'[pubsub]\nurl = "{redis_url}"\n[http]\nbind = ""\n']))
        self.config.chmod(0o600)

    def put(self, key: str, content: bytes) -> None:
        self.source_client.put_object(Bucket=self.source.bucket_name, Key=key, Body=content)

    def put_copies(self, key: str, content: bytes) -> None:
        for endpoint in (self.destination, self.healthy):
            self.client.put_object(Bucket=endpoint.bucket_name, Key=key, Body=content)

    def copies(self, key: str) -> list[bytes | None]:
        found: list[bytes | None] = []
        for endpoint in (self.destination, self.healthy):
            try:
                found.append(self.client.get_object(Bucket=endpoint.bucket_name, Key=key)["Body"].read())
            except self.client.exceptions.NoSuchKey:
                found.append(None)
        return found

    def publish(self, *keys: str) -> None:
        with redis.Redis.from_url(self.redis_url) as client:
            for key in keys:
                client.publish("backup", key)

    def compare(self, *arguments: str) -> tuple[Done, dict[tuple[str, str], str], bool]:
        """Run `s3s3 bucket`; return its result, the outcomes by destination and key, and whether they are proven."""
        done = run(bucket.main, "--config", self.config, "--without-redis", "--report", self.report, *arguments)
        assert self.report.exists(), done
        lines, summary = report_lines(self.report)
        return done, {(line["destination"], line["key"]): line["outcome"] for line in lines}, summary["proven"]


def portal(page: bytes, of: Callable[[Message], bool] = anything) -> Fault:
    return Respond(page, of=of)


@pytest.fixture(autouse=True)
def short_outages(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run waits for a store that is down; here no longer than for its first probe."""
    monkeypatch.setattr(executor, "MAX_OUTAGE_S", 0.5)


@pytest.fixture
def place(swift: SwiftServer, new_bucket: Callable[..., str], redis_url: str, tmp_path: Path) -> Iterator[Place]:
    with ExitStack() as stack:
        yield Place(swift, new_bucket, redis_url, tmp_path, stack)


@PAGES
def test_check_reports_that_the_host_is_not_an_s3_store(place: Place, page: bytes) -> None:
    with place.proxy.injecting(portal(page)):
        done = run(check.main, "--config", place.config)

    assert done.status == 1
    assert f"{NOT_S3} [destination]" in " ".join(done.out.split())


@PAGES
def test_a_run_fails_and_the_healthy_destination_gets_its_copies(place: Place, page: bytes) -> None:
    place.put("key", b"content")

    with place.proxy.injecting(portal(page)):
        done, outcomes, is_proven = place.compare()

    assert (done.status, is_proven) == (3, False)
    assert outcomes == {("destination-healthy", "key"): "copied"}
    assert NOT_S3 in " ".join(done.out.split())
    assert place.copies("key") == [None, b"content"]


@PAGES
def test_writes_that_a_gateway_swallows_are_reported_as_failed(place: Place, page: bytes) -> None:
    place.put("new", b"content")
    place.put_copies("deleted at the source", b"old")

    with place.proxy.injecting(portal(page, writing)):
        done, outcomes, is_proven = place.compare()

    assert (done.status, is_proven) == (1, False)
    assert outcomes == {
        ("destination", "new"): "failed",
        ("destination", "deleted at the source"): "failed",
        ("destination-healthy", "new"): "copied",
        ("destination-healthy", "deleted at the source"): "deleted",
    }
    assert place.compare()[1:] == (
        {
            ("destination", "new"): "copied",
            ("destination", "deleted at the source"): "deleted",
            ("destination-healthy", "new"): "same",
        },
        True,
    )


@PAGES
def test_an_upload_whose_last_request_a_gateway_swallows_is_not_the_old_object(place: Place, page: bytes) -> None:
    place.config.write_text(
        place.config.read_text().replace("delete = true", 'multipart = true\nmultipart_threshold = "5 MiB"', 1)
    )
    place.put("key", b"n" * 6 * MIB)
    place.put_copies("key", b"o" * 6 * MIB)

    with place.proxy.injecting(
        portal(page, lambda message: message.method == "POST" and "uploadId=" in message.target)
    ):
        done, outcomes, is_proven = place.compare()

    assert (done.status, is_proven, outcomes["destination", "key"]) == (1, False, "failed")
    assert place.copies("key") == [b"o" * 6 * MIB, b"n" * 6 * MIB]
    assert place.compare()[0].status == 0
    assert place.copies("key")[0] == b"n" * 6 * MIB


@PAGES
@pytest.mark.parametrize("of", [getting, anything], ids=["gets", "all"])
def test_a_page_in_the_place_of_the_source_overwrites_no_copy(
    place: Place, page: bytes, of: Callable[[Message], bool]
) -> None:
    place.put("key", b"newer")
    place.put_copies("key", b"older")

    with place.source_proxy.injecting(portal(page, of)):
        done = run(bucket.main, "--config", place.config, "--without-redis", "--force")

    assert done.status in (1, 3)
    assert NOT_S3 in " ".join(done.out.split()) + done.err or of is getting
    assert place.copies("key") == [b"older", b"older"]


def test_notified_keys_wait_while_a_portal_answers_for_a_destination(place: Place) -> None:
    place.put("new", b"content")
    place.put_copies("gone", b"old")

    with Listener(place.config):
        with place.proxy.injecting(portal(PAGE)):
            place.publish("new", "gone")
            eventually(lambda: (place.copies("new")[1], place.copies("gone")[1]) == (b"content", None), "healthy ones")
            eventually(lambda: place.proxy.requests["PUT"] and place.proxy.requests["DELETE"], "attempts at the portal")
            assert (place.copies("new")[0], place.copies("gone")[0]) == (None, b"old")
        eventually(
            lambda: (place.copies("new")[0], place.copies("gone")[0]) == (b"content", None), "copies after the portal"
        )


@pytest.mark.long  # the same evidence as in a run of `bucket`
def test_notified_keys_wait_while_a_portal_answers_for_the_source(place: Place) -> None:
    place.put("key", b"new")
    place.put_copies("key", b"old")

    with Listener(place.config):
        with place.source_proxy.injecting(portal(PAGE_WITH_ETAG)):
            place.publish("key")
            eventually(lambda: place.source_proxy.requests["HEAD"], "an attempt at the portal")
            assert place.copies("key") == [b"old", b"old"]
        eventually(lambda: place.copies("key") == [b"new", b"new"], "copies after the portal")


@PAGES
async def test_the_cache_keeps_no_page_in_the_place_of_an_object(place: Place, page: bytes, tmp_path: Path) -> None:
    place.put("key", b"content")
    directory, source = CacheDirectory(tmp_path, "bucket"), place.source_proxy.through(place.source)
    directory.create()
    async with Store(source) as store:
        downloads = Downloads(store, directory, DiskSpace(directory, 1, 0.9), Metrics(), "cache")
        with place.source_proxy.injecting(portal(page)):
            assert (download := downloads.start("key", "")) is not None
            await until(lambda: not downloads.running)
        assert isinstance(download.error, StoreError)
        assert not download.is_verified
        assert directory.open("key") is None

        assert (download := downloads.start("key", "")) is not None
        await until(lambda: not downloads.running)
        assert download.error is None
