"""The commands, with a destination that answers everything with an error page of a gateway."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import redis

from s3s3.model import Endpoint, Secret
from tests.integration.commands import Listener, eventually, run, write_config
from tests.s3.raw_server import RawServer, ReceivedRequest, response

KEYS = [f"key{number}" for number in range(5)]
CONTENT = b"content"
MD5 = hashlib.md5(CONTENT).hexdigest()

ERROR = "<Error><Code>SlowDown</Code><Message>\u7e41\u5fd9</Message></Error>"
PAGES = {"GBK": f'<?xml version="1.0" encoding="GBK"?>{ERROR}'.encode("gbk"), "a series of <": b"<" * 65536}


@dataclass
class Stores:
    """A source, a healthy destination and an odd one, as buckets of one server."""

    page: bytes
    stored: dict[str, bytes] = field(default_factory=dict)

    async def __call__(self, received: ReceivedRequest) -> None:
        body = await received.read_body()
        path, _, query = received.target.decode().partition("?")
        _, bucket, key = path.split("/", 2)
        if bucket == "odd":
            raw = response(503, self.page)
        elif query:
            raw = response(body=self._listing(KEYS if bucket == "source" else sorted(self.stored)))
        elif received.method == "PUT":
            self.stored[key] = body
            raw = response(etag=f'"{hashlib.md5(body).hexdigest()}"')
        elif bucket == "source" or key in self.stored:
            raw = response(body=CONTENT, etag=f'"{MD5}"', last_modified="Mon, 05 Oct 2026 21:09:27 GMT")
        else:
            raw = response(404)
        received.write(raw.partition(b"\r\n\r\n")[0] + b"\r\n\r\n" if received.method == "HEAD" else raw)

    def _listing(self, keys: list[str]) -> bytes:
        entries = "".join(
            f"<Contents><Key>{key}</Key><LastModified>2026-10-05T21:09:27.000Z</LastModified>"
            f"<ETag>&quot;{MD5}&quot;</ETag><Size>{len(CONTENT)}</Size></Contents>"
            for key in keys
        )
        head = f"<KeyCount>{len(keys)}</KeyCount><IsTruncated>false</IsTruncated>"
        return f"<ListBucketResult>{head}{entries}</ListBucketResult>".encode()


@contextmanager
def serving(stores: Stores) -> Iterator[int]:
    """Serve in a thread; yield the port."""
    started, stop = threading.Event(), asyncio.Event()
    loop = asyncio.new_event_loop()
    server = RawServer([stores])

    async def serve() -> None:
        async with server:
            started.set()
            await stop.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    started.wait(10)
    try:
        yield server.port
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)
        loop.close()


def endpoint(name: str, bucket: str, port: int) -> Endpoint:
    by_store = name == "source"  # the destinations: read and write, although it is the source's store
    return Endpoint(name, bucket, "127.0.0.1", port, False, "AKID", Secret("secret"), server_side_copy=by_store)


@contextmanager
def configured(page: bytes, redis_url: str, folder: Path) -> Iterator[tuple[Stores, Path]]:
    stores = Stores(page)
    with serving(stores) as port:
        source, healthy = endpoint("source", "source", port), endpoint("dest-healthy", "healthy", port)
        odd = endpoint("dest-odd", "odd", port)
        yield stores, write_config(folder, source, [healthy, odd], redis_url)


@pytest.mark.real
@pytest.mark.parametrize("page", PAGES.values(), ids=PAGES.keys())
def test_bucket_and_check_report_the_page_and_bucket_copies_to_the_other(
    page: bytes, redis_url: str, tmp_path: Path
) -> None:
    with configured(page, redis_url, tmp_path) as (stores, config):
        compared = run("bucket", "--config", config, status=3)
        checked = run("check", "--read-only", "--config", config, status=3)
    for done in (compared, checked):
        assert "dest-odd: LIST: 503" in done.stdout + done.stderr, done
        assert "Traceback" not in done.stdout + done.stderr
    assert stores.stored == dict.fromkeys(KEYS, CONTENT)


@pytest.mark.real
def test_listen_copies_to_the_other(redis_url: str, tmp_path: Path) -> None:
    with configured(PAGES["GBK"], redis_url, tmp_path) as (stores, config), Listener(config) as listener:
        with redis.Redis.from_url(redis_url) as client:
            for key in KEYS:
                client.publish("backup", key)
            eventually(
                lambda: stores.stored == dict.fromkeys(KEYS, CONTENT), "the healthy destination has every object", 20
            )
            assert not client.keys("*dead*healthy*")
        assert listener.process.poll() is None
        assert "Traceback" not in listener.log.read_text()
