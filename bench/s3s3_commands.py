"""Run s3s3: its configuration, `s3s3 listen` as daemons, `s3s3 bucket` as a command."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import redis
import tomlkit

from bench.cost import Cost, PeakMemory, PeerFailed, cpu_s_of, end_of
from bench.objects import Copying, listed
from s3s3.model import Endpoint

TIMEOUT_S = 600.0
_POLL_S = 0.02
_SETTLED_S = 1.5  # after the subscription, for the election of the leader


def command(verb: str, *arguments: str | Path) -> list[str]:
    """Return the command line of a subcommand."""
    return [sys.executable, "-m", "s3s3.scripts.main", verb, *map(str, arguments)]


def write_config(folder: Path, endpoints: Sequence[Endpoint], redis_url: str, *, mark_done: bool = False) -> Path:
    """Write a configuration of the source and its destinations; return its path."""
    tables: dict[str, dict[str, object]] = {endpoint.name: _table(endpoint) for endpoint in endpoints}
    tables |= {"pubsub": {"url": redis_url, "mark_done": mark_done}, "http": {"bind": ""}}
    path = folder / "s3s3.toml"
    path.touch(0o600)
    path.write_text(tomlkit.dumps(tables))
    return path


def config_of(work: Copying, *, mark_done: bool = False, checksum: str = "auto") -> Path:
    """Write the configuration of a workload."""
    ca_file = str(work.ca_file) if work.ca_file else None
    changes: dict[str, Any] = {"port": work.port, "is_secure": ca_file is not None, "ca_file": ca_file}
    source = work.server.endpoint(work.source, "source", **changes)
    there = [work.server.endpoint(name, f"dest-{number}", checksum=checksum, **changes)
             for number, name in enumerate(work.destinations)]  # fmt: skip
    return write_config(work.folder, [source, *there], work.redis.url, mark_done=mark_done)


def _table(endpoint: Endpoint) -> dict[str, object]:
    # Source and destination are in one store, and the copy through s3s3 is to be measured.
    assert endpoint.secret_access_key
    own_road = {} if endpoint.name == "source" else {"server_side_copy": False, "checksum": endpoint.checksum}
    return {
        "host": endpoint.host,
        "port": endpoint.port,
        "is_secure": endpoint.is_secure,
        "aws_access_key_id": endpoint.access_key_id,
        "aws_secret_access_key": endpoint.secret_access_key.get_secret_value(),
        "bucket_name": endpoint.bucket_name,
        "signature_version": endpoint.signature_version,
        **({"ca_file": endpoint.ca_file} if endpoint.ca_file else {}),
        **own_road,
    }


class Listening:
    """One or more `s3s3 listen`, started and subscribed; a context manager."""

    def __init__(self, work: Copying, listeners: int = 1, *, mark_done: bool = False, checksum: str = "auto") -> None:
        self._work = work
        self._log = work.folder / "listen.log"
        config = config_of(work, mark_done=mark_done, checksum=checksum)
        self._check = command("check", "--config", config)
        self._command = command("listen", "--config", config)
        self._listeners = listeners
        self.redis = redis.Redis.from_url(work.redis.url)

    def __enter__(self) -> Listening:
        self.redis.flushall()
        check = subprocess.run(self._check, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
        if check.returncode:
            raise PeerFailed(f"s3s3 check: {check.stdout[-500:]}{check.stderr[-500:]}")
        with self._log.open("wb") as output:
            self.processes = [subprocess.Popen(self._command, stdout=output, stderr=output)
                              for _ in range(self._listeners)]  # fmt: skip
        self._wait(lambda: "elected leader" in self._log.read_text(), "a listener is elected leader")
        self._wait(lambda: self._log.read_text().count(": subscribed") >= self._listeners, "the listener subscribes")
        time.sleep(_SETTLED_S)
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            process.wait(TIMEOUT_S)
        self.redis.close()

    def publish(self, keys: Sequence[str]) -> None:
        """Publish the keys as producers do."""
        with self.redis.pipeline(transaction=False) as pipeline:
            for key in keys:
                pipeline.publish("backup", key)
            pipeline.execute()

    def spent(self) -> tuple[float, float, float]:
        """Return the current time, and the CPU time of the listeners and of Redis."""
        (redis_pid,) = self._work.redis.pids
        return time.monotonic(), sum(cpu_s_of(process.pid) for process in self.processes), cpu_s_of(redis_pid)

    def wait_until_done(self) -> tuple[float, float, float]:
        """Return the same once the queue is empty and every destination has every key."""
        self._wait(lambda: self._pending() > 0, "the first notification is on the queue", longest_s=2.0)
        while True:
            self._wait(lambda: self._pending() == 0, "the queue is empty")
            spent = self.spent()
            if all(len(listed(self._work.server, bucket)) >= len(self._work.keys)
                   for bucket in self._work.destinations):  # fmt: skip
                return spent

    def _pending(self) -> int:
        return int(self.redis.xlen("s3s3:{default}:fresh"))

    def _wait(self, condition: Callable[[], bool], what: str, longest_s: float = TIMEOUT_S) -> None:
        until_s = time.monotonic() + longest_s
        while not condition():
            if any(process.poll() is not None for process in self.processes):
                raise PeerFailed(f"s3s3 listen ended: {end_of(self._log)}")
            if time.monotonic() > until_s:
                if longest_s < TIMEOUT_S:
                    return  # done before the first check
                raise PeerFailed(f"not within {longest_s:g} s: {what}: {end_of(self._log)}")
            time.sleep(_POLL_S)


def run_listeners(work: Copying, listeners: int = 1, checksum: str = "auto") -> Cost:
    """Publish every key; return the cost until the last one is acknowledged, without the start of s3s3."""
    with Listening(work, listeners, checksum=checksum) as listening, ExitStack() as stack:
        peaks = [stack.enter_context(PeakMemory(process.pid)) for process in listening.processes]
        before = listening.spent()
        listening.publish(work.keys)
        after = listening.wait_until_done()
    wall_s, cpu_s, redis_cpu_s = (end - start for start, end in zip(before, after, strict=True))
    return Cost(len(work.keys), work.total_bytes, wall_s, cpu_s, sum(peak.size_bytes for peak in peaks), redis_cpu_s)
