"""Verify copies with boto3, independent of s3s3."""

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

MAX_PARALLEL_REQUESTS = 8

Item = TypeVar("Item")
Found = TypeVar("Found")


class ObjectTotals(NamedTuple):
    """The number and bytes of the expected objects that a bucket has."""

    objects: int
    size_bytes: int


class Copy(NamedTuple):
    """An object as it was read back."""

    size_bytes: int
    md5: str
    headers: dict[str, Any]


@dataclass
class VerificationResult:
    """The result of reading every object of a bucket. `problems` has one line each."""

    objects: int = 0
    size_bytes: int = 0
    md5_equal: int = 0
    metadata_equal: int = 0
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Bucket:
    """A bucket of a store. Each method raises `ServerFailed` if the store does not answer or refuses.

    Attributes:
        kind: the kind of store, for messages.
    """

    endpoint: Endpoint
    client: S3Client
    kind: str

    @property
    def name(self) -> str:
        """The name of its table in the configuration."""
        return self.endpoint.name

    @property
    def address(self) -> str:
        return f"{self.endpoint.host}:{self.endpoint.port}"

    def create(self) -> None:
        """Create the bucket."""
        with self._translate_errors():
            self.client.create_bucket(Bucket=self.endpoint.bucket_name)

    def put(self, sample: Sample) -> None:
        """Put an object, as a producer would."""
        with self._translate_errors():
            self.client.put_object(
                Bucket=self.endpoint.bucket_name,
                Key=sample.key,
                Body=sample.body,
                ContentType=sample.content_type,
                CacheControl=sample.cache_control,
                Metadata=dict(sample.metadata),
            )

    def count_present(self, expected: Mapping[str, Sample]) -> ObjectTotals:
        """Return the expected objects in a listing; an object with a wrong ETag does not count."""
        etags = self._etags()
        sizes = [sample.size_bytes for key, sample in expected.items() if etags.get(key) == sample.md5]
        return ObjectTotals(len(sizes), sum(sizes))

    def _etags(self) -> dict[str, str]:
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.endpoint.bucket_name)
        with self._translate_errors():
            return {entry["Key"]: entry["ETag"].strip('"') for page in pages for entry in page.get("Contents", [])}

    def verify(
        self, expected: Mapping[str, Sample], on_progress: Callable[[VerificationResult], None] = lambda result: None
    ) -> VerificationResult:
        """Read every object and compare it with the original; `on_progress` is called after each."""
        result = VerificationResult()
        found = self._etags().keys()
        result.problems += [f"{self.name}: {key!r} is missing" for key in expected.keys() - found]
        result.problems += [f"{self.name}: {key!r} should not be there" for key in found - expected.keys()]

        def compare(key: str, copy: Copy) -> None:
            _compare(result, expected[key], copy, f"{self.name}: {key!r}")
            on_progress(result)

        run_parallel(self._read, found & expected.keys(), compare)
        return result

    def _read(self, key: str) -> Copy:
        with self._translate_errors():
            response = self.client.get_object(Bucket=self.endpoint.bucket_name, Key=key)
            body = response["Body"].read()
        headers = {
            "Content-Type": response.get("ContentType"),
            "Cache-Control": response.get("CacheControl"),
            # rclone capitalises the names; header names are case-insensitive (RFC 9110, section 5.1).
            **{name.lower(): text for name, text in response["Metadata"].items()},
        }
        return Copy(len(body), hashlib.md5(body, usedforsecurity=False).hexdigest(), headers)

    @contextmanager
    def _translate_errors(self) -> Iterator[None]:
        try:
            yield
        except (BotoCoreError, ClientError) as error:
            raise ServerFailed(f"{self.name}, {self.kind} at {self.address}: {error}") from error


def _compare(result: VerificationResult, sample: Sample, copy: Copy, name: str) -> None:
    result.objects += 1
    result.size_bytes += copy.size_bytes
    if copy.md5 == sample.md5:
        result.md5_equal += 1
    else:
        result.problems.append(f"{name} has the MD5 {copy.md5}, expected {sample.md5}")
    expected = {"Content-Type": sample.content_type, "Cache-Control": sample.cache_control, **sample.metadata}
    if copy.headers == expected:
        result.metadata_equal += 1
    else:
        result.problems.append(f"{name} has {copy.headers}, expected {expected}")


def run_parallel(work: Callable[[Item], Found], items: Iterable[Item], on_done: Callable[[Item, Found], None]) -> None:
    """Run `work` for all items in threads; call `on_done` in this thread for each result."""
    pool = ThreadPoolExecutor(MAX_PARALLEL_REQUESTS)
    try:
        futures = {pool.submit(work, item): item for item in items}
        for future in as_completed(futures):
            on_done(futures[future], future.result())
    finally:
        pool.shutdown(cancel_futures=True)
