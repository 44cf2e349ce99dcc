"""The steps of the demo: copy, kill the listener, recover, verify independently."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial

from ...model import Result
from ...monitoring.formatting import size_text
from .commands import Listener, run_bucket
from .judge import Bucket, Judgement, run_parallel
from .objects import Sample, first_samples, real_files
from .parts import CHANNEL, LEADER_LEASE_S, LEASE_S, Parts, started_parts
from .screen import Bars, Screen
from .watch import CopyProgress

OBJECTS = 300
MIN_OBJECTS = 30
#: Fraction of the objects that both destinations have when the listener is killed.
KILL_AT = 0.4

MAX_PROBLEMS_SHOWN = 5


def nothing(_parts: Parts, _screen: Screen) -> None:
    """Do nothing."""


def tour(
    screen: Screen,
    *,
    objects: int = OBJECTS,
    before_judging: Callable[[Parts, Screen], None] = nothing,
    at_the_end: Callable[[Parts, Screen], None] = nothing,
) -> bool:
    """Run the demo and leave nothing behind. For the main thread only.

    Args:
        before_judging: called after the comparison, before the copies are read back.
        at_the_end: called last, while the servers are running.

    Returns whether every copy is right and `s3s3 bucket` found nothing to copy.

    Raises:
        ServerMissing: a server is not installed.
        ServerFailed: a server or listener ended or is stuck.
    """
    began_s = time.monotonic()
    screen.title(
        "s3s3 demo: real servers on this machine, no configuration",
        "Everything listens on 127.0.0.1 only and is removed at the end.",
    )
    screen.step(
        "Start the servers",
        "Redis holds the queue. OpenStack Swift is the source and, under another account, a destination. "
        "The second destination is a different store.",
    )
    with ExitStack() as stack:
        with screen.busy("starting Redis, Swift and rclone"):
            parts = stack.enter_context(started_parts())
        run = _Tour(parts, screen, objects)
        run.show()
        before_judging(parts, screen)
        verified = run.judge(began_s)
        at_the_end(parts, screen)
    return verified


class _Tour:
    def __init__(self, parts: Parts, screen: Screen, objects: int) -> None:
        self._parts = parts
        self._screen = screen
        self._files = real_files()
        self._expected = {sample.key: sample for sample in first_samples(self._files, objects)}
        self._few = max(objects // 20, 3)
        self._nothing_to_do = False

    def show(self) -> None:
        """Run every step except the last."""
        self._show_parts()
        self._fill_source()
        self._listen_and_kill()
        self._publish_without_listener()
        self._recover()
        self._change_some()
        self._compare()

    def _show_parts(self) -> None:
        parts = self._parts
        rows = [("redis", parts.redis_address, f"Redis {parts.redis_version}, appendonly")]
        rows += [(bucket.name, bucket.address, bucket.kind) for bucket in parts.buckets]
        self._screen.columns(rows)
        self._screen.gap()
        self._screen.file(parts.config)

    def _fill_source(self) -> None:
        self._screen.step(
            f"Put {len(self._expected)} real files into the source",
            "Sources of Python's standard library and archives of them, with content types and metadata, "
            "and a few names that are difficult for signatures and XML.",
        )
        self._put(list(self._expected.values()))

    def _put(self, samples: Sequence[Sample]) -> None:
        """Put objects into the source, and expect them at the destinations."""
        sizes: list[int] = []
        with self._screen.bars({self._parts.source.name: len(samples)}) as bars:

            def count(sample: Sample, _: None) -> None:
                sizes.append(sample.size_bytes)
                bars(self._parts.source.name, len(sizes), sum(sizes))

            run_parallel(self._parts.source.put, samples, count)
        self._expected.update((sample.key, sample) for sample in samples)

    def _listen_and_kill(self) -> None:
        self._screen.step(
            "Start `s3s3 listen` and publish every key",
            f"A producer sends `PUBLISH {CHANNEL} KEY` to Redis. The listener reads each object once, "
            "writes both copies and verifies them.",
        )
        listener = self._start_listener()
        watch = CopyProgress(self._parts.destinations, self._expected, listener)
        self._parts.publish(self._expected)
        watch.wait_for(listener, self._screen, enough=KILL_AT)
        listener.process.kill()
        self._screen.step("Kill it in the middle", "SIGKILL: it cannot finish anything or clean up.")
        for bucket in self._parts.destinations:
            held = bucket.held(self._expected)
            self._screen.line(f"{bucket.name} has {held.objects} of {len(self._expected)} objects.")
        queue = self._parts.queue()
        self._screen.line(f"The queue in Redis has {queue.keys} keys; {queue.claimed} of them were being copied.")

    def _publish_without_listener(self) -> None:
        self._screen.step(
            f"Put and publish {self._few} more while no listener is running",
            "Redis delivers a message only to current subscribers and does not store it.",
        )
        late = [next(self._files) for _ in range(self._few)]
        self._put(late)
        delivered = self._parts.publish(sample.key for sample in late)
        self._screen.line(f"{len(late)} keys published; {delivered} of them were delivered.")

    def _recover(self) -> None:
        self._screen.step(
            "Start a new listener",
            f"It continues with the queue, takes over the killed listener's keys when their lease of {LEASE_S} s ends, "
            f"and backfills the undelivered keys, about {LEADER_LEASE_S:.0f} s after the kill.",
        )
        watch = CopyProgress(self._parts.destinations, self._expected)
        watch.wait_for(self._start_listener(), self._screen, print_messages=True)

    def _start_listener(self) -> Listener:
        with self._screen.busy("starting s3s3 listen"):
            return self._parts.start_listener()

    def _change_some(self) -> None:
        self._screen.step(
            f"Change {self._few} objects and publish them again",
            "A copy is replaced when the source's content has changed.",
        )
        every = len(self._expected) // self._few
        changed = [sample.changed() for sample in list(self._expected.values())[::every]][: self._few]
        self._put(changed)
        listener = self._parts.listeners[-1]
        watch = CopyProgress(self._parts.destinations, self._expected, listener)
        self._parts.publish(sample.key for sample in changed)
        watch.wait_for(listener, self._screen)

    def _compare(self) -> None:
        self._screen.step(
            "Run `s3s3 bucket`",
            "It compares the whole source with both destinations and copies what differs. Nothing should.",
        )
        with self._screen.busy("s3s3 bucket"):
            run = run_bucket(self._parts.config)
        for line in run.output.splitlines():
            self._screen.verbatim(line)
        same = {bucket.name: {Result.SAME.value: len(self._expected)} for bucket in self._parts.destinations}
        self._nothing_to_do = run.status == 0 and run.counts == same

    def judge(self, began_s: float) -> bool:
        """Read every copy without s3s3, print the result, and return whether everything is right."""
        self._screen.step(
            "Verify without s3s3",
            "boto3 reads every copy; its bytes and metadata are compared with the original file.",
        )
        found = self._judgements()
        self._screen.gap()
        self._screen.columns(
            [_row(bucket, judgement) for bucket, judgement in zip(self._parts.destinations, found, strict=True)],
            heading=("destination", "store", "objects", "bytes", "MD5 equal", "metadata equal"),
            numbers=4,
        )
        problems = [] if self._nothing_to_do else ["s3s3 bucket did not find all objects equal."]
        problems += [problem for judgement in found for problem in judgement.problems]
        self._print_problems(problems)
        if not problems:
            copies, took_s = sum(judgement.md5_equal for judgement in found), time.monotonic() - began_s
            self._screen.line(f"Nothing lost, nothing stale, nothing damaged: {copies} copies verified, {took_s:.0f} s "
                              "after the start.", "bold green")  # fmt: skip
        return not problems

    def _judgements(self) -> list[Judgement]:
        destinations = self._parts.destinations
        with self._screen.bars({bucket.name: len(self._expected) for bucket in destinations}) as bars:
            return [bucket.judge(self._expected, partial(_show, bars, bucket.name)) for bucket in destinations]

    def _print_problems(self, problems: Sequence[str]) -> None:
        self._screen.gap()
        for problem in problems[:MAX_PROBLEMS_SHOWN]:
            self._screen.line(problem, "red")
        if len(problems) > MAX_PROBLEMS_SHOWN:
            self._screen.line(f"... and {len(problems) - MAX_PROBLEMS_SHOWN} more.", "red")


def _show(bars: Bars, name: str, judgement: Judgement) -> None:
    bars(name, judgement.objects, judgement.size_bytes)


def _row(bucket: Bucket, judgement: Judgement) -> Sequence[str]:
    store = bucket.kind.partition(",")[0]
    counts = (judgement.md5_equal, judgement.metadata_equal)
    return (bucket.name, store, f"{judgement.objects}", size_text(judgement.size_bytes), *map(str, counts))
