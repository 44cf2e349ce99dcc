"""Three listeners are replaced one after the other while notifications come: none is lost, and few are copied again."""

from __future__ import annotations

import dataclasses
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import unquote

import pytest
import redis

from s3s3.scripts.demo.servers import StoreServer
from tests.integration.commands import Listener, eventually, write_config
from tests.integration.objects import keys_of
from tests.integration.recorder import Recorder

pytestmark = [pytest.mark.real, pytest.mark.long, pytest.mark.timeout(300)]

KEYS = [f"key-{number:03}" for number in range(240)]


def test_a_rolling_restart_under_load_loses_nothing_and_repeats_next_to_nothing(
    ceph: StoreServer, redis_url: str, new_bucket: Callable[..., str], tmp_path: Path
) -> None:
    source, bucket = ceph.endpoint(new_bucket(ceph)), new_bucket(ceph, 1)
    client = ceph.boto3_client()
    for key in KEYS:
        client.put_object(Bucket=source.bucket_name, Key=key, Body=key.encode())
    replaced, output = threading.Event(), []

    def speak() -> None:
        """Publish all keys, slowly until the listeners are replaced."""
        with redis.Redis.from_url(redis_url) as speaking:
            for key in KEYS:
                speaking.publish("backup", key)
                output.append(replaced.wait(0.25))

    with Recorder(ceph.port) as recorder, ExitStack() as stack:
        there = dataclasses.replace(ceph.endpoint(bucket, "destination", account=1), port=recorder.port)
        config = write_config(tmp_path, source, [there], redis_url, worker={"lease_s": 5, "concurrency": 4})
        old = [stack.enter_context(Listener(config)) for _ in range(3)]
        speaker = threading.Thread(target=speak)
        speaker.start()
        for listener in old:
            assert listener.stop() == 0
            stack.enter_context(Listener(config))
        replaced.set()
        speaker.join()
        assert output[-1], "all were replaced while notifications came"
        eventually(lambda: len(keys_of(ceph.boto3_client(1), bucket)) == len(KEYS), "all is there", every_s=0.5)
    puts = Counter(
        unquote(request.target).rpartition("/")[2] for request in recorder.requests if request.method == "PUT"
    )
    assert set(puts) == set(KEYS)
    for log in tmp_path.glob("listen-*.log"):
        assert "gap detected" not in log.read_text(), "a newcomer leads only if no other listener does"
    # A new leader enqueues again what it received up to 0.5 s before the last checkpoint.
    assert sum(puts.values()) <= 1.1 * len(KEYS), puts.most_common(5)
