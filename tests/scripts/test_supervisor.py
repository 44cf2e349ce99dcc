"""Several processes kept running, by real ones that only wait."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from s3s3.scripts import supervisor
from s3s3.scripts.supervisor import Processes
from tests.waiting import until

WAITS = "import signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit(0)); sys.stdin.read()"
DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(99)"
ENDS = "import sys; sys.exit(int(sys.argv[1]))"


def python(text: str, *arguments: str) -> list[str]:
    return [sys.executable, "-I", "-S", "-c", text, *arguments]


@asynccontextmanager
async def running(
    commands: list[list[str]], longest_s: float = 20.0
) -> AsyncIterator[tuple[Processes, asyncio.Event, asyncio.Task[int]]]:
    kept = Processes(len(commands), lambda number: commands[number - 1])
    stop = asyncio.Event()
    task = asyncio.create_task(kept.run(stop, longest_s))
    await until(lambda: task.done() or all(member.pid for member in kept.members))
    yield kept, stop, task
    stop.set()
    await task


def is_there(pid: int | None) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def test_one_that_is_killed_is_replaced_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "INITIAL_BACKOFF_S", 0.01)
    async with running([python(WAITS), python(WAITS)]) as (kept, stop, task):
        first, second = (member.pid for member in kept.members)
        assert first is not None
        os.kill(first, signal.SIGKILL)
        await until(lambda: kept.members[0].pid not in (first, None))
        assert kept.members[1].pid == second
        assert not task.done()
        stop.set()
        assert await task == 0


async def test_a_stop_ends_all_of_them_well() -> None:
    async with running([python(WAITS)] * 2) as (kept, stop, task):
        pids = [member.pid for member in kept.members]
        await asyncio.sleep(0.1)  # until Python heeds the signal
        stop.set()
        assert await task == 0
        assert not any(map(is_there, pids))


async def test_one_that_does_not_heed_a_stop_is_killed_after_a_while() -> None:
    async with running([python(DEAF)], longest_s=0.3) as (kept, stop, task):
        pid = kept.members[0].pid
        await asyncio.sleep(0.3)
        stop.set()
        await asyncio.wait_for(task, 10)
        assert not is_there(pid)


@pytest.mark.parametrize("status", supervisor.INCURABLE)
async def test_what_no_other_try_can_cure_ends_all_with_that_status(status: int) -> None:
    async with running([python(WAITS), python(ENDS, str(status))]) as (kept, _, task):
        assert await asyncio.wait_for(task, 20) == status
        assert [member.pid for member in kept.members] == [None, None]


async def test_one_that_ends_again_and_again_is_started_less_and_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "INITIAL_BACKOFF_S", 0.05)
    async with running([python(ENDS, "1")]) as (kept, stop, task):
        starts: list[int] = []

        def count() -> bool:
            pid = kept.members[0].process and kept.members[0].process.pid
            if pid and pid not in starts:
                starts.append(pid)
            return False

        for _ in range(120):
            count()
            await asyncio.sleep(0.01)
        assert 2 <= len(starts) <= 6, "after 0.05, 0.15, 0.35, 0.75, 1.55 s"
        stop.set()
        assert await asyncio.wait_for(task, 10) == 0


PARENT = """
import asyncio, sys
from s3s3.scripts.supervisor import Processes
async def main():
    kept = Processes(2, lambda number: [sys.executable, "-I", "-S", "-c", sys.argv[1]])
    task = asyncio.create_task(kept.run(asyncio.Event(), 5))
    while not all(member.pid for member in kept.members):
        await asyncio.sleep(0.01)
    print(*(member.pid for member in kept.members), flush=True)
    await task
asyncio.run(main())
"""


def test_when_the_parent_is_killed_they_end_by_themselves() -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT, WAITS], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(pids) == 2
    parent.kill()
    parent.wait()
    parent.stdout.close()
    asyncio.run(until(lambda: not any(map(is_there, pids))))
