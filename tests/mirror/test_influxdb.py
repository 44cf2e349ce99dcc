"""Statistics for InfluxDB as line protocol; a failing InfluxDB affects nothing else."""

from __future__ import annotations

import asyncio
import logging
import re

import pytest

from s3s3.mirror.influxdb import MAX_LINES, InfluxDBSender, write_url
from s3s3.mirror.request_stats import CACHE_EVENTS, Event, RequestStats
from s3s3.monitoring.metrics import Metrics
from s3s3.scripts.demo.servers import free_ports
from tests.mirror.influxdb_server import Database

LINE = r"CacheHit,mirror=a\\ b\\=c,host=\S+,pid=\d+ seconds=0\.250000 \d{19}"


async def test_lines_are_sent_in_batches_and_the_last_on_exit() -> None:
    async with Database() as database:
        async with InfluxDBSender(f"http://user:pass@127.0.0.1:{database.port}/stats", interval_s=0.1) as influx:
            for _ in range(3):
                influx.record("CacheHit", "a b=c", 0.25)
            while not database.lines:
                await asyncio.sleep(0.02)
            assert len(database.heads) == 1
            influx.record("CacheHit", "a b=c", 0.25)
        assert [bool(re.fullmatch(LINE, line)) for line in database.lines] == [True] * 4, database.lines
        assert database.heads[0].startswith("POST /write?db=stats HTTP/1.1\r\n")
        assert "authorization: basic dxnlcjpwyxnz" in database.heads[0].lower()


@pytest.mark.parametrize("status", [None, 500])
async def test_a_failing_influxdb_is_logged_once(status: int | None, caplog: pytest.LogCaptureFixture) -> None:
    async with Database(status or 204) as database:
        port = database.port if status else free_ports(1)[0]
        async with InfluxDBSender(f"http://user:secret@127.0.0.1:{port}", interval_s=0.02) as influx:
            for _ in range(10):
                influx.record("CacheHit", "mirror.proxy", 0.25)
                await asyncio.sleep(0.05)
    warnings = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warnings) == 1
    assert "INFLUXDB_URL" in warnings[0] and "secret" not in warnings[0]


async def test_unsent_lines_are_bounded() -> None:
    influx = InfluxDBSender("http://127.0.0.1:1")
    for _ in range(MAX_LINES + 10):
        influx.record("CacheHit", "mirror.proxy", 0.25)
    assert len(influx._lines) == MAX_LINES


@pytest.mark.parametrize(
    ("url", "written"),
    [
        ("http://h:8086/stats", "http://h:8086/write?db=stats"),
        ("https://h", "https://h/write?db=s3s3"),
        ("http://h/write?db=x&precision=ns", "http://h/write?db=x&precision=ns"),
        ("http://u:p%40@[::1]:8086/d", "http://[::1]:8086/write?db=d"),
    ],
)
def test_the_write_url(url: str, written: str) -> None:
    assert str(write_url(url).with_user(None)) == written


@pytest.mark.parametrize("url", ["", "udp://h:8089", "http://", "influx", "http://h:x/d"])
def test_an_invalid_url_is_rejected(url: str) -> None:
    with pytest.raises(ValueError, match=r"not an http|port"):
        write_url(url)


def test_each_event_is_counted_and_recorded() -> None:
    recorded: list[tuple[str, str, float]] = []
    metrics = Metrics()
    stats = RequestStats("mirror.cache", metrics, lambda *event: recorded.append(event), CACHE_EVENTS)
    assert metrics.mirror_requests["mirror.cache", "streamed"] == 0
    assert ("mirror.cache", "waited") not in metrics.mirror_requests
    assert stats.record_request(Event.STREAMED, 0.5) == "streamed"
    assert recorded == [("CacheStreamed", "mirror.cache", 0.5)]
    assert metrics.mirror_requests["mirror.cache", "streamed"] == 1
