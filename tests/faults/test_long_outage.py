"""One destination of three fails for much of a long run: the others keep their rate, and memory does not grow."""

from __future__ import annotations

import statistics
import time

import pytest

from tests.faults.duration import duration_s, minutes
from tests.faults.fleet import Fleet
from tests.faults.load import Load, Measured
from tests.faults.results import report
from tests.faults.test_failing_destination import DESTINATION_FAULTS, FAILING, HEALTHY, fleet, object_count
from tests.integration.commands import eventually

__all__ = ["fleet"]

pytestmark = pytest.mark.real

STEADY_PER_S = 40
"""Far less than they can take."""

A_POOL = 2000
KEPT, KEPT_OF_ALL = 0.9, 0.7
"""Of the rates; of all that they can take the machine may need a part for something else meanwhile."""

DRAINED_PER_S = 20
GROWN = 1.1


@pytest.mark.skipif(not minutes(), reason="takes a third of FAULT_MINUTES")
@pytest.mark.parametrize(("fault", "share"), [("hangs", 1 / 6), ("answers late", 1 / 10)])
def test_the_healthy_destinations_keep_their_rate(fleet: Fleet, fault: str, share: float) -> None:
    failing_for_s = duration_s(60, share)
    beside_s = max(failing_for_s / 10, 10.0)
    load = Load(fleet, HEALTHY, A_POOL)
    full = [load.full(beside_s)]
    _drained(fleet)
    rss_bytes = [fleet.members[0].rss_bytes]
    with fleet.proxies[FAILING].injecting(DESTINATION_FAULTS[fault]):
        steady = load.steady(STEADY_PER_S, failing_for_s / 2)
        full.append(load.full(failing_for_s / 2))
        rss_bytes.append(fleet.members[0].rss_bytes)
        missing = len(load.notified) - object_count(fleet.destinations[FAILING], "")
        pending = fleet.counts().pending
    well_s = time.monotonic()
    _drained(fleet, 60 + pending / DRAINED_PER_S)
    drained_s = time.monotonic() - well_s
    full.append(load.full(beside_s))
    _drained(fleet)
    rss_bytes.append(fleet.members[0].rss_bytes)
    sent = {name: round(fleet.copies(name)) for name in HEALTHY}
    report(
        "a failing destination for long",
        fault=fault,
        failing_for_s=failing_for_s,
        steady_per_s={"asked for": STEADY_PER_S, **_figures(steady)},
        full_per_s={when: _figures(part) for when, part in zip(("before", "failing", "after"), full, strict=True)},
        rss_mib=[round(each / 2**20, 1) for each in rss_bytes],
        missing_there_at_the_end=missing,
        pending_at_the_end=pending,
        drained_after_s=round(drained_s, 1),
        notifications=load.notifications,
        sent=sent,
    )
    assert [object_count(bucket, "") for bucket in fleet.destinations.values()] == [len(load.notified)] * 3
    assert max(sent.values()) <= load.notifications, "nothing is sent to a healthy one twice"
    assert statistics.median(steady.rates) > KEPT * STEADY_PER_S, "but for the second in which it begins to fail"
    assert statistics.mean(full[1].rates) > KEPT_OF_ALL * min(statistics.mean(full[n].rates) for n in (0, 2))
    assert max(rss_bytes) < GROWN * rss_bytes[0]


def _drained(fleet: Fleet, timeout_s: float = 60) -> None:
    """Nothing is to be done any more, but for looks, which are due when no old write can be under way."""
    eventually(lambda: not fleet.counts().pending, "the queue drains", timeout_s, every_s=0.5)


def _figures(measured: Measured) -> dict[str, float]:
    mean, slowest = statistics.mean(measured.rates), min(measured.rates)
    return {"mean": round(mean, 1), "slowest": round(slowest, 1), "for_each_cpu_s": round(measured.per_cpu_s)}
