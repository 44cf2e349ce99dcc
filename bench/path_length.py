"""Measure how many calls, files and moves between files one small copy takes: `python -m bench.path_length`.

One message with the key of a 5-byte object is published; a listener of one route with one destination copies the
object. Counted is s3s3's own code from the receipt of the message to the acknowledged and logged job:

    calls    Python functions called, and coroutines continued after an await
    files    different files under s3s3/ that these functions are in
    moves    pairs of consecutive calls in two different files

Background tasks add a few calls to some copies, so the copy with the fewest calls counts.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from types import FrameType
from typing import NamedTuple

import redis
import uvloop

import s3s3
from s3s3.config import Config, load
from s3s3.listener import listen, route_listeners
from s3s3.monitoring.metrics import JobObserver, Metrics
from s3s3.scripts.demo.redis_server import RedisServer
from s3s3.tasks import timeout

#: What every copy finds: metrics, connections and signers of the first copies are not part of the path.
WARM_UP_COPIES = 3
COPIES = 20
TIMEOUT_S = 30.0
CONTENT = b"hello"
ETAG = hashlib.md5(CONTENT, usedforsecurity=False).hexdigest()
CONFIGURATION = """
[pubsub]
url = "{redis_url}"
channel = "path"
[worker]
concurrency = 1  # a second slot would claim the next job during the copy
[http]
bind = ""
[source]
host = "127.0.0.1"
port = {port}
bucket_name = "source"
is_secure = false
aws_access_key_id = "id"
aws_secret_access_key = "secret"
[destination]
host = "127.0.0.1"
port = {port}
bucket_name = "destination"
is_secure = false
aws_access_key_id = "id"
aws_secret_access_key = "secret"
server_side_copy = false
"""


class PathLength(NamedTuple):
    """The length of one copy's path through the code; `trace` has the file and name of each called function."""

    calls: int
    files: int
    moves: int
    trace: tuple[tuple[str, str], ...]


class Trace:
    """Record the calls of one copy, as a function for sys.setprofile, until its job has ended."""

    def __init__(self, ended: asyncio.Event) -> None:
        self._ended = ended
        self._package = str(Path(s3s3.__file__).parent) + "/"
        self._calls: list[tuple[str, str]] = []

    def __call__(self, frame: FrameType, event: str, _: object) -> None:
        """Record a call into s3s3."""
        code = frame.f_code
        if event == "return" and code is JobObserver.on_job_end.__code__:
            sys.setprofile(None)
            self._ended.set()
        if event == "call" and code.co_filename.startswith(self._package):
            name = getattr(code, "co_qualname", code.co_name)  # Python 3.10 has no qualified names
            self._calls.append((code.co_filename.removeprefix(self._package), name))

    def length(self) -> PathLength:
        """Return the length of the recorded path."""
        files = [file for file, _ in self._calls]
        moves = sum(first != second for first, second in pairwise(files))
        return PathLength(len(files), len(set(files)), moves, tuple(self._calls))


class TinyStore(BaseHTTPRequestHandler):
    """An S3 store with one object under every key, which accepts every PUT."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1

    def do_GET(self) -> None:
        """Return the object, or an empty listing of a bucket."""
        is_bucket = "/" not in self.path.partition("?")[0].strip("/")
        self._respond(
            b"<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>" if is_bucket else CONTENT
        )

    def do_PUT(self) -> None:
        """Accept an object."""
        self.rfile.read(int(self.headers["content-length"]))
        self._respond(b"")

    def _respond(self, body: bytes) -> None:
        self.send_response_only(200)
        self.send_header("etag", f'"{ETAG}"')
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def tiny_store() -> Iterator[int]:
    """Serve the store from a thread; yield its port."""
    with ThreadingHTTPServer(("127.0.0.1", 0), TinyStore) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


async def _copies(config: Config) -> list[PathLength]:
    """Copy a few objects, one after the other; return the path of each."""
    found = []
    stop = asyncio.Event()
    with redis.Redis.from_url(config.pubsub.url.get_secret_value()) as producer:
        async with route_listeners(config, Metrics()) as listeners:
            task = asyncio.create_task(listen(listeners, [], stop))
            try:
                async with timeout(TIMEOUT_S):
                    while listeners[0].health_problem():
                        await asyncio.sleep(0.05)
                    for number in range(WARM_UP_COPIES + COPIES):
                        await asyncio.sleep(0.15)
                        ended = asyncio.Event()
                        trace = Trace(ended)
                        producer.publish("path", f"key-{number}")
                        sys.setprofile(trace)  # the message is received from here on: the publish blocks the loop
                        await ended.wait()
                        found.append(trace.length())
            finally:
                sys.setprofile(None)
                stop.set()
                await task
    return found[WARM_UP_COPIES:]


def measure(redis_url: str) -> PathLength:
    """Return the length of the shortest path of a few copies, with a store of its own."""
    with tiny_store() as port, tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "s3s3.toml"
        file.write_text(CONFIGURATION.format(redis_url=redis_url, port=port))
        return min(uvloop.run(_copies(load(file))))


def main() -> int:
    """Print the three figures; with --trace every call, with --by-file the calls of each file."""
    parser = argparse.ArgumentParser(prog="python -m bench.path_length", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--trace", action="store_true", help="print every call, too")
    parser.add_argument("--by-file", action="store_true", help="print the calls of each file, too")
    arguments = parser.parse_args()
    with RedisServer() as server:
        path = measure(server.url)
    if arguments.trace:
        print("\n".join(f"{file:38} {name}" for file, name in path.trace))
    if arguments.by_file:
        for file, count in Counter(file for file, _ in path.trace).most_common():
            print(f"{count:4}  {file}")
    print(f"calls {path.calls}, files {path.files}, moves between files {path.moves}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
