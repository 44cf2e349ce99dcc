"""Messages to systemd, over a real socket like systemd's."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from s3s3.monitoring.systemd import STATUS_INTERVAL_S, SystemdNotifier, notified
from tests.waiting import until


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(tmp_path / "notify"))
        receiver.setblocking(False)
        yield receiver


def received(manager: socket.socket) -> list[str]:
    messages = []
    while True:
        try:
            messages.append(manager.recv(4096).decode())
        except BlockingIOError:
            return messages


def with_watchdog(manager: socket.socket, watchdog_s: float = 0.06, **environ: str) -> SystemdNotifier:
    return SystemdNotifier(
        {"NOTIFY_SOCKET": manager.getsockname(), "WATCHDOG_USEC": str(int(watchdog_s * 1e6)), **environ}
    )


async def healthy() -> str:
    return ""


async def test_the_manager_is_notified_of_start_health_and_end(manager: socket.socket) -> None:
    messages: list[str] = []
    async with notified(healthy, with_watchdog(manager)):
        assert received(manager)[0] == "READY=1\nSTATUS=working"

        def has_three() -> bool:
            messages.extend(received(manager))
            return len(messages) >= 3

        await until(has_three)
    assert set(messages) == {"WATCHDOG=1\nSTATUS=working"}
    assert received(manager)[-1] == "STOPPING=1\nSTATUS=stopping"


async def test_while_unhealthy_the_status_is_the_reason_and_keep_alive_messages_stop(manager: socket.socket) -> None:
    async def unhealthy() -> str:
        return "the queue has not answered for 1 min"

    async with notified(unhealthy, with_watchdog(manager)):
        await asyncio.sleep(0.1)
        messages = received(manager)
    assert "STATUS=the queue has not answered for 1 min" in messages
    assert not any("WATCHDOG=1" in message for message in messages)


async def test_the_status_has_what_does_not_work_in_a_healthy_service(manager: socket.socket) -> None:
    async with notified(healthy, with_watchdog(manager), limitation=lambda: "no status page"):
        await until(lambda: "WATCHDOG=1\nSTATUS=working; no status page" in received(manager))


async def test_a_blocked_event_loop_sends_nothing(manager: socket.socket) -> None:
    async with notified(healthy, with_watchdog(manager)):
        await asyncio.sleep(0.05)
        received(manager)
        block_event_loop(0.2)
        assert received(manager) == []


def block_event_loop(seconds: float) -> None:
    import time  # noqa: PLC0415 - not for use in other tests of asyncio

    time.sleep(seconds)


async def test_a_missing_manager_is_not_an_error(tmp_path: Path) -> None:
    async with notified(healthy, SystemdNotifier({})):
        pass
    async with notified(healthy, SystemdNotifier({"NOTIFY_SOCKET": str(tmp_path / "missing")})):
        pass


def test_a_watchdog_of_another_process_is_ignored(manager: socket.socket) -> None:
    assert with_watchdog(manager, 30, WATCHDOG_PID=str(os.getpid())).interval_s == 10
    notifier = with_watchdog(manager, 3, WATCHDOG_PID="1")
    assert (notifier.has_watchdog, notifier.interval_s) == (False, STATUS_INTERVAL_S)


def test_the_socket_may_have_an_abstract_address() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(f"\0s3s3-test-{os.getpid()}")
        receiver.settimeout(5)
        SystemdNotifier({"NOTIFY_SOCKET": f"@s3s3-test-{os.getpid()}"}).send("READY=1")
        assert receiver.recv(100) == b"READY=1"
