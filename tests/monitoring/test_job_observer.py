"""What is counted and told of jobs whose outcomes are not all copies and failures."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import pytest

from s3s3.errors import DestinationTooSlow, StoreUnavailable
from s3s3.model import Job, Lane, Outcome, Result
from s3s3.monitoring.job_observer import JobObserver
from s3s3.monitoring.metrics import Metrics

JOB = Job("key", ("swift", "ceph"), Lane.FRESH, "1-1", "t", True, {}, 1000)


def test_who_is_left_behind_waits_and_has_not_failed(caplog: pytest.LogCaptureFixture) -> None:
    metrics, failures = Metrics(), list[Sequence[Outcome]]()
    observer = JobObserver("images", metrics, failures.append)
    slow = DestinationTooSlow("ceph: PUT of 'key': it holds up the other destinations, and is tried alone")
    outcomes = [
        Outcome("swift", "key", Result.COPIED),
        Outcome("ceph", "key", Result.FAILED, str(slow), error=slow, indeterminate=True),
    ]
    with caplog.at_level(logging.WARNING):
        observer.on_job_end(JOB, outcomes, 0.1)
    assert metrics.copies["images", "swift", "copied"] == 1
    assert metrics.copies["images", "ceph", "failed"] == 0
    assert metrics.retries["images", "ceph"] == 0
    assert failures == []
    (line,) = caplog.messages
    assert line == f"images: 'key' to ceph waits: {slow}"

    away = StoreUnavailable("away", store="ceph")
    observer.on_job_end(JOB, [Outcome("ceph", "key", Result.FAILED, str(away), error=away)], 0.1)
    assert (metrics.copies["images", "ceph", "failed"], len(failures)) == (1, 1)
