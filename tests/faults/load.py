"""Work without an end for a fleet, at a steady rate or as much as it can take, and how fast destinations get it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count, cycle, islice
from typing import NamedTuple

from tests.faults.fleet import Fleet

TICK_S = 0.25
SAMPLE_S = 5.0
IN_LANE = 400
"""How many fresh jobs there are at any time where it is as much as the fleet can take."""


class Measured(NamedTuple):
    """What the slowest destination got: objects a second, in each SAMPLE_S, and for each second of CPU of the fleet."""

    rates: list[float]
    per_cpu_s: float


class Load:
    """Objects that are notified while it is measured how fast the slowest of some destinations gets them.

    Attributes:
        notified: the keys.
        notifications: how many keys were put on the queue.
    """

    def __init__(self, fleet: Fleet, measured: Sequence[str], pool_size: int) -> None:
        self._fleet = fleet
        self._measured = measured
        self._writing = ThreadPoolExecutor(2)
        self._numbers = count()
        self.notified: set[str] = set()
        self.notifications = 0
        pool = [f"pool/{number:05}" for number in range(pool_size)]
        self._write(pool)
        self._pool = cycle(pool)

    def steady(self, per_s: float, for_s: float) -> Measured:
        """New objects at a fixed rate per second."""
        due, began_s = 0, time.monotonic()

        def more() -> list[str]:
            nonlocal due
            missing = int((time.monotonic() - began_s) * per_s) - due
            due += missing
            keys = [f"new/{number:06}" for number in islice(self._numbers, missing)]
            self._write(keys)
            return keys

        return self._measured_while(more, for_s)

    def full(self, for_s: float) -> Measured:
        """Objects of the pool, as many as are copied."""
        return self._measured_while(
            lambda: list(islice(self._pool, max(IN_LANE - self._fleet.counts().fresh, 0))), for_s
        )

    def _write(self, keys: Iterable[str]) -> None:
        contents = {key: f"{key} ".encode() * 100 for key in keys}
        list(self._writing.map(lambda item: self._fleet.source.put(*item), contents.items()))

    def _measured_while(self, more: Callable[[], list[str]], for_s: float) -> Measured:
        rates = []
        at_s, copied = time.monotonic(), self._copied()
        end_s, copied_before, cpu_before_s = at_s + for_s, copied, self._cpu_s()
        while (now_s := time.monotonic()) < end_s:
            keys = more()
            self._fleet.put(keys)
            self.notifications += len(keys)
            self.notified.update(keys)
            if now_s - at_s >= SAMPLE_S:
                copied_by_now, now_s = self._copied(), time.monotonic()
                rates.append((copied_by_now - copied) / (now_s - at_s))
                at_s, copied = now_s, copied_by_now
            time.sleep(TICK_S)
        return Measured(rates, (copied - copied_before) / (self._cpu_s() - cpu_before_s))

    def _cpu_s(self) -> float:
        return self._fleet.total("process_cpu_seconds_total")

    def _copied(self) -> float:
        return min(self._fleet.copies(name) for name in self._measured)
