"""Keys that cannot succeed become dead letters with a clear reason, delay no other key, and can be retried."""

from __future__ import annotations

import itertools
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from s3s3.model import SINGLE_PUT_LIMIT_BYTES
from s3s3.scripts.demo.redis_server import RedisServer
from s3s3.scripts.demo.servers import StoreServer
from tests.faults.duration import amount
from tests.faults.fleet import Bucket, Fleet, one_listener
from tests.faults.kinds import Respond
from tests.faults.messages import Message
from tests.faults.results import report
from tests.integration.commands import command, eventually

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

ELSEWHERE = b"HTTP/1.1 301 Moved Permanently\r\nlocation: http://127.0.0.1:1/elsewhere\r\ncontent-length: 0\r\n\r\n"
HUGE = (
    b'HTTP/1.1 200 OK\r\netag: "%b"\r\nlast-modified: Sat, 21 Nov 2026 06:00:00 GMT\r\ncontent-length: %d\r\n\r\n'
    % (b"0" * 32, SINGLE_PUT_LIMIT_BYTES + 1)
)
BROKEN = b"HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\n\r\n"
MAX_ATTEMPTS = 2
GONE_PER_S = 60
"""Below what a listener and a store on two cores can do, at a GET, a HEAD and a LIST each."""


def about(key: str) -> Callable[[Message], bool]:
    return lambda message: key in message.target


@pytest.fixture
def fleet(tmp_path: Path, own_redis: RedisServer, gateway: StoreServer) -> Iterator[Fleet]:
    with Fleet(
        tmp_path,
        own_redis.url,
        Bucket.new(gateway),
        {name: Bucket.new(gateway) for name in ("dest-one", "dest-two")},
        size=1,
        worker={"lease_s": 2, "max_attempts": MAX_ATTEMPTS},
        pubsub={"backfill": False},
        direct=["dest-two"],
    ) as fleet:
        yield fleet


@pytest.fixture
def fleet_without_proxies(tmp_path: Path, own_redis: RedisServer, gateway: StoreServer) -> Iterator[Fleet]:
    """They would cost the rate more than the network does."""
    destinations = ("dest-one", "dest-two")
    with one_listener(tmp_path, own_redis.url, gateway, destinations, direct=("source", *destinations)) as fleet:
        yield fleet


def copied_everywhere(fleet: Fleet, key: str) -> bool:
    return all(bucket.content(key) == key.encode() for bucket in fleet.destinations.values())


def test_a_key_that_cannot_succeed_becomes_a_dead_letter_with_a_reason_and_can_be_retried(fleet: Fleet) -> None:
    for key in ("elsewhere", "huge", "broken", "good"):
        fleet.source.put(key, key.encode())
    fleet.to_source.inject(Respond(ELSEWHERE, of=about("elsewhere")), Respond(HUGE, of=about("huge")))
    fleet.proxies["dest-one"].inject(Respond(BROKEN, of=about("broken")))
    fleet.publish("elsewhere", "huge", "broken", "good")
    fleet.arrives("good", b"good", 20)
    with good_all_the_time(fleet):  # the evidence that these objects fail, and not their stores
        eventually(lambda: all_dead(fleet), "all of them are given up", 120, every_s=0.5)
    fleet.settle_published()
    one, two = (fleet.dead_letters(name) for name in fleet.destinations)
    assert (sorted(one), sorted(two)) == (["broken", "elsewhere", "huge"], ["elsewhere", "huge"])
    for letters in (one, two):
        assert "the store redirects to http://127.0.0.1:1/elsewhere" in letters["elsewhere"].reason
        assert "exceed the limit of a single PUT (5 GiB)" in letters["huge"].reason
        assert "multipart" in letters["huge"].reason
    assert f"after {MAX_ATTEMPTS} attempts" in one["broken"].reason
    assert "500" in one["broken"].reason

    fleet.to_source.inject()
    fleet.proxies["dest-one"].inject()
    subprocess.run(command("jobs", "retry", "--all", "--config", fleet.config), check=True, capture_output=True)
    fleet.settle()
    assert all(copied_everywhere(fleet, key) for key in ("elsewhere", "huge", "broken"))
    assert not any(fleet.dead_letters(name) for name in fleet.destinations)


def all_dead(fleet: Fleet) -> bool:
    return [len(fleet.dead_letters(name)) for name in fleet.destinations] == [3, 2]


@contextmanager
def repeating(publish: Callable[[], object], every_s: float) -> Iterator[None]:
    """Publish something in a thread, again and again."""
    ended = threading.Event()

    def run() -> None:
        while not ended.wait(every_s):
            publish()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def good_all_the_time(fleet: Fleet) -> AbstractContextManager[None]:
    """Publish a good key now and then."""
    return repeating(lambda: fleet.publish("good"), 0.5)


def test_notifications_of_missing_keys_end_as_source_missing_and_do_not_block_others(
    fleet_without_proxies: Fleet,
) -> None:
    fleet = fleet_without_proxies
    good = amount(20, per_minute=20, largest=1000)
    gone = 100 * good
    for number in range(good):
        fleet.source.put(f"good-{number}", f"good-{number}".encode())
    began_s = time.monotonic()
    each = gone // good
    for number in range(good):
        fleet.publish(*(f"gone-{number}-{other}" for other in range(each)), f"good-{number}")
    published_s = time.monotonic() - began_s
    fleet.settle_published(600)
    (member,) = fleet.members
    metrics = member.metrics()
    alone_s = _taken_s(fleet, "alone")
    with gone_all_the_time(fleet):
        beside_s = _taken_s(fleet, "beside")
    report(
        "notifications of keys that do not exist",
        gone=gone,
        good=good,
        published_in_s=round(published_s, 1),
        done_in_s=round(time.monotonic() - began_s, 1),
        # In a burst every notification waits for those before it; what does not exist costs a GET, as it must.
        good_in_the_burst_within_s={f"{share:.0%}": _within_s(metrics, share) for share in (0.5, 0.9, 0.99)},
        good_alone_s=alone_s,
        good_beside_s=beside_s,
        gone_beside_per_s=GONE_PER_S,
    )
    for name in fleet.destinations:
        assert metrics["s3s3_copies_total", f"{name} source_missing"] == gone
        assert metrics["s3s3_copies_total", f"{name} copied"] == good
        assert not fleet.dead_letters(name)
    assert copied_everywhere(fleet, "good-0")
    assert copied_everywhere(fleet, f"good-{good - 1}")


def _within_s(metrics: dict[tuple[str, str], float], share: float) -> str:
    """Return within what time this share of the notifications of good keys became copies (a bound of the histogram)."""
    name = "s3s3_notification_to_copy_seconds_bucket"
    counts = {
        label.split()[1]: count for (metric, label), count in metrics.items() if metric == name and "dest-one" in label
    }
    return next(bound for bound, count in counts.items() if count >= share * counts["+Inf"])


def gone_all_the_time(fleet: Fleet) -> AbstractContextManager[None]:
    """Publish keys that do not exist, as fast as a busy producer."""
    numbers = itertools.count()

    def publish() -> None:
        number = next(numbers)
        fleet.publish(*(f"gone-{number}-{other}" for other in range(GONE_PER_S // 10)))

    return repeating(publish, 0.1)


def _taken_s(fleet: Fleet, what: str) -> float:
    """Return how long a good key takes from the notification to the last destination: the median of a few."""
    taken_s = []
    for number in range(15):
        key = f"{what}-{number}"
        fleet.source.put(key, key.encode())
        began_s = time.monotonic()
        fleet.publish(key)
        fleet.arrives(key, key.encode())
        taken_s.append(time.monotonic() - began_s)
    return round(statistics.median(taken_s), 3)
