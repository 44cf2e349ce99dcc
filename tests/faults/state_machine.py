"""Everything that happens to a fleet, in any order, against a model of what the destinations are to hold."""

from __future__ import annotations

import hashlib
import logging
import random
import subprocess
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from functools import wraps
from typing import Any

import redis
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from s3s3.errors import RedisUnavailable
from s3s3.scripts.demo.redis_server import RedisServer
from tests.faults.fleet import LEASE_S, Bucket, Fleet
from tests.faults.kinds import SLOW_DOWN, Bandwidth, Fault, Flip, Latency, Reset, Respond, Truncated, getting, putting
from tests.faults.lies import (
    PAGE_IN_CHUNKS,
    PAGE_WITH_ETAG,
    Drip,
    ForeignEncoding,
    IndexGhost,
    LostFile,
    Maintenance,
    Page,
    TwoLengths,
    WrongLength,
)
from tests.faults.messages import Part, Towards
from tests.integration.commands import command, eventually, run

log = logging.getLogger(__name__)

KEYS = tuple(f"key {number}" for number in range(6))
PASSING_KEYS = KEYS[2:]
"""Those that may be deleted at the source; a DELETE of another one destroys it."""

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
LIES: dict[str, tuple[Fault, ...]] = {
    "a portal": (Page(),),
    "half a portal": (Page(share=0.5),),
    "a portal with an ETag": (Page(PAGE_WITH_ETAG, share=0.7),),
    "a portal in chunks": (Page(PAGE_IN_CHUNKS, share=0.7),),
    "under maintenance": (Maintenance(share=0.7),),
    "speaking in other encodings": (ForeignEncoding(share=0.7),),
    "dripping heads": (Drip(Part.HEAD, every_s=2),),
    "dripping bodies": (Drip(Part.BODY, every_s=2, share=0.5),),
    "contradicting itself in lengths": (TwoLengths(share=0.7),),
    "announcing too little": (WrongLength(by_bytes=-5, share=0.5),),
    "announcing too much": (WrongLength(by_bytes=5, share=0.5),),
    "a bit of everything": (
        Page(share=0.1),
        Maintenance(share=0.2),
        ForeignEncoding(share=0.2),
        TwoLengths(share=0.3),
    ),
}
DESTINATION_FAULTS |= LIES
SOURCE_FAULTS: dict[str, tuple[Fault, ...]] = {
    **LIES,
    "down": (Reset(),),
    "busy": (Respond(SLOW_DOWN, share=0.7),),
    "damaging": (Flip(of=getting, share=0.5),),
    "cutting short": (Truncated(share=0.5),),
    "an index of ghosts": (IndexGhost(),),
    "lost files": (LostFile(),),
    "an index of some ghosts": (IndexGhost(share=0.5),),
}
HEALTHY_WITHIN_S = 60.0
"""What the healthy destination may take while the other one lies: the last probe may be 30 s ago."""

keys = st.sampled_from(KEYS)
numbers = st.integers(0, 2)
destination_faults = st.sampled_from([*DESTINATION_FAULTS, "none"])
source_faults = st.sampled_from([*SOURCE_FAULTS, "none"])


def logged(function: Callable[..., None]) -> Callable[..., None]:
    """Log each step with its arguments: what fails in real time cannot always be repeated."""

    @wraps(function)
    def log_and_run(self: Disorder, **drawn: Any) -> None:
        log.info("%s(%s)", function.__name__, ", ".join(f"{name}={value!r}" for name, value in drawn.items()))
        function(self, **drawn)

    return log_and_run


@dataclass
class Model:
    """The contents of the source, and what the fleet was notified of.

    Attributes:
        holds: the source's contents.
        ever: every content that each key ever had: nothing else may be at a destination.
        unnotified: changed since the last notification of it: the destinations may still hold an older content.
        md5s: of every content.
    """

    holds: dict[str, bytes] = field(default_factory=dict)
    ever: dict[str, set[bytes | None]] = field(default_factory=dict)
    unnotified: set[str] = field(default_factory=set)
    md5s: set[str] = field(default_factory=set)

    def write(self, key: str, content: bytes) -> None:
        self.holds[key] = content
        self.ever.setdefault(key, {None}).add(content)
        self.md5s.add(hashlib.md5(content).hexdigest())
        self.unnotified.add(key)

    def delete(self, key: str) -> None:
        if self.holds.pop(key, None) is not None:
            self.unnotified.add(key)

    def faults(self, destination: str, bucket: Bucket, *, told_only: bool, deletes: bool) -> list[str]:
        """Return what is wrong with a destination when everything has been done."""
        wrong = []
        for key, ever in self.ever.items():
            found, wanted = bucket.content(key), self.holds.get(key)
            is_due = (wanted is not None or deletes) and not (told_only and key in self.unnotified)
            if found not in ever:
                wrong.append(f"{destination}: {key!r} holds {_shown(found)}, which never was at the source")
            elif is_due and found != wanted:
                wrong.append(f"{destination}: {key!r} holds {_shown(found)}, not {_shown(wanted)}")
        return wrong


def _shown(content: bytes | None) -> str:
    return "nothing" if content is None else f"{content[:30]!r} ({len(content)} bytes)"


class Disorder(RuleBasedStateMachine):
    """Drives a fleet that outlives single examples. Subclasses define how notifications reach it.

    Args:
        deleting: the destinations to which deletions are propagated.
    """

    def __init__(self, fleet: Fleet, redis_server: RedisServer, deleting: Collection[str]) -> None:
        super().__init__()
        self.fleet, self.redis_server, self.deleting = fleet, redis_server, deleting
        self.model = Model()
        self.delayed: list[str] = []
        self.bucket_run: subprocess.Popen[bytes] | None = None
        self.prefix = f"{time.monotonic_ns():x}/"

    @initialize(number=numbers, fault=destination_faults, source_fault=source_faults)
    def begin(self, number: int, fault: str, source_fault: str) -> None:
        log.info("begins under %s", self.prefix)
        self.fleet.source.put("always here", b"x")  # `s3s3 bucket` deletes nothing for an empty source
        self.afflict_the_source(fault=source_fault, key=KEYS[0])
        self.afflict_a_destination(number=number, fault=fault, key=KEYS[1])

    # -- at any time

    @invariant()
    def no_harm_is_done(self) -> None:
        """Nothing wrong is seen, nothing is destroyed, the processes live."""
        for name, bucket in self.fleet.destinations.items():
            wrong = {key: etag for key, etag in bucket.etags(self.prefix).items() if etag not in self.model.md5s}
            assert not wrong, f"{name} holds what never was at the source: {wrong}"
        kept = {self.prefix + key for key in KEYS if key not in PASSING_KEYS}
        for name, proxy in self.fleet.proxies.items():
            destroyed = [target for target in proxy.deleted if target.endswith(tuple(kept))]
            assert not destroyed, f"{name}: DELETE of {destroyed}, which the source has had all the time"
        ended = [member.log for member in self.fleet.members if member.is_to_run and not member.running]
        assert not ended, "\n".join(ended)

    # -- changes at the source, and their notifications

    @rule(
        key=keys, size_bytes=st.sampled_from(SIZES_BYTES), notified=st.sampled_from(["once", "twice", "later", "never"])
    )
    @logged
    def write(self, key: str, size_bytes: int, notified: str) -> None:
        key = self.prefix + key
        stamp = f"{key} {time.monotonic_ns()} ".encode()
        content = stamp + random.Random(stamp).randbytes(size_bytes)
        self.fleet.source.put(key, content)
        self.model.write(key, content)
        self._notify(key, notified)

    @rule(key=st.sampled_from(PASSING_KEYS), notified=st.sampled_from(["once", "later", "never"]))
    @logged
    def delete(self, key: str, notified: str) -> None:
        key = self.prefix + key
        self.fleet.source.delete(key)
        self.model.delete(key)
        self._notify(key, notified)

    @precondition(lambda self: self.delayed)
    @rule(chance=st.randoms(use_true_random=False))
    @logged
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
    @logged
    def kill_a_listener(self, number: int) -> None:
        member = self.fleet.members[number % len(self.fleet.members)]
        if member.running:
            member.kill()

    @rule()
    @logged
    def start_what_was_killed(self) -> None:
        for member in self.fleet.members:
            member.start()

    @rule(number=numbers, for_s=st.sampled_from([LEASE_S * 1.5, 0.2]))
    @logged
    def pause_a_listener(self, number: int, for_s: float) -> None:
        """SIGSTOP: it is woken after a while, past its lease or not."""
        member = self.fleet.members[number % len(self.fleet.members)]
        if member.running:
            member.pause()
            time.sleep(for_s)
            member.resume()

    @rule(number=numbers)
    @logged
    def pause_a_listener_until_further_notice(self, number: int) -> None:
        member = self.fleet.members[number % len(self.fleet.members)]
        if member.running:
            member.pause()

    @rule()
    @logged
    def wake_what_is_paused(self) -> None:
        for member in self.fleet.members:
            member.resume()

    # -- around it

    @rule(number=numbers, fault=destination_faults, key=keys)
    @logged
    def afflict_a_destination(self, number: int, fault: str, key: str) -> None:
        proxies = list(self.fleet.proxies.values())
        proxies[number % len(proxies)].inject(*DESTINATION_FAULTS.get(fault, ()))
        self.write(key=key, size_bytes=SIZES_BYTES[0], notified="once")

    @rule(fault=source_faults, key=keys)
    @logged
    def afflict_the_source(self, fault: str, key: str) -> None:
        self.fleet.to_source.inject(*SOURCE_FAULTS.get(fault, ()))
        self.write(key=key, size_bytes=SIZES_BYTES[0], notified="once")

    @rule(down_s=st.sampled_from([0.0, 0.5]))
    @logged
    def kill_redis(self, down_s: float) -> None:
        self.redis_server.kill()
        time.sleep(down_s)
        self.redis_server.start()

    @precondition(lambda self: self.bucket_run is None)
    @rule()
    @logged
    def run_bucket_beside_it(self) -> None:
        self.bucket_run = subprocess.Popen(
            command("bucket", "--config", self.fleet.config), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    @rule(for_s=st.floats(0.05, 1.0))
    @logged
    def let_time_pass(self, for_s: float) -> None:
        time.sleep(for_s)

    # -- when the dust settles

    def teardown(self) -> None:
        self.end_faults()
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
        self.no_harm_is_done()
        for name in self.fleet.destinations:
            assert not self.fleet.dead_letters(name)

    def end_faults(self) -> None:
        for proxy in (self.fleet.to_source, *self.fleet.proxies.values()):
            proxy.inject()

    def wait_until_done(self) -> None:
        """Wait until the fleet has nothing pending."""
        raise NotImplementedError

    def _faults(self, *, told_only: bool) -> list[str]:
        return [
            fault
            for name, bucket in self.fleet.destinations.items()
            for fault in self.model.faults(name, bucket, told_only=told_only, deletes=name in self.deleting)
        ]


class AcceptedNotifications(Disorder):
    """Notifications that the queue has taken, in a fleet without gap backfill: no listing replaces a lost one."""

    @rule(number=numbers, fault=st.sampled_from([*DESTINATION_FAULTS]), key=keys)
    @logged
    def copy_to_one_destination_while_the_other_fails(self, number: int, fault: str, key: str) -> None:
        names = list(self.fleet.proxies)
        failing, healthy = names[number % 2], names[1 - number % 2]
        self.end_faults()
        self.fleet.proxies[failing].inject(*DESTINATION_FAULTS[fault])
        self.fleet.gather()
        self.write(key=key, size_bytes=SIZES_BYTES[0], notified="once")
        key, bucket = self.prefix + key, self.fleet.destinations[healthy]
        wanted = self.model.holds[key]
        eventually(lambda: bucket.content(key) == wanted, f"{key!r} in {healthy}", HEALTHY_WITHIN_S, every_s=0.1)

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
