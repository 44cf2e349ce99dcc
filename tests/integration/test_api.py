"""The API of a real listener between real stores: a night's failure, found and fixed by HTTP alone."""

from __future__ import annotations

import asyncio
import json
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from s3s3.model import Lane
from s3s3.queue.base import Disposition, DispositionKind, JobRequest
from s3s3.queue.connection import connected
from s3s3.queue.redis_queue import RedisJobQueue
from s3s3.scripts.demo.servers import free_ports
from s3s3.scripts.demo.swift_server import SwiftServer
from tests.integration.commands import Listener, eventually, write_config

pytestmark = pytest.mark.real

TOKEN = "a token"


@pytest.mark.long
def test_an_operator_finds_and_fixes_a_failure(
    swift: SwiftServer, redis_url: str, new_bucket: Callable[..., str], tmp_path: Path
) -> None:
    source = swift.endpoint(new_bucket(swift))
    destination = swift.endpoint(new_bucket(swift, 1), "destination", account=1)
    (port,) = free_ports(1)
    config = write_config(tmp_path, source, [destination], redis_url, bind=f"127.0.0.1:{port}")
    config.write_text(config.read_text() + f'token = "{TOKEN}"\n')
    keys = [f"images/{number}" for number in range(5)]
    for key in (*keys, "never notified"):
        swift.boto3_client().put_object(Bucket=source.bucket_name, Key=key, Body=b"content")
    asyncio.run(dead_letter(redis_url, keys))

    def call(path: str, body: Any = None, **query: str) -> Any:
        url = f"http://127.0.0.1:{port}/api/v1{path}?{urllib.parse.urlencode(query)}"
        data = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
        with urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=60) as response:
            return json.load(response)

    def reason(key: str) -> Any:
        (route,) = call("/explain", key=key)["routes"]
        return route["destinations"][0]["reason"]

    with Listener(config) as listener:
        (group,) = call("/dead-letters/groups")["groups"]
        assert (group["reason"], group["count"]) == ("PUT of an object: 413: too large", 5)
        assert reason(keys[0]) == "missing"
        assert call("/dead-letters/retry", {"reason": group["reason"]})["count"] == 5
        eventually(lambda: all(reason(key) == "same" for key in keys), "the copies of the dead letters", every_s=0.5)
        assert reason("never notified") == "missing"
        assert "started" in call("/reconcile", {"route": "default"})["message"]

        def is_complete() -> bool:
            last = call("/status")["routes"][0]["last_reconcile"]
            return last is not None and last["outcomes"] == {"same": 5, "copied": 1} and not last["errors"]

        eventually(is_complete, "the reconcile")
        assert reason("never notified") == "same"
    assert "operator action: retry" in listener.log.read_text()
    assert "operator action: reconcile" in listener.log.read_text()


async def dead_letter(redis_url: str, keys: list[str]) -> None:
    """Make keys dead letters of the destination, as a worker does."""
    async with connected(redis_url) as client:
        jobs = RedisJobQueue(client, "default", ("destination",))
        await jobs.enqueue([JobRequest(key, ("destination",)) for key in keys], Lane.FRESH)
        for job in (await jobs.claim(len(keys), 0, 0, 0)).jobs:
            reason = f"after 8 attempts: destination: PUT of {job.key!r}: 413: too large"
            await jobs.finish(job, {"destination": Disposition(DispositionKind.DEAD_LETTER, reason=reason)})
