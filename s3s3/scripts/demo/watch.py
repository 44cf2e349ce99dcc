"""Watching a listener copy: its metrics move the bars, and listings of the destinations have the last word."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from .commands import Listener
from .judge import Bucket, Held
from .objects import Sample
from .process import ServerFailed
from .screen import Screen

POLL_S = 0.1
LIST_EVERY_S = 3.0
LIST_AT_THE_END_EVERY_S = 0.5
"""Listings are rare, for each costs the stores more than a dozen copies."""

STUCK_AFTER_S = 90.0


class Watch:
    """How much of what is expected is at each destination. Make it before there is anything to copy.

    Args:
        listener: the one that will copy; None if it is yet to be started.
    """

    def __init__(
        self, destinations: Sequence[Bucket], expected: Mapping[str, Sample], listener: Listener | None = None
    ) -> None:
        self._destinations = destinations
        self._expected = expected
        self._copied_before = listener.copied() if listener else {}
        self._at_first = self._listed = self._list()
        self._listed_s = time.monotonic()

    def until(self, listener: Listener, screen: Screen, *, enough: float = 1.0, tell_messages: bool = False) -> None:
        """Show the copying until this part of what is expected is at every destination.

        Raises:
            ServerFailed: the listener has ended, or nothing has arrived for `STUCK_AFTER_S`.
        """
        last, moved_s = self._at_first, time.monotonic()
        with screen.bars({bucket.name: len(self._expected) for bucket in self._destinations}) as bars:
            while True:
                for message in listener.new_messages() if tell_messages else ():
                    screen.message(message)
                there = self._look(listener)
                for name, held in there.items():
                    bars(name, *held)
                if self._holds(self._listed if enough == 1.0 else there, enough):
                    return
                if there != last:
                    last, moved_s = there, time.monotonic()
                elif time.monotonic() - moved_s > STUCK_AFTER_S:
                    raise ServerFailed(listener.obituary(f"has copied nothing for {STUCK_AFTER_S:g} s"))
                time.sleep(POLL_S)

    def _look(self, listener: Listener) -> dict[str, Held]:
        """Return what the last listing showed or, if that is more, what there was at first and is copied since."""
        copied = listener.copied()
        reckoned = {name: _more(held, copied[name], self._copied_before.get(name, Held(0, 0)))
                    for name, held in self._at_first.items()}  # fmt: skip
        every_s = LIST_AT_THE_END_EVERY_S if self._holds(reckoned, 1.0) else LIST_EVERY_S
        if time.monotonic() - self._listed_s > every_s:
            self._listed = self._list()
            self._listed_s = time.monotonic()
        return {name: max(held, self._listed[name]) for name, held in reckoned.items()}

    def _list(self) -> dict[str, Held]:
        return {bucket.name: bucket.held(self._expected) for bucket in self._destinations}

    def _holds(self, held: Mapping[str, Held], part: float) -> bool:
        return all(there.objects >= part * len(self._expected) for there in held.values())


def _more(held: Held, copied: Held, copied_before: Held) -> Held:
    return Held(
        held.objects + copied.objects - copied_before.objects,
        held.size_bytes + copied.size_bytes - copied_before.size_bytes,
    )
