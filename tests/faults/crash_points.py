"""Listeners that are killed at a step: `python -m tests.faults.crash_points < FILE`,
with lines {"step", "config", "log"}.

Each is a process of its own, forked from this one, which kills itself (SIGKILL) the first time that it comes to the
step. What it runs until then is s3s3 as it is: the steps are wrapped here, from outside, so that the code knows nothing
of it and pays nothing for it. When all have ended, their exit statuses are printed in order, a line each.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable, Mapping
from functools import wraps
from types import SimpleNamespace
from typing import Any

from s3s3.queue.base import ClaimResult, boottime_s
from s3s3.queue.redis_queue import RedisJobQueue
from s3s3.s3 import Store
from s3s3.s3.transport.connection import Connection
from s3s3.s3.transport.splice import Mover
from s3s3.scripts.main import main
from s3s3.transfer import copier
from s3s3.transfer.destination import DestinationCopy
from s3s3.transfer.digest import Digest

UNTIL_SENT_S = 0.1


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def before(owner: Any, name: str) -> None:
    """Die when it is called."""
    assert hasattr(owner, name), f"{owner} has no {name} any more: name what takes its place"
    setattr(owner, name, lambda *_, **__: die())


def after(owner: Any, name: str, when: Callable[[Any, Any], Any] = lambda _self, _result: True) -> None:
    """Die when it has returned, where `when(self, result)`."""
    wrapped = getattr(owner, name)

    @wraps(wrapped)
    async def dies(self: Any, *args: Any, **options: Any) -> Any:
        result = await wrapped(self, *args, **options)
        if when(self, result):
            die()
        return result

    setattr(owner, name, dies)


def when_delivered() -> None:
    """A claim that is under way at that moment would take it in the same step: so none does."""

    async def finds_nothing(self: RedisJobQueue, *_: int) -> ClaimResult:
        await self._create_groups()
        return ClaimResult([], {}, boottime_s(), False)

    RedisJobQueue._claim = finds_nothing  # type: ignore[method-assign,assignment]  # for good: the process ends
    after(RedisJobQueue, "_wait_for_entries", lambda jobs, _: jobs._delivered)


def while_hashing() -> None:
    vars(copier)["hashlib"] = SimpleNamespace(md5=lambda *_, **__: die())  # of small objects
    before(Digest, "end")


def in_the_middle_of_a_body() -> None:
    sends = Connection._write
    sent = 0

    async def dies(self: Connection, chunk: bytes) -> None:
        nonlocal sent
        await sends(self, chunk)
        sent += 1
        if sent == 3:
            await asyncio.sleep(UNTIL_SENT_S)
            die()

    Connection._write = dies  # type: ignore[method-assign]


def in_the_middle_of_a_moved_body() -> None:
    """The kernel has moved a part of the body to the destination."""
    drains = Mover._drain

    async def dies(self: Mover, size_bytes: int) -> int:
        sent_bytes = await drains(self, size_bytes)
        if sent_bytes > 0:
            await asyncio.sleep(UNTIL_SENT_S)
            die()
        return sent_bytes

    Mover._drain = dies  # type: ignore[method-assign]


def with_the_put_on_its_way() -> None:
    """The whole request was sent, and the listener stops waiting for its response."""
    puts = Store.put

    async def marked(self: Store, *args: Any, **options: Any) -> Any:
        async def dies(_: Connection) -> Any:
            await asyncio.sleep(UNTIL_SENT_S)
            die()

        Connection.head = dies  # type: ignore[method-assign,assignment]  # for good: the process ends
        return await puts(self, *args, **options)

    Store.put = marked  # type: ignore[method-assign]


STEPS: Mapping[str, Callable[[], None]] = {
    "delivered": when_delivered,
    "claimed": lambda: after(RedisJobQueue, "_claim", lambda _, claims: claims.jobs),
    "get": lambda: before(Store, "fetch"),
    "read": lambda: after(Store, "fetch"),
    "hash": while_hashing,
    "put": lambda: before(Store, "put"),
    "put half sent": in_the_middle_of_a_body,
    "moved half": in_the_middle_of_a_moved_body,
    "end held back": lambda: before(Connection, "send_end"),
    "put sent": with_the_put_on_its_way,
    "answered": lambda: after(Store, "put"),
    "verified": lambda: before(DestinationCopy, "record_copied"),
    "finish": lambda: before(RedisJobQueue, "finish"),
    "finished": lambda: after(RedisJobQueue, "_finish_many"),
}
"""What each step does to the process; they come in this order."""


def start(step: str, config: str, log: str) -> int:
    """Fork a listener that dies at this step; return its process id."""
    if (pid := os.fork()) == 0:
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT), sys.stderr.fileno())
        STEPS[step]()
        os._exit(main(["listen", "--config", config]))
    return pid


if __name__ == "__main__":
    children = [start(**json.loads(line)) for line in sys.stdin]
    for child in children:
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)  # noqa: T201
