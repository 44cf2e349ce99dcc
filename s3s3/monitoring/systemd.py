"""Notify systemd of readiness, liveness and shutdown (sd_notify(3)).

Without $NOTIFY_SOCKET nothing is sent. With `WatchdogSec=`, systemd restarts a service when its keep-alive messages
stop, because it is unhealthy or its event loop is blocked.
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

#: The interval of status messages without a watchdog, in seconds.
STATUS_INTERVAL_S = 10.0


class SystemdNotifier:
    """Sends messages to the service manager that the environment names, if any.

    Attributes:
        has_manager: whether a service manager expects messages.
        has_watchdog: whether systemd expects keep-alive messages from this process.
        interval_s: the interval of keep-alive or status messages.
    """

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        address = environ.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self.has_manager = bool(address)
        watchdog_s = int(environ.get("WATCHDOG_USEC", "0") or 0) / 1_000_000
        own_pid = str(os.getpid())
        self.has_watchdog = watchdog_s > 0 and environ.get("WATCHDOG_PID", own_pid) == own_pid
        self.interval_s = watchdog_s / 3 if self.has_watchdog else STATUS_INTERVAL_S

    def send(self, *lines: str) -> None:
        """Send lines as one message. A failure is logged and otherwise ignored."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            sender.setblocking(False)
            try:
                sender.sendto("\n".join(lines).encode(), self._address)
            except OSError as error:
                log.debug("cannot send %s to $NOTIFY_SOCKET: %s", lines[0], error)


@asynccontextmanager
async def notified(
    unhealthy_reason: Callable[[], Awaitable[str]],
    notifier: SystemdNotifier | None = None,
    *,
    limitation: Callable[[], str] = lambda: "",
) -> AsyncIterator[None]:
    """Notify the service manager of the start, the health and the end of the block.

    Args:
        unhealthy_reason: returns why a restart would help, or "". While there is a reason, keep-alive messages stop.
        limitation: returns what does not work although the service does, or "".
    """
    notifier = notifier or SystemdNotifier()
    if not notifier.has_manager:
        yield
        return

    def status() -> str:
        return f"STATUS=working; {limitation()}".removesuffix("; ")

    async def send_health() -> None:
        logged = ""
        while True:
            await asyncio.sleep(notifier.interval_s)
            try:
                reason = await unhealthy_reason()
            except Exception:
                log.exception("internal error while checking the health of this process")
                reason = ""  # no evidence that a restart would help
            if reason:
                notifier.send(f"STATUS={reason}")
                if reason != logged and notifier.has_watchdog:
                    log.error("unhealthy, systemd will restart this process: %s", reason)
            else:
                notifier.send("WATCHDOG=1", status())
            logged = reason

    notifier.send("READY=1", status())
    task = asyncio.create_task(send_health())
    try:
        yield
    finally:
        notifier.send("STOPPING=1", "STATUS=stopping")
        with suppress(asyncio.CancelledError):
            await cancel([task])
