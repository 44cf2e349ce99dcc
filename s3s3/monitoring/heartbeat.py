"""Who works on a route: each process gives a sign of life every few seconds, for people to see.

Keys, under the route's prefix:

    fleet           sorted set: the processes, by their last sign of life (ms); for an hour after it, or until they
                    sign off
    fleet:about     hash: what each said of itself, JSON: {host, pid, version, command, started_ms, running, leads,
                    ailment}

Nothing is decided by it: who may run a job is the queue's business alone.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import NamedTuple

from redis.asyncio import Redis

from .. import __version__
from ..errors import RedisUnavailable
from ..model import Outcome, Route
from ..queue.lua_scripts import LuaScripts
from ..queue.redis_queue import RedisJobQueue
from .history import History, MetricsDelta
from .metrics import Metrics

HEARTBEAT_INTERVAL_S = 5.0
SILENT_AFTER_S = 3 * HEARTBEAT_INTERVAL_S
"""After so long without a sign of life a process counts as gone."""

KEPT_S = 3600


@dataclass(frozen=True, slots=True)
class ProcessInfo:
    """A process, as it said itself.

    Attributes:
        command: listen, mirror or bucket.
        running: how many jobs it works on.
        leads: whether it puts the channel's notices on the queue.
        ailment: why it does not work as it should, "" while it does.
        silent_s: how long ago its last sign of life was, by Redis's clock.
    """

    id: str
    host: str
    pid: int
    version: str
    command: str
    started_ms: int
    running: int = 0
    leads: bool = False
    health_problem: str = ""
    silent_s: float = 0.0

    @property
    def is_silent(self) -> bool:
        """Whether nothing was heard of it for too long."""
        return self.silent_s > SILENT_AFTER_S


class ProcessRegistry:
    """The processes of one route.

    Args:
        prefix: what every key of the route begins with.
    """

    def __init__(self, client: Redis, prefix: str) -> None:
        self._scripts = LuaScripts(client, __package__, prefix)

    async def register(self, member: ProcessInfo) -> None:
        """Give a sign of life. Raises RedisUnavailable."""
        about = {name: value for name, value in asdict(member).items() if name not in ("id", "silent_s")}
        await self._scripts.run("heartbeat", "here", member.id, json.dumps(about), KEPT_S)

    async def deregister(self, member_id: str) -> None:
        """Say goodbye. Raises RedisUnavailable."""
        await self._scripts.run("heartbeat", "gone", member_id)

    async def processes(self) -> Sequence[ProcessInfo]:
        """Return all who gave a sign of life within the hour and did not sign off. Raises RedisUnavailable."""
        found = await self._scripts.run("heartbeat", "read")
        known = {one.name for one in fields(ProcessInfo)}
        members = []
        for name, text, silent_ms in zip(found[::3], found[1::3], found[2::3], strict=True):
            about = {key: value for key, value in json.loads(text).items() if key in known}
            members.append(ProcessInfo(id=name, silent_s=int(silent_ms) / 1000, **about))
        return sorted(members, key=lambda one: (one.host, one.pid))


log = logging.getLogger(__name__)


class ProcessState(NamedTuple):
    """How a process does: jobs that it works on, whether it puts the notices on the queue, and what ails it."""

    running: int
    leads: bool
    health_problem: str


class Heartbeat:
    """A process's presence in one route's fleet. `keep` runs beside its work.

    Args:
        command: what it is: listen, mirror or bucket.
    """

    def __init__(
        self,
        route: Route,
        jobs: RedisJobQueue,
        metrics: Metrics,
        state: Callable[[], ProcessState],
        command: str = "listen",
    ) -> None:
        self._jobs = jobs
        self._fleet = ProcessRegistry(jobs.client, jobs.prefix)
        self._history = History(jobs.client, jobs.prefix)
        self._growth = MetricsDelta(route, metrics)
        self._state = state
        self._member = ProcessInfo(
            jobs.consumer, socket.gethostname(), os.getpid(), __version__, command, int(time.time() * 1000)
        )
        self.failed: Callable[[Sequence[Outcome]], None] = self._growth.failed

    async def run(self) -> None:
        """Tell, for ever."""
        while True:
            try:
                await self.send()
            except RedisUnavailable as error:  # who does the work says that, and waits; the next time tells it all
                log.debug("no sign of life: %s", error)
            await asyncio.sleep(HEARTBEAT_INTERVAL_S)

    async def send(self) -> None:
        """Give a sign of life, and tell what the figures grew by. Raises RedisUnavailable."""
        running, leads, health_problem = self._state()
        await self._fleet.register(replace(self._member, running=running, leads=leads, health_problem=health_problem))
        await self._growth.tell(self._history)

    async def deregister(self) -> None:
        """Leave the queue, tell the rest, and that this process goes. Raises RedisUnavailable."""
        await self._jobs.remove_consumer()
        await self._growth.tell(self._history)
        await self._fleet.deregister(self._member.id)
