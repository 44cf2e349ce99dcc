"""Health, readiness and metrics of several processes, each of which serves its own on a Unix socket, as one."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import aiohttp
from aiohttp import web

from ..merged import Merged
from ..metrics import CONTENT_TYPE
from .health import READY_WITHIN_S, answer_of
from .status import FORM_BYTES, Status

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

    def application(self, status: Status | None = None) -> web.Application:
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
