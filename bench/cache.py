"""Measure the disk cache of `s3s3 mirror`: hits beside nginx on the same files, and the first byte of misses."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import tomlkit

from bench.cost import Cost, PeakMemory, PeerFailed, cpu_s_of, end_of, run_to_end
from bench.latency import Delays
from bench.objects import KIB, MIB, fill, keys_for
from bench.s3s3_commands import command
from bench.servers import CEPH, STORES
from bench.workloads import Measured, PrintLine, rotated
from s3s3.scripts.demo.servers import HOST, free_ports, is_listening

CACHE, NGINX = "s3s3 mirror", "nginx"
ON_DISK = "a disk"
_WRK_S, _CONNECTIONS = 5, 32
_PATIENCE_S = 30.0
_LINE = re.compile(r"(\d+) requests in ([\d.]+)(m?s)")


@dataclass(frozen=True)
class Hits:
    """GETs of one cached object of this size."""

    size_bytes: int

    def run(self, runs: int, scale: float, print_line: PrintLine) -> Iterator[Measured]:
        """Run it; yield the cost of each peer."""
        for program in ("wrk", "nginx"):
            if shutil.which(program, path="/usr/sbin:/usr/bin:/usr/local/bin") is None:
                print_line(f"  without {program} there is nothing to compare")
                return
        name = f"cache hits, {self.size_bytes // KIB} KiB"
        with ExitStack() as stack:
            cached = stack.enter_context(_cached(self.size_bytes))
            nginx = stack.enter_context(_nginx(cached.folder))
            addresses = {CACHE: (cached.url(cached.keys[0]), cached.pid), NGINX: nginx(cached.body())}
            for run in range(runs):
                for peer in rotated(list(addresses), run):
                    url, pid = addresses[peer]
                    yield Measured(name, ON_DISK, peer, run, _by_wrk(url, pid, self.size_bytes, cached.folder))


HITS = {"cache": Hits(4 * KIB), "cache-large": Hits(16 * MIB)}


def first_bytes(scale: float) -> Iterator[Delays]:
    """Measure the time to the first byte: of the store, of a streamed miss, of a hit."""
    count = max(round(200 * scale), 20)
    with _cached(4 * KIB, count=2 * count) as cached:
        there, keys = cached.store_url, cached.keys
        yield Delays("first byte, the store itself", [_first_byte_ms(there(key)) for key in keys[:count]])
        yield Delays("first byte, a miss of the cache", [_first_byte_ms(cached.url(key)) for key in keys[count:]])
        time.sleep(1)
        yield Delays("first byte, a hit of the cache", [_first_byte_ms(cached.url(key)) for key in keys[count:]])


@dataclass(frozen=True)
class Cached:
    """A running cache in front of a store with some objects. `keys[0]` is already cached."""

    folder: Path
    pid: int
    keys: list[str]
    url: Callable[[str], str]
    store_url: Callable[[str], str]

    def body(self) -> Path:
        """Return the file of the only cached object."""
        return next(path for path in (self.folder / "cache" / "objects").glob("*/*") if path.suffix != ".json")


@contextmanager
def _cached(size_bytes: int, count: int = 1) -> Iterator[Cached]:
    with ExitStack() as stack:
        server = stack.enter_context(STORES[CEPH]())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="s3s3-bench-")))
        bucket = f"cached-{uuid.uuid4().hex[:8]}"
        keys = keys_for(count + 1)
        fill(server, bucket, keys, size_bytes)
        (port,) = free_ports(1)
        endpoint = server.endpoint(bucket)
        assert endpoint.secret_access_key
        store_options = {
            "host": endpoint.host, "port": endpoint.port, "is_secure": False, "bucket_name": bucket,
            "aws_access_key_id": endpoint.access_key_id,
            "aws_secret_access_key": endpoint.secret_access_key.get_secret_value(),
        }  # fmt: skip
        cache = {
            "bind": f"{HOST}:{port}", "directory": str(folder / "cache"), "miss": "stream", "revalidate_s": 86_400,
            "max_fill": 1.0, "store": store_options,
        }  # fmt: skip
        config = folder / "s3s3.toml"
        config.write_text(tomlkit.dumps({"mirror": {"cache": cache}, "pubsub": {"url": ""}, "http": {"bind": ""}}))
        pid = stack.enter_context(_running(command("mirror", "--config", config), folder / "mirror.log", port))
        client = server.boto3_client()

        def store_url(key: str) -> str:
            return client.generate_presigned_url("get_object", {"Bucket": bucket, "Key": key}, 86_400)

        def url(key: str) -> str:
            return store_url(key).replace(f":{server.port}/", f":{port}/", 1)

        _first_byte_ms(url(keys[0]))
        time.sleep(1)  # until it is cached
        yield Cached(folder, pid, keys[:1] if count == 1 else keys[1:], url, store_url)


@contextmanager
def _nginx(folder: Path) -> Iterator[Callable[[Path], tuple[str, int]]]:
    """Run nginx on the same directory with one worker, as s3s3 has one process."""
    (port,) = free_ports(1)
    paths = "".join(
        f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    conf = folder / "nginx.conf"
    conf.write_text(
        f"user root; daemon off; worker_processes 1; pid {folder}/pid;\nevents {{ worker_connections 1024; }}\n"
        f"http {{ {paths} access_log off; sendfile on; keepalive_requests 1000000;\n"
        f"server {{ listen {HOST}:{port}; root {folder}/cache; }} }}\n"
    )
    starting = ["/usr/sbin/nginx", "-p", str(folder), "-c", str(conf), "-e", str(folder / "error.log")]
    with _running(starting, folder / "nginx.log", port) as pid:
        yield lambda body: (f"http://{HOST}:{port}/objects/{body.parent.name}/{body.name}", pid)


@contextmanager
def _running(starting: list[str], log: Path, port: int) -> Iterator[int]:
    with log.open("wb") as output:
        process = subprocess.Popen(starting, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        until_s = time.monotonic() + _PATIENCE_S
        while not is_listening(port):
            if process.poll() is not None or time.monotonic() > until_s:
                raise PeerFailed(f"{starting[0]} does not serve: {end_of(log)}")
            time.sleep(0.05)
        yield process.pid
    finally:
        process.terminate()
        process.wait()


def _by_wrk(url: str, pid: int, size_bytes: int, folder: Path) -> Cost:
    began_cpu_s = cpu_s_of(pid)
    log = folder / "wrk.log"
    with PeakMemory(pid) as peak:
        run_to_end(["wrk", "-t1", f"-c{_CONNECTIONS}", f"-d{_WRK_S}s", url], log=log)
    found = _LINE.search(log.read_text())
    if not found or "Non-2xx" in log.read_text():
        raise PeerFailed(f"wrk: {end_of(log)}")
    requests, wall_s = int(found[1]), float(found[2]) / (1000 if found[3] == "ms" else 1)
    return Cost(requests, requests * size_bytes, wall_s, cpu_s_of(pid) - began_cpu_s, peak.size_bytes)


def _first_byte_ms(url: str) -> float:
    """Return the time to the first byte of the body, including the connection."""
    parts = urlsplit(url)
    connection = HTTPConnection(parts.hostname or "", parts.port, timeout=_PATIENCE_S)
    began_s = time.perf_counter()
    connection.request("GET", f"{parts.path}?{parts.query}")
    answer = connection.getresponse()
    answer.read(1)
    took_ms = (time.perf_counter() - began_s) * 1000
    answer.read()
    connection.close()
    if answer.status != 200:
        raise PeerFailed(f"{url.partition('?')[0]}: {answer.status}")
    return took_ms
