"""Follow the progress of a listener: by its metrics, and at the end by listings."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from .commands import Listener
from .objects import Sample
from .process import ServerFailed
from .screen import Screen
from .verification import Bucket, ObjectTotals

POLL_S = 0.1
#: Listings are rare, because each costs the stores more than a dozen copies.
LIST_INTERVAL_S = 3.0
FINAL_LIST_INTERVAL_S = 0.5

STUCK_AFTER_S = 90.0


class CopyProgress:
    """The expected objects at each destination. Create it before the copying starts.

    Args:
        listener: the listener that will copy; None if it is not started yet.
    """

    def __init__(
        self, destinations: Sequence[Bucket], expected: Mapping[str, Sample], listener: Listener | None = None
    ) -> None:
        self._destinations = destinations
        self._expected = expected
        self._copied_before = listener.copied() if listener else {}
        self._initial = self._listed = self._list()
        self._listed_s = time.monotonic()

    def wait_for(
        self, listener: Listener, screen: Screen, *, fraction: float = 1.0, print_messages: bool = False
    ) -> None:
        """Show the progress until every destination has that fraction of the objects.

        Raises:
            ServerFailed: the listener has ended, or nothing was copied for `STUCK_AFTER_S`.
        """
        last, changed_s = self._initial, time.monotonic()
        with screen.bars({bucket.name: len(self._expected) for bucket in self._destinations}) as bars:
            while True:
                for message in listener.new_messages() if print_messages else ():
                    screen.message(message)
                found = self._measure(listener)
                for name, totals in found.items():
                    bars(name, *totals)
                if self._have(self._listed if fraction == 1.0 else found, fraction):
                    return
                if found != last:
                    last, changed_s = found, time.monotonic()
                elif time.monotonic() - changed_s > STUCK_AFTER_S:
                    raise ServerFailed(listener.with_log(f"has copied nothing for {STUCK_AFTER_S:g} s"))
                time.sleep(POLL_S)

    def _measure(self, listener: Listener) -> dict[str, ObjectTotals]:
        """Return the last listing or, if that is more, the first listing plus what was copied since."""
        copied = listener.copied()
        estimated = {name: _more(totals, copied[name], self._copied_before.get(name, ObjectTotals(0, 0)))
                    for name, totals in self._initial.items()}  # fmt: skip
        interval_s = FINAL_LIST_INTERVAL_S if self._have(estimated, 1.0) else LIST_INTERVAL_S
        if time.monotonic() - self._listed_s > interval_s:
            self._listed = self._list()
            self._listed_s = time.monotonic()
        return {name: max(totals, self._listed[name]) for name, totals in estimated.items()}

    def _list(self) -> dict[str, ObjectTotals]:
        return {bucket.name: bucket.count_present(self._expected) for bucket in self._destinations}

    def _have(self, totals: Mapping[str, ObjectTotals], fraction: float) -> bool:
        return all(found.objects >= fraction * len(self._expected) for found in totals.values())


def _more(totals: ObjectTotals, copied: ObjectTotals, copied_before: ObjectTotals) -> ObjectTotals:
    return ObjectTotals(
        totals.objects + copied.objects - copied_before.objects,
        totals.size_bytes + copied.size_bytes - copied_before.size_bytes,
    )
