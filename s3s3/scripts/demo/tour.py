"""The steps of the demo: copy, kill the listener, recover, verify independently."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial

from ...model import Result
from ...monitoring.formatting import duration_text, size_text
from .commands import Listener, run_bucket, run_check
from .copy_progress import CopyProgress
from .environment import CHANNEL, LEADER_LEASE_S, LEASE_S, Environment, started_environment
from .objects import Sample, first_samples, real_files
from .screen import Bars, Screen
from .verification import Bucket, VerificationResult, run_parallel

OBJECTS = 300
MIN_OBJECTS = 30
#: Fraction of the objects that both destinations have when the listener is killed.
KILL_AT = 0.4

MAX_PROBLEMS_SHOWN = 5


def do_nothing(_environment: Environment, _screen: Screen) -> None:
    """Do nothing."""


def tour(
    screen: Screen,
    *,
    objects: int = OBJECTS,
    before_verification: Callable[[Environment, Screen], None] = do_nothing,
    before_stop: Callable[[Environment, Screen], None] = do_nothing,
) -> bool:
    """Run the demo and leave nothing behind. For the main thread only.

    Args:
        before_verification: called after the comparison, before the copies are read back.
        before_stop: called last, while the servers are running.

    Returns whether every copy is right and `s3s3 bucket` found nothing to copy.

    Raises:
        ServerMissing: a server is not installed.
        ServerFailed: a server or listener ended or is stuck.
    """
    started_s = time.monotonic()
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
            environment = stack.enter_context(started_environment())
        run = _Tour(environment, screen, objects)
        run.show()
        before_verification(environment, screen)
        verified = run.verify(started_s)
        before_stop(environment, screen)
    return verified


class _Tour:
    def __init__(self, environment: Environment, screen: Screen, objects: int) -> None:
        self._environment = environment
        self._screen = screen
        self._files = real_files()
        self._expected = {sample.key: sample for sample in first_samples(self._files, objects)}
        self._few_count = max(objects // 20, 3)
        self._nothing_to_do = False

    def show(self) -> None:
        """Run every step except the last."""
        self._show_servers()
        self._check()
        self._fill_source()
        self._listen_and_kill()
        self._publish_without_listener()
        self._recover()
        self._change_some()
        self._compare()

    def _show_servers(self) -> None:
        environment = self._environment
        rows = [("redis", environment.redis_address, f"Redis {environment.redis_version}, appendonly")]
        rows += [(bucket.name, bucket.address, bucket.kind) for bucket in environment.buckets]
        self._screen.columns(rows)
        self._screen.gap()
        self._screen.file(environment.config)

    def _check(self) -> None:
        self._screen.step(
            "Run `s3s3 check`",
            "It tries every store and Redis, and records which destinations refuse a wrong Content-MD5.",
        )
        with self._screen.busy("s3s3 check"):
            verifying = run_check(self._environment.config)
        for bucket in self._environment.destinations:
            verifier = "the store itself" if bucket.name in verifying else "s3s3"
            self._screen.line(f"{bucket.name}: copies above 256 KiB are verified by {verifier}.")

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
        with self._screen.bars({self._environment.source.name: len(samples)}) as bars:

            def count(sample: Sample, _: None) -> None:
                sizes.append(sample.size_bytes)
                bars(self._environment.source.name, len(sizes), sum(sizes))

            run_parallel(self._environment.source.put, samples, count)
        self._expected.update((sample.key, sample) for sample in samples)

    def _listen_and_kill(self) -> None:
        self._screen.step(
            "Start `s3s3 listen` and publish every key",
            f"A producer sends `PUBLISH {CHANNEL} KEY` to Redis. The listener reads each object once, "
            "writes both copies and verifies them.",
        )
        listener = self._start_listener()
        progress = CopyProgress(self._environment.destinations, self._expected, listener)
        self._environment.publish(self._expected)
        progress.wait_for(listener, self._screen, fraction=KILL_AT)
        listener.process.kill()
        self._screen.step("Kill it in the middle", "SIGKILL: it cannot finish anything or clean up.")
        for bucket in self._environment.destinations:
            present = bucket.count_present(self._expected)
            self._screen.line(f"{bucket.name} has {present.objects} of {len(self._expected)} objects.")
        queue = self._environment.queue()
        self._screen.line(f"The queue in Redis has {queue.keys} keys; {queue.claimed} of them were being copied.")

    def _publish_without_listener(self) -> None:
        self._screen.step(
            f"Put and publish {self._few_count} more while no listener is running",
            "Redis delivers a message only to current subscribers and does not store it.",
        )
        late = [next(self._files) for _ in range(self._few_count)]
        self._put(late)
        delivered = self._environment.publish(sample.key for sample in late)
        self._screen.line(f"{len(late)} keys published; {delivered} of them were delivered.")

    def _recover(self) -> None:
        self._screen.step(
            "Start a new listener",
            f"It continues with the queue, takes over the killed listener's keys when their lease of {LEASE_S} s ends, "
            f"and backfills the undelivered keys, about {LEADER_LEASE_S:.0f} s after the kill.",
        )
        progress = CopyProgress(self._environment.destinations, self._expected)
        progress.wait_for(self._start_listener(), self._screen, print_messages=True)

    def _start_listener(self) -> Listener:
        with self._screen.busy("starting s3s3 listen"):
            return self._environment.start_listener()

    def _change_some(self) -> None:
        self._screen.step(
            f"Change {self._few_count} objects and publish them again",
            "A copy is replaced when the source's content has changed.",
        )
        every = len(self._expected) // self._few_count
        changed = [sample.changed() for sample in list(self._expected.values())[::every]][: self._few_count]
        self._put(changed)
        listener = self._environment.listeners[-1]
        progress = CopyProgress(self._environment.destinations, self._expected, listener)
        self._environment.publish(sample.key for sample in changed)
        progress.wait_for(listener, self._screen)

    def _compare(self) -> None:
        self._screen.step(
            "Run `s3s3 bucket`",
            "It compares the whole source with both destinations and copies what differs. Nothing should.",
        )
        with self._screen.busy("s3s3 bucket"):
            run = run_bucket(self._environment.config)
        for line in run.output.splitlines():
            self._screen.verbatim(line)
        same = {bucket.name: {Result.SAME.value: len(self._expected)} for bucket in self._environment.destinations}
        self._nothing_to_do = run.status == 0 and run.counts == same

    def verify(self, started_s: float) -> bool:
        """Read every copy without s3s3, print the result, and return whether everything is right."""
        self._screen.step(
            "Verify without s3s3",
            "boto3 reads every copy; its bytes and metadata are compared with the original file.",
        )
        found = self._verify_copies()
        self._screen.gap()
        self._screen.columns(
            [_row(bucket, result) for bucket, result in zip(self._environment.destinations, found, strict=True)],
            heading=("destination", "store", "objects", "bytes", "MD5 equal", "metadata equal"),
            numbers=4,
        )
        problems = [] if self._nothing_to_do else ["s3s3 bucket did not find all objects equal."]
        problems += [problem for result in found for problem in result.problems]
        self._print_problems(problems)
        if not problems:
            copies, took = sum(result.md5_equal for result in found), duration_text(time.monotonic() - started_s)
            self._screen.line(f"Nothing lost, nothing stale, nothing damaged: {copies} copies verified, {took} "
                              "after the start.", "bold green")  # fmt: skip
        return not problems

    def _verify_copies(self) -> list[VerificationResult]:
        destinations = self._environment.destinations
        with self._screen.bars({bucket.name: len(self._expected) for bucket in destinations}) as bars:
            return [bucket.verify(self._expected, partial(_show, bars, bucket.name)) for bucket in destinations]

    def _print_problems(self, problems: Sequence[str]) -> None:
        self._screen.gap()
        for problem in problems[:MAX_PROBLEMS_SHOWN]:
            self._screen.line(problem, "red")
        if len(problems) > MAX_PROBLEMS_SHOWN:
            self._screen.line(f"... and {len(problems) - MAX_PROBLEMS_SHOWN} more.", "red")


def _show(bars: Bars, name: str, result: VerificationResult) -> None:
    bars(name, result.objects, result.size_bytes)


def _row(bucket: Bucket, result: VerificationResult) -> Sequence[str]:
    store = bucket.kind.partition(",")[0]
    counts = (result.md5_equal, result.metadata_equal)
    return (bucket.name, store, f"{result.objects}", size_text(result.size_bytes), *map(str, counts))
