"""Buckets as boto3 sees them: nothing here asks s3s3, so it can judge what s3s3 did."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from botocore.exceptions import BotoCoreError, ClientError

from ...model import Endpoint
from .objects import Sample
from .process import ServerFailed

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

AT_ONCE = 8

Item = TypeVar("Item")
Found = TypeVar("Found")


class Held(NamedTuple):
    """How much of what is expected a bucket holds."""

    objects: int
    size_bytes: int


class Copy(NamedTuple):
    """One object as it was read back."""

    size_bytes: int
    md5: str
    headers: dict[str, Any]


@dataclass
class Judgement:
    """What reading every object of a bucket has shown. `faults` has one line for each thing that is wrong."""

    objects: int = 0
    size_bytes: int = 0
    md5_equal: int = 0
    metadata_equal: int = 0
    faults: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Bucket:
    """One bucket of a store. Every method raises `ServerFailed` where boto3 gets no good answer.

    Attributes:
        kind: what store it is, for people.
    """

    endpoint: Endpoint
    client: S3Client
    kind: str

    @property
    def name(self) -> str:
        """What the configuration calls it."""
        return self.endpoint.name

    @property
    def address(self) -> str:
        return f"{self.endpoint.host}:{self.endpoint.port}"

    def create(self) -> None:
        """Make the bucket."""
        with self._translated():
            self.client.create_bucket(Bucket=self.endpoint.bucket_name)

    def put(self, sample: Sample) -> None:
        """Put an object there, as a producer would."""
        with self._translated():
            self.client.put_object(
                Bucket=self.endpoint.bucket_name,
                Key=sample.key,
                Body=sample.body,
                ContentType=sample.content_type,
                CacheControl=sample.cache_control,
                Metadata=dict(sample.metadata),
            )

    def held(self, expected: Mapping[str, Sample]) -> Held:
        """Return what a listing shows of the expected objects; one whose ETag is not its MD5 does not count."""
        etags = self._etags()
        sizes = [sample.size_bytes for key, sample in expected.items() if etags.get(key) == sample.md5]
        return Held(len(sizes), sum(sizes))

    def _etags(self) -> dict[str, str]:
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.endpoint.bucket_name)
        with self._translated():
            return {entry["Key"]: entry["ETag"].strip('"') for page in pages for entry in page.get("Contents", [])}

    def judge(
        self, expected: Mapping[str, Sample], seen: Callable[[Judgement], None] = lambda judgement: None
    ) -> Judgement:
        """Read every object there is and compare it with what was put; `seen` hears how far it is."""
        judgement = Judgement()
        found = self._etags().keys()
        judgement.faults += [f"{self.name}: {key!r} is missing" for key in expected.keys() - found]
        judgement.faults += [f"{self.name}: {key!r} should not be there" for key in found - expected.keys()]

        def compare(key: str, copy: Copy) -> None:
            _compare(judgement, expected[key], copy, f"{self.name}: {key!r}")
            seen(judgement)

        at_once(self._read, found & expected.keys(), compare)
        return judgement

    def _read(self, key: str) -> Copy:
        with self._translated():
            answer = self.client.get_object(Bucket=self.endpoint.bucket_name, Key=key)
            body = answer["Body"].read()
        headers = {
            "Content-Type": answer.get("ContentType"),
            "Cache-Control": answer.get("CacheControl"),
            # rclone capitalises the names; HTTP says that they are the same (RFC 9110, section 5.1).
            **{name.lower(): text for name, text in answer["Metadata"].items()},
        }
        return Copy(len(body), hashlib.md5(body, usedforsecurity=False).hexdigest(), headers)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (BotoCoreError, ClientError) as error:
            raise ServerFailed(f"{self.name}, {self.kind} at {self.address}: {error}") from error


def _compare(judgement: Judgement, sample: Sample, copy: Copy, what: str) -> None:
    judgement.objects += 1
    judgement.size_bytes += copy.size_bytes
    if copy.md5 == sample.md5:
        judgement.md5_equal += 1
    else:
        judgement.faults.append(f"{what} has the MD5 {copy.md5}, and what was put has {sample.md5}")
    expected = {"Content-Type": sample.content_type, "Cache-Control": sample.cache_control, **sample.metadata}
    if copy.headers == expected:
        judgement.metadata_equal += 1
    else:
        judgement.faults.append(f"{what} has {copy.headers}, and what was put has {expected}")


def at_once(work: Callable[[Item], Found], items: Iterable[Item], done: Callable[[Item, Found], None]) -> None:
    """Do `work` for all items, some at once in threads, and tell this thread of each that is done."""
    pool = ThreadPoolExecutor(AT_ONCE)
    try:
        futures = {pool.submit(work, item): item for item in items}
        for future in as_completed(futures):
            done(futures[future], future.result())
    finally:
        pool.shutdown(cancel_futures=True)
