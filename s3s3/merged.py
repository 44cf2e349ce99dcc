"""The metrics pages of several processes as one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

OF_ONE_PROCESS: Final = frozenset(
    ("s3s3_running_jobs", "process_resident_memory_bytes", "process_virtual_memory_bytes", "process_open_fds")
)
"""Gauges of which every process has a share. All others tell of what is shared, like the queue: the highest counts."""

_ADD_UP = ("counter", "histogram")


class Merged:
    """Adds up the pages of processes, each known by a name of its own.

    What a process counted stays counted after its end: to Prometheus a sum that falls looks like a new beginning.
    """

    def __init__(self) -> None:
        self._pages: dict[str, str] = {}
        self._of_the_dead = ""

    def update(self, name: str, page: str) -> None:
        """Take a process's page, in place of the one it had."""
        self._pages[name] = page

    def bury(self, name: str) -> None:
        """Take note that a process has ended. What it counted since its last page is lost."""
        page = self._pages.pop(name, "")
        self._of_the_dead = _text(_sum([self._of_the_dead, page], of_the_living=False))

    def page(self) -> bytes:
        """Return the page of all of them together."""
        families = _sum(self._pages.values())
        counted = _sum([self._of_the_dead, _text(families)], of_the_living=False)
        return _text({**families, **counted}).encode()


class _Fixed(Collector):
    """What is known already, as prometheus_client wants to be told."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        yield from self._families


def _text(families: dict[str, Metric]) -> str:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Fixed(families.values()))
    return generate_latest(registry).decode()


def _sum(pages: Iterable[str], of_the_living: bool = True) -> dict[str, Metric]:
    """Return each family of the pages once. `of_the_living`: with what only a living process can tell."""
    families: dict[str, Metric] = {}
    numbers: dict[str, dict[tuple[str, tuple[tuple[str, str], ...]], float]] = {}
    for page in pages:
        for family in text_string_to_metric_families(page):
            adds_up = family.type in _ADD_UP
            if not adds_up and not of_the_living:
                continue
            families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
            known = numbers.setdefault(family.name, {})
            for sample in family.samples:
                key = sample.name, tuple(sample.labels.items())
                if adds_up or family.name in OF_ONE_PROCESS:
                    known[key] = known.get(key, 0.0) + sample.value
                else:
                    known[key] = max(known.get(key, sample.value), sample.value)
    for name, family in families.items():
        for (sample_name, labels), number in numbers[name].items():
            family.add_sample(sample_name, dict(labels), number)
    return families
