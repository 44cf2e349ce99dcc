from __future__ import annotations

import pytest

from s3s3.errors import LeaseLost
from s3s3.queue.base import boottime_s
from s3s3.queue.redis_queue import Lease


def test_a_lease_permits_writes_until_it_expires(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 100.0
    monkeypatch.setattr("s3s3.queue.redis_queue.boottime_s", lambda: now_s)
    lease = Lease(until_s=110.0)
    lease()
    now_s = 109.999
    lease()
    now_s = 110.0
    with pytest.raises(LeaseLost):
        lease()


def test_an_extended_lease_permits_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("s3s3.queue.redis_queue.boottime_s", lambda: 105.0)
    lease = Lease(until_s=100.0)
    lease.until_s = 110.0
    lease()


def test_a_lost_lease_permits_no_writes() -> None:
    lease = Lease(boottime_s() + 60)
    lease.lose()
    with pytest.raises(LeaseLost):
        lease()


def test_the_lease_clock_is_monotonic() -> None:
    times_s = [boottime_s() for _ in range(1000)]
    assert times_s == sorted(times_s)
