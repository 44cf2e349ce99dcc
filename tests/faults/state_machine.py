"""Everything that happens to a fleet, in any order, against a model of what the destinations are to hold."""

from __future__ import annotations

import random
import subprocess
import time
from dataclasses import dataclass, field

import redis
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from s3s3.errors import RedisUnavailable
from s3s3.scripts.demo.redis_server import RedisServer
from tests.faults.fleet import LEASE_S, Bucket, Fleet
from tests.faults.kinds import SLOW_DOWN, Bandwidth, Fault, Flip, Latency, Reset, Respond, Truncated, putting
from tests.faults.messages import Towards
from tests.integration.commands import command, run

KEYS = tuple(f"key {number}" for number in range(6))
SIZES_BYTES = (40, 40, 300_000, 5_000_000)
"""In one packet; in memory; streamed."""

DESTINATION_FAULTS: dict[str, tuple[Fault, ...]] = {
    "down": (Reset(),),
    "half down": (Reset(share=0.5),),
    "late": (Latency(late_s=0.5),),
    "slow": (Bandwidth(bytes_per_s=1_000_000),),
    "damaging": (Flip(of=putting, towards=Towards.SERVER, share=0.5),),
    "cutting short": (Truncated(share=0.5),),
    "busy": (Respond(SLOW_DOWN, share=0.7),),
    "silent about writes": (Respond(SLOW_DOWN, of=putting, reaches=True, share=0.7),),
}

keys = st.sampled_from(KEYS)
numbers = st.integers(0, 2)


@dataclass
class Model:
    """The contents of the source, and what the fleet was notified of.

    Attributes:
        holds: the source's contents.
        ever: every content that each key ever had: nothing else may be at a destination.
        unnotified: changed since the last notification of it: the destinations may still hold an older content.
    """

    holds: dict[str, bytes] = field(default_factory=dict)
    ever: dict[str, set[bytes | None]] = field(default_factory=dict)
    unnotified: set[str] = field(default_factory=set)

    def write(self, key: str, content: bytes) -> None:
        self.holds[key] = content
        self.ever.setdefault(key, {None}).add(content)
        self.unnotified.add(key)

    def delete(self, key: str) -> None:
        self.holds.pop(key, None)
        self.unnotified.discard(key)

    def faults(self, destination: str, bucket: Bucket, *, told_only: bool) -> list[str]:
        """Return what is wrong with a destination when everything has been done."""
        wrong = []
        for key, ever in self.ever.items():
            found = bucket.content(key)
            is_due = key in self.holds and not (told_only and key in self.unnotified)
            if found not in ever:
                wrong.append(f"{destination}: {key!r} holds {_shown(found)}, which never was at the source")
            elif is_due and found != self.holds[key]:
                wrong.append(f"{destination}: {key!r} holds {_shown(found)}, not {_shown(self.holds[key])}")
        return wrong


def _shown(content: bytes | None) -> str:
    return "nothing" if content is None else f"{content[:30]!r} ({len(content)} bytes)"


class Disorder(RuleBasedStateMachine):
    """Drives a fleet that outlives single examples. Subclasses define how notifications reach it."""

    def __init__(self, fleet: Fleet, redis_server: RedisServer) -> None:
        super().__init__()
        self.fleet, self.redis_server = fleet, redis_server
        self.model = Model()
        self.delayed: list[str] = []
        self.bucket_run: subprocess.Popen[bytes] | None = None
        self.prefix = f"{time.monotonic_ns():x}/"

    # -- changes at the source, and their notifications

    @rule(
        key=keys, size_bytes=st.sampled_from(SIZES_BYTES), notified=st.sampled_from(["once", "twice", "later", "never"])
    )
    def write(self, key: str, size_bytes: int, notified: str) -> None:
        key = self.prefix + key
        stamp = f"{key} {time.monotonic_ns()} ".encode()
        content = stamp + random.Random(stamp).randbytes(size_bytes)
        self.fleet.source.put(key, content)
        self.model.write(key, content)
        self._notify(key, notified)

    @rule(key=keys, notified=st.sampled_from(["once", "later", "never"]))
    def delete(self, key: str, notified: str) -> None:
        key = self.prefix + key
        self.fleet.source.client.delete_object(Bucket=self.fleet.source.name, Key=key)
        self.model.delete(key)
        self._notify(key, notified)

    @precondition(lambda self: self.delayed)
    @rule(chance=st.randoms(use_true_random=False))
    def notify_delayed_keys_in_any_order(self, chance: random.Random) -> None:
        delayed, self.delayed = self.delayed, []
        chance.shuffle(delayed)
        for key in delayed:
            self._publish(key)

    def _notify(self, key: str, notified: str) -> None:
        if notified == "later":
            self.delayed.append(key)
        for _ in range({"once": 1, "twice": 2}.get(notified, 0)):
            self._publish(key)

    def _publish(self, key: str) -> None:
        """Notify the fleet; keep what Redis does not accept and send it later, like a persistent producer."""
        try:
            self.tell(key)
        except (RedisUnavailable, redis.RedisError):
            self.delayed.append(key)
        else:
            self.model.unnotified.discard(key)

    def tell(self, key: str) -> None:
        """Notify the fleet of a key; after this returns the notification must not be lost."""
        raise NotImplementedError

    # -- to the fleet

    @rule(number=numbers)
    def kill_a_listener(self, number: int) -> None:
        member = self.fleet.members[number % len(self.fleet.members)]
        if member.running:
            member.kill()

    @rule()
    def start_what_was_killed(self) -> None:
        for member in self.fleet.members:
            member.start()

    @rule(number=numbers, for_s=st.sampled_from([LEASE_S * 1.5, 0.2]))
    def pause_a_listener(self, number: int, for_s: float) -> None:
        """SIGSTOP: it is woken after a while, past its lease or not."""
        member = self.fleet.members[number % len(self.fleet.members)]
        if member.running:
            member.pause()
            time.sleep(for_s)
            member.resume()

    @rule(number=numbers)
    def pause_a_listener_until_further_notice(self, number: int) -> None:
        member = self.fleet.members[number % len(self.fleet.members)]
        if member.running:
            member.pause()

    @rule()
    def wake_what_is_paused(self) -> None:
        for member in self.fleet.members:
            member.resume()

    # -- around it

    @rule(number=numbers, fault=st.sampled_from([*DESTINATION_FAULTS, "none"]))
    def afflict_a_destination(self, number: int, fault: str) -> None:
        proxies = list(self.fleet.proxies.values())
        proxies[number % len(proxies)].inject(*DESTINATION_FAULTS.get(fault, ()))

    @rule(down_s=st.sampled_from([0.0, 0.5]))
    def kill_redis(self, down_s: float) -> None:
        self.redis_server.kill()
        time.sleep(down_s)
        self.redis_server.start()

    @precondition(lambda self: self.bucket_run is None)
    @rule()
    def run_bucket_beside_it(self) -> None:
        self.bucket_run = subprocess.Popen(
            command("bucket", "--config", self.fleet.config), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    @rule(for_s=st.floats(0.05, 1.0))
    def let_time_pass(self, for_s: float) -> None:
        time.sleep(for_s)

    # -- when the dust settles

    def teardown(self) -> None:
        for proxy in self.fleet.proxies.values():
            proxy.inject()
        self.fleet.gather()
        if self.bucket_run is not None:
            self.bucket_run.wait(60)
        while self.delayed:
            self._publish(self.delayed.pop())
        self.wait_until_done()
        assert not self._faults(told_only=True)
        if self.model.unnotified:  # never notified: only `bucket` finds these
            run(
                "bucket", "--config", self.fleet.config, "--wait-for-lock"
            )  # a run that lost its Redis holds the lock for a while
            assert not self._faults(told_only=False)
        for name in self.fleet.destinations:
            assert not self.fleet.dead_letters(name)

    def wait_until_done(self) -> None:
        """Wait until the fleet has nothing pending."""
        raise NotImplementedError

    def _faults(self, *, told_only: bool) -> list[str]:
        return [
            fault
            for name, bucket in self.fleet.destinations.items()
            for fault in self.model.faults(name, bucket, told_only=told_only)
        ]


class AcceptedNotifications(Disorder):
    """Notifications that the queue has taken, in a fleet without gap backfill: no listing replaces a lost one."""

    def tell(self, key: str) -> None:
        self.fleet.put([key])

    def wait_until_done(self) -> None:
        self.fleet.settle()


class PublishedNotifications(Disorder):
    """Notifications on the channel, which Redis does not store. The fleet backfills those without a subscriber."""

    def tell(self, key: str) -> None:
        self.fleet.publish(key)

    def wait_until_done(self) -> None:
        self.fleet.settle_published()
