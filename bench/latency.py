"""Time from notification to copy, on an idle and a busy system, beside the store's own GET and PUT."""

from __future__ import annotations

import http.client
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import ready_requests, servers
from bench.cost import PeerFailed
from bench.objects import KIB, Copying, fill, keys_for
from bench.s3s3_commands import Listening
from s3s3.scripts.demo.redis_server import RedisServer
from s3s3.scripts.demo.servers import HOST

IDLE_COUNT, BUSY_COUNT = 300, 2_000
BUSY_RATE_PER_S = 250
PAUSE_S = 0.02
COPY_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Delays:
    """The measured delays of one series."""

    what: str
    delays_ms: Sequence[float]

    def percentile(self, percent: float) -> float:
        """Return the delay that `percent` of the measurements do not exceed."""
        ordered = sorted(self.delays_ms)
        return ordered[min(int(len(ordered) * percent / 100), len(ordered) - 1)]


def measure(scale: float) -> Iterator[Delays]:
    """Measure on Ceph with objects of 4 KiB. A copy counts as done when its done marker is set in Redis."""
    idle, busy = max(round(IDLE_COUNT * scale), 20), max(round(BUSY_COUNT * scale), 100)
    with ExitStack() as stack:
        server = stack.enter_context(servers.STORES[servers.CEPH]())
        redis = stack.enter_context(RedisServer(append_only=True, options={"notify-keyspace-events": "K$"}))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="s3s3-bench-")))
        keys = keys_for(idle + busy)
        fill(server, "source", keys, 4 * KIB)
        server.boto3_client().create_bucket(Bucket="copy")
        work = Copying(server, redis, "source", ("copy",), keys, 4 * KIB, folder, server.port)
        yield Delays("the store's own GET and PUT, idle", _of_the_store(work, keys[:idle]))
        with Listening(work, mark_done=True) as listening:
            markers: Any = listening.redis.pubsub()  # type: ignore[no-untyped-call]
            markers.psubscribe("__keyspace@0__:backup=>*")
            markers.get_message(timeout=5.0)
            yield Delays("notification to copy, idle", _spaced(listening, markers, keys[:idle]))
            name = f"notification to copy, {BUSY_RATE_PER_S} notifications per second"
            yield Delays(name, _steady(listening, markers, keys[idle:]))


def _of_the_store(work: Copying, keys: Sequence[str]) -> list[float]:
    """GET and PUT one object at a time, with the same pause before each: an idle machine is slower than a busy one."""
    connection = http.client.HTTPConnection(HOST, work.port)
    delays_ms = []
    for method, target, headers, content in ready_requests.pairs(work, keys):
        if method == "GET":
            time.sleep(PAUSE_S)
        start_s = time.perf_counter()
        connection.request(method, target, content, headers)
        with connection.getresponse() as response:
            response.read()
        took_ms = 1000 * (time.perf_counter() - start_s)
        if response.status != 200:
            raise PeerFailed(f"{method} {target}: {response.status}")
        if method == "GET":
            delays_ms.append(took_ms)
        else:
            delays_ms[-1] += took_ms
    connection.close()
    return delays_ms


def _spaced(listening: Listening, markers: Any, keys: Sequence[str]) -> list[float]:
    """Publish one key at a time."""
    delays_ms = []
    for key in keys:
        time.sleep(PAUSE_S)
        start_s = time.perf_counter()
        listening.publish([key])
        if markers.get_message(timeout=COPY_TIMEOUT_S) is None:
            raise PeerFailed(f"{key} was not copied within {COPY_TIMEOUT_S:g} s")
        delays_ms.append(1000 * (time.perf_counter() - start_s))
    return delays_ms


def _steady(listening: Listening, markers: Any, keys: Sequence[str]) -> list[float]:
    """Publish at a fixed rate, independent of the copies."""
    start_s = time.perf_counter()
    published: dict[bytes, float] = {}
    delays_ms: list[float] = []
    while len(delays_ms) < len(keys):
        due_s = start_s + len(published) / BUSY_RATE_PER_S
        if len(published) < len(keys) and time.perf_counter() >= due_s:
            key = keys[len(published)]
            published[key.encode()] = time.perf_counter()
            listening.publish([key])
            continue
        timeout_s = due_s - time.perf_counter() if len(published) < len(keys) else COPY_TIMEOUT_S
        message = markers.get_message(timeout=max(timeout_s, 0.0))
        if message is not None:
            copied_key = message["channel"].partition(b"=>")[2]
            delays_ms.append(1000 * (time.perf_counter() - published[copied_key]))
        elif len(published) == len(keys):
            raise PeerFailed(f"{len(keys) - len(delays_ms)} keys were not copied within {COPY_TIMEOUT_S:g} s")
    return delays_ms


def table(found: Sequence[Delays]) -> str:
    """Return a table in Markdown."""
    lines = [
        f"| {one.what} | {one.percentile(50):.1f} | {one.percentile(99):.1f} | {len(one.delays_ms)} |" for one in found
    ]
    return "\n".join(["| ms | p50 | p99 | count |", "|---|---:|---:|---:|", *lines]) + "\n"
