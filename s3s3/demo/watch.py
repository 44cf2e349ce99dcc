"""Watching a listener copy: its metrics move the bars, and listings of the destinations have the last word."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from s3s3.demo.judge import Bucket, Held
from s3s3.demo.objects import Sample
from s3s3.demo.parts import Listener
from s3s3.demo.process import ServerFailed
from s3s3.demo.screen import Screen

POLL_S = 0.1
LIST_EVERY_S = 3.0
STUCK_AFTER_S = 90.0


class Watch:
    """How much of what is expected is at each destination."""

    def __init__(self, listener: Listener, destinations: Sequence[Bucket], expected: Mapping[str, Sample]) -> None:
        self._listener = listener
        self._destinations = destinations
        self._expected = expected
        self._changed_s = time.monotonic()
        self._last: dict[str, Held] = {}
        self._before: dict[str, Held] = {}
        self.listed_s = 0.0
        self.listed()

    def listed(self) -> dict[str, Held]:
        """Ask the destinations, which costs them much more than `reckoned` costs anybody."""
        held = {bucket.name: bucket.held(self._expected) for bucket in self._destinations}
        copied = self._listener.copied()
        self._before = {name: Held(objects - copied[name].objects, size_bytes - copied[name].size_bytes)
                        for name, (objects, size_bytes) in held.items()}  # fmt: skip
        self.listed_s = time.monotonic()
        return held

    def reckoned(self) -> dict[str, Held]:
        """Reckon it from the last listing and what the listener says that it has copied since.

        Raises:
            ServerFailed: the listener has ended, or nothing has changed for `STUCK_AFTER_S`.
        """
        copied = self._listener.copied()
        there = {name: Held(objects + copied[name].objects, size_bytes + copied[name].size_bytes)
                 for name, (objects, size_bytes) in self._before.items()}  # fmt: skip
        if there != self._last:
            self._last, self._changed_s = there, time.monotonic()
        elif time.monotonic() - self._changed_s > STUCK_AFTER_S:
            raise ServerFailed(self._listener.obituary(f"has copied nothing for {STUCK_AFTER_S:g} s"))
        return there


def watch(
    screen: Screen,
    listener: Listener,
    destinations: Sequence[Bucket],
    expected: Mapping[str, Sample],
    *,
    enough: float = 1.0,
    tell_messages: bool = False,
) -> None:
    """Show the copying until this part of what is expected is at every destination."""
    wanted = enough * len(expected)
    with screen.bars({bucket.name: len(expected) for bucket in destinations}) as bars:
        watched = Watch(listener, destinations, expected)
        while True:
            for message in listener.new_messages() if tell_messages else ():
                screen.line(f"log: {message}", "dim")
            held = watched.reckoned()
            if enough == 1.0 and (_all_hold(held, wanted) or time.monotonic() - watched.listed_s > LIST_EVERY_S):
                held = watched.listed()
            for name, there in held.items():
                bars(name, *there)
            if _all_hold(held, wanted):
                return
            time.sleep(POLL_S)


def _all_hold(held: Mapping[str, Held], wanted: float) -> bool:
    return all(there.objects >= wanted for there in held.values())
