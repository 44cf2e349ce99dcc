"""Paused routes and destinations: every process observes the pause, also one that is started later."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from s3s3.scripts.demo.swift_server import SwiftServer
from tests.integration.commands import Listener, eventually, report_lines, route_tables, run
from tests.integration.objects import keys_of
from tests.integration.test_listen import Place

pytestmark = pytest.mark.real


@pytest.mark.long
def test_a_route_and_a_destination_stay_paused_across_processes_and_lose_nothing(
    swift: SwiftServer, new_bucket: Callable[..., str], redis_url: str, tmp_path: Path
) -> None:
    place = Place(swift, new_bucket, redis_url, tmp_path)
    free = swift.endpoint(new_bucket(swift, 1), "destination-free", account=1)
    raw_source, raw_there = swift.endpoint(new_bucket(swift)), swift.endpoint(new_bucket(swift, 1), "dest", account=1)
    config = place.config(others=[free])
    config.write_text(config.read_text() + route_tables("raw", raw_source, raw_there, channel="raw"))
    place.put("a")
    place.source_client.put_object(Bucket=raw_source.bucket_name, Key="b", Body=b"b")

    def held(bucket: str) -> set[str]:
        return keys_of(place.client, bucket)

    with Listener(config) as first:
        eventually(lambda: first.log.read_text().count(": subscribed") == 2, "it subscribes to both channels")
        run("jobs", "--config", config, "pause", "--route", "default", "--destination", "destination")
        run("jobs", "--config", config, "pause", "--route", "raw")
        time.sleep(1.5)  # a claim that was waiting already may still bring a job
        place.publish("a")
        with redis.Redis.from_url(redis_url) as client:
            client.publish("raw", "b")
        eventually(lambda: held(free.bucket_name) == {"a"}, "where nothing is paused", every_s=0.2)
        first.kill()
    with Listener(config):
        time.sleep(3)
        assert held(place.there.bucket_name) == held(raw_there.bucket_name) == set()
        output = run("jobs", "--config", config).stdout
        assert "route raw: PAUSED; " in output
        assert "  paused" in output
        for together in ([], ["--distributed"]):
            refused = run("bucket", "--config", config, "--route", "raw", *together, status=1)
            assert "resume it with s3s3 jobs resume --route raw" in refused.stderr
        report = tmp_path / "report.jsonl"
        run("bucket", "--config", config, "--route", "default", "--report", report, status=1)
        lines, _ = report_lines(report)
        assert {(line["destination"], line["outcome"]) for line in lines} == {
            ("destination", "failed"), ("destination-free", "same")
        }  # fmt: skip
        assert next(line["reason"] for line in lines if line["outcome"] == "failed").endswith("which is paused")
        run("jobs", "--config", config, "resume", "--route", "default", "--destination", "destination")
        place.arrives("a")
        assert held(raw_there.bucket_name) == set()
        run("jobs", "--config", config, "resume", "--route", "raw")
        eventually(lambda: held(raw_there.bucket_name) == {"b"}, "what was notified while it was paused", every_s=0.2)
