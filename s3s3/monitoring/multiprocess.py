"""Health, readiness and metrics of several processes, each of which serves its own on a Unix socket, as one."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, Protocol

import aiohttp
from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from .health import READY_WITHIN_S, answer_of
from .metrics import CONTENT_TYPE
from .status_page import FORM_BYTES, StatusPage

log = logging.getLogger(__name__)

ANSWERS_WITHIN_S = 2.0
STARTING_S = 30.0
"""A process that is younger need not answer yet: one that is replaced at once ails nobody."""


class Part(Protocol):
    """One of the processes."""

    number: int

    @property
    def pid(self) -> int | None:
        """Its process id; None while none runs."""

    def age_s(self) -> float:
        """How long ago it was started."""


class Several:
    """Asks every process, and tells what they say as one.

    Args:
        folder: where each has its socket, by its number (`socket_of`).
    """

    def __init__(self, parts: Sequence[Part], folder: Path) -> None:
        self._parts = parts
        self._folder = folder
        self._merged = Merged()
        self._pids: dict[int, int] = {}

    def application(self, status: StatusPage | None = None) -> web.Application:
        """Return the application: the same pages as one process has."""

        async def healthz(request: web.Request) -> web.Response:
            return answer_of(await self.ailments())

        async def readyz(request: web.Request) -> web.Response:
            return answer_of(await self._wrong("/readyz", READY_WITHIN_S + ANSWERS_WITHIN_S))

        async def metrics(request: web.Request) -> web.Response:
            await asyncio.gather(*map(self._read_metrics, self._parts))
            return web.Response(body=self._merged.page(), headers={"Content-Type": CONTENT_TYPE})

        app = web.Application(client_max_size=FORM_BYTES)
        app.add_routes([web.get("/healthz", healthz), web.get("/readyz", readyz), web.get("/metrics", metrics)])
        if status is not None:
            status.add_to(app)
        return app

    async def ailments(self) -> list[str]:
        """Return what ails the processes, a line each. One that has just been started need not answer yet."""
        return await self._wrong("/healthz", ANSWERS_WITHIN_S, excused_s=STARTING_S)

    async def _wrong(self, path: str, within_s: float, excused_s: float = 0.0) -> list[str]:
        found = await asyncio.gather(*(self._ask(part, path, within_s) for part in self._parts))
        lines = []
        for part, (status, text) in zip(self._parts, found, strict=True):
            if status == 200 or (status == 0 and part.age_s() < excused_s):
                continue
            lines += [f"process {part.number}: {line}" for line in (text or "does not answer").splitlines()]
        return lines

    async def _read_metrics(self, part: Part) -> None:
        """Read a process's page. One that does not answer keeps the page that it had."""
        before, pid = self._pids.get(part.number), part.pid
        if before is not None and before != pid:
            self._merged.bury(str(before))
            del self._pids[part.number]
        status, text = await self._ask(part, "/metrics", ANSWERS_WITHIN_S)
        if status == 200 and pid is not None and pid == part.pid:
            self._pids[part.number] = pid
            self._merged.update(str(pid), text)

    async def _ask(self, part: Part, path: str, within_s: float) -> tuple[int, str]:
        """Return status and text; 0 where no answer came."""
        connector = aiohttp.UnixConnector(str(socket_of(self._folder, part.number)))
        try:
            async with (
                aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(within_s)) as session,
                session.get(f"http://process{path}") as answer,
            ):
                return answer.status, await answer.text()
        except (aiohttp.ClientError, asyncio.TimeoutError, OSError) as error:
            log.debug("process %d: %s: %r", part.number, path, error)
            return 0, ""


def socket_of(folder: Path, number: int) -> Path:
    """Return where the process of this number has its socket."""
    return folder / f"process-{number}"


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
