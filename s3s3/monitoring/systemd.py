"""What a service tells systemd: that it is up, that it works, that it ends (sd_notify(3)).

Nothing happens where $NOTIFY_SOCKET is not set. With `WatchdogSec=`, systemd restarts what has not said for so long
that it works; whatever holds up the event loop keeps it from saying so.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress

from ..tasks import cancel

log = logging.getLogger(__name__)

UNWATCHED_EVERY_S = 10.0
"""How often the status is told where nobody waits for it."""


class SystemdNotifier:
    """Sends lines to the service manager; to nobody where the environment names none."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        address = environ.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        watched = int(environ.get("WATCHDOG_USEC", "0") or 0) / 1_000_000
        if environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
            watched = 0  # meant for the process that started this one
        self.every_s = watched / 3 if watched else UNWATCHED_EVERY_S
        self.is_watched = watched > 0

    @property
    def is_heard(self) -> bool:
        """Whether there is anybody to tell."""
        return bool(self._address)

    def __call__(self, *lines: str) -> None:
        """Send lines, as one message. A manager that does not take it is no reason to stop working."""
        if not self._address:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sending:
            sending.setblocking(False)
            try:
                sending.sendto("\n".join(lines).encode(), self._address)
            except OSError as error:
                log.debug("$NOTIFY_SOCKET does not take %s: %s", lines[0], error)


@asynccontextmanager
async def notified(stuck: Callable[[], Awaitable[str]], notify: SystemdNotifier | None = None) -> AsyncIterator[None]:
    """Tell the service manager that the block begins, works and ends.

    Args:
        stuck: returns why a restart would help, "" where it would not: while that says something, the watchdog is not
            told that all is well.
    """
    telling = SystemdNotifier() if notify is None else notify
    if not telling.is_heard:
        yield
        return
    telling("READY=1", "STATUS=working")
    keeping = asyncio.create_task(_keep_telling(telling, stuck))
    try:
        yield
    finally:
        telling("STOPPING=1", "STATUS=ending")
        with suppress(asyncio.CancelledError):
            await cancel([keeping])


async def _keep_telling(notify: SystemdNotifier, stuck: Callable[[], Awaitable[str]]) -> None:
    told = ""
    while True:
        await asyncio.sleep(notify.every_s)
        why = await stuck()
        if why:
            notify(f"STATUS={why}")
            if why != told and notify.is_watched:
                log.error("systemd's watchdog is not told that all is well: %s", why)
        else:
            notify("WATCHDOG=1", "STATUS=working")
        told = why
