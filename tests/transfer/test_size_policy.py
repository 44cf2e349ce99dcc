"""Single PUT or multipart by object size."""

from __future__ import annotations

from dataclasses import replace

import pytest

from s3s3.errors import SpoolTooSmall
from s3s3.model import SINGLE_PUT_LIMIT_BYTES, Endpoint, Result
from s3s3.transfer.budget import CopyBudget
from s3s3.transfer.size_policy import needs_multipart, part_bytes_of
from tests.transfer.scene import Scene


@pytest.mark.parametrize(
    ("size_bytes", "threshold_bytes", "part_bytes"),
    [
        (6 * 1024**3, 5 * 1024**3, 64 * 1024**2),
        (6 * 1024**2, 5 * 1024**2, 5 * 1024**2),
        (10_000 * 64 * 1024**2, 5 * 1024**3, 64 * 1024**2),
        (10_000 * 64 * 1024**2 + 1, 5 * 1024**3, 65 * 1024**2),
        (5 * 1024**4, 5 * 1024**3, 525 * 1024**2),
    ],
)
def test_number_of_parts_stays_within_the_limit(size_bytes: int, threshold_bytes: int, part_bytes: int) -> None:
    endpoint = Endpoint("swift", "b", multipart=True, multipart_threshold_bytes=threshold_bytes)
    assert part_bytes_of(endpoint, size_bytes) == part_bytes
    assert -(-size_bytes // part_bytes) <= 10_000
    assert needs_multipart(endpoint, size_bytes)
    assert not needs_multipart(endpoint, threshold_bytes)
    assert not needs_multipart(replace(endpoint, multipart=False), size_bytes)


async def test_destination_without_multipart_fails_alone_and_needs_no_budget() -> None:
    scene = Scene(b"", size_bytes=SINGLE_PUT_LIMIT_BYTES + 1, destinations=2)
    scene.destination.settings = {"multipart": True}
    scene.budget = CopyBudget(spool_bytes=1)
    with_parts, without = await scene.copy()
    assert isinstance(with_parts.error, SpoolTooSmall) or "spool_bytes" in with_parts.reason
    assert without.result is Result.FAILED
