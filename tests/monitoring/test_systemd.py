"""What systemd is told, over a real socket as its own."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from s3s3.monitoring.systemd import UNWATCHED_EVERY_S, SystemdNotifier, notified
from tests.waiting import until


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.setblocking(False)
        yield listening


def heard(manager: socket.socket) -> list[str]:
    found = []
    while True:
        try:
            found.append(manager.recv(4096).decode())
        except BlockingIOError:
            return found


def watched(manager: socket.socket, watchdog_s: float = 0.06, **more: str) -> SystemdNotifier:
    return SystemdNotifier(
        {"NOTIFY_SOCKET": manager.getsockname(), "WATCHDOG_USEC": str(int(watchdog_s * 1e6)), **more}
    )


async def well() -> str:
    return ""


async def test_it_is_told_of_the_beginning_the_work_and_the_end(manager: socket.socket) -> None:
    said: list[str] = []
    async with notified(well, watched(manager)):
        assert heard(manager)[0] == "READY=1\nSTATUS=working"

        def often() -> bool:
            said.extend(heard(manager))
            return len(said) >= 3

        await until(often)
    assert set(said) == {"WATCHDOG=1\nSTATUS=working"}
    assert heard(manager)[-1] == "STOPPING=1\nSTATUS=ending"


async def test_what_is_stuck_does_not_say_that_all_is_well_but_why(manager: socket.socket) -> None:
    async def stuck() -> str:
        return "the queue has not answered for 61 s"

    async with notified(stuck, watched(manager)):
        await asyncio.sleep(0.1)
        said = heard(manager)
    assert "STATUS=the queue has not answered for 61 s" in said
    assert not any("WATCHDOG=1" in one for one in said)


async def test_an_event_loop_that_is_held_up_says_nothing(manager: socket.socket) -> None:
    async with notified(well, watched(manager)):
        await asyncio.sleep(0.05)
        heard(manager)
        await_nothing_for(0.2)
        assert heard(manager) == []


def await_nothing_for(seconds: float) -> None:
    """Hold up the event loop, as a defect does."""
    import time  # noqa: PLC0415 - what no test of asyncio ought to have at hand

    time.sleep(seconds)


async def test_without_a_manager_nothing_is_said_and_nothing_fails(tmp_path: Path) -> None:
    async with notified(well, SystemdNotifier({})):
        pass
    async with notified(well, SystemdNotifier({"NOTIFY_SOCKET": str(tmp_path / "nobody")})):
        pass


def test_a_watchdog_that_waits_for_another_process_is_not_ours(manager: socket.socket) -> None:
    assert watched(manager, 30, WATCHDOG_PID=str(os.getpid())).every_s == 10
    other = watched(manager, 3, WATCHDOG_PID="1")
    assert (other.is_watched, other.every_s) == (False, UNWATCHED_EVERY_S)


def test_an_abstract_address_is_understood() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(f"\0s3s3-test-{os.getpid()}")
        listening.settimeout(5)
        SystemdNotifier({"NOTIFY_SOCKET": f"@s3s3-test-{os.getpid()}"})("READY=1")
        assert listening.recv(100) == b"READY=1"
