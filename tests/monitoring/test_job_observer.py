"""Counts and log lines of jobs with outcomes other than copies and failures."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import pytest

from s3s3.errors import DestinationTooSlow, StoreUnavailable
from s3s3.model import Job, Lane, Outcome, Result
from s3s3.monitoring.metrics import JobObserver, Metrics

JOB = Job("key", ("swift", "ceph"), Lane.FRESH, "1-1", "t", True, {}, 1000)


def test_a_slow_destination_is_deferred_and_not_counted_as_failed(caplog: pytest.LogCaptureFixture) -> None:
    metrics, failures = Metrics(), list[Sequence[Outcome]]()
    observer = JobObserver("images", metrics, failures.append)
    slow = DestinationTooSlow("ceph: PUT of 'key': slower than the other destinations")
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
    assert line == "copy deferred: PUT of an object: slower than the other destinations"

    unavailable = StoreUnavailable("connection refused", store="ceph")
    observer.on_job_end(JOB, [Outcome("ceph", "key", Result.FAILED, str(unavailable), error=unavailable)], 0.1)
    assert (metrics.copies["images", "ceph", "failed"], len(failures)) == (1, 1)
