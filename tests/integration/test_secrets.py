"""No secret is in anything that s3s3 writes or shows, as docs/how-to/security.md says."""

from __future__ import annotations

import dataclasses
import json
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from s3s3.model import Secret
from s3s3.scripts.demo.redis_server import RedisServer
from s3s3.scripts.demo.servers import free_ports
from tests.integration.commands import Listener, eventually, run, write_config
from tests.real.ceph_server import CephServer

pytestmark = [pytest.mark.real, pytest.mark.long]

TOKEN, PASSWORD, WRONG = "token+of/http", "password+of/redis", "wrong/secret+of+the+destination"


def everything_in(url: str) -> Iterator[str]:
    """All keys and values of a Redis."""
    with redis.Redis.from_url(url, decode_responses=True, encoding_errors="replace") as client:
        readers = {
            "hash": client.hgetall, "string": client.get, "set": client.smembers, "stream": client.xrange,
            "zset": lambda name: client.zrange(name, 0, -1), "list": lambda name: client.lrange(name, 0, -1),
        }  # fmt: skip
        for name in client.scan_iter():
            yield f"{name}: {readers[client.type(name)](name)}"


def test_secrets_are_nowhere_in_redis_page_api_log_metrics_report_and_commands(
    ceph: CephServer, new_bucket: Callable[..., str], tmp_path: Path
) -> None:
    source, there = ceph.endpoint(new_bucket(ceph)), ceph.endpoint(new_bucket(ceph), "dest-good")
    other = ceph.endpoint(new_bucket(ceph), "dest-bad")
    refused = dataclasses.replace(other, secret_access_key=Secret(WRONG))
    secrets = (ceph.accounts[0].secret_access_key, WRONG, TOKEN, PASSWORD)
    (port,) = free_ports(1)
    with RedisServer(options={"requirepass": PASSWORD}) as server:
        url = server.url.replace("redis://", f"redis://:{PASSWORD.replace('/', '%2F').replace('+', '%2B')}@")
        config = write_config(tmp_path, source, [there, refused], url, bind=f"127.0.0.1:{port}")
        config.write_text(config.read_text() + f'token = "{TOKEN}"\n')
        ceph.boto3_client().put_object(Bucket=source.bucket_name, Key="a", Body=b"content")
        found: dict[str, str] = {}

        def read(path: str) -> str:
            request = urllib.request.Request(
                f"http://127.0.0.1:{port}{path}", headers={"Authorization": f"Bearer {TOKEN}"}
            )
            with urllib.request.urlopen(request, timeout=30) as response:
                return str(response.read().decode())

        with Listener(config, "-v") as listener:
            with redis.Redis.from_url(url) as producer:
                producer.publish("backup", "a")
            eventually(lambda: "dest-bad is down" in read("/"), "the destination refuses the signature")
            for path in ("/", "/metrics", "/api/v1/status", "/api/v1/jobs?state=parked&store=dest-bad",
                         "/api/v1/dead-letters", "/api/v1/explain?key=a", "/api/v1/openapi.json"):  # fmt: skip
                found[path] = read(path)
            report = str(tmp_path / "report")
            for status, *words in ((1, "check"), (0, "jobs", "--json"), (3, "explain", "a"), (0, "config", "show"),
                                   (3, "bucket", "--dry-run", "--report", report)):  # fmt: skip
                done = run(*words, "--config", config, status=status)
                found[" ".join(words)] = done.stdout + done.stderr
            found["redis"] = "\n".join(everything_in(url))
        found["log"] = listener.log.read_text()
        found["report"] = (tmp_path / "report").read_text()
    assert "SignatureDoesNotMatch" in found["log"]
    assert json.loads(found["/api/v1/explain?key=a"])["routes"]
    for where, text in found.items():
        assert text, where
        for secret in secrets:
            assert secret not in text, f"{secret} in {where}"
