"""A real supervisord running the templates as they are, with a real Redis and real stores."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from s3s3.scripts.demo.process import Process
from s3s3.scripts.demo.rclone_server import RcloneServer
from s3s3.scripts.demo.servers import HOST, free_ports
from s3s3.scripts.demo.swift_server import SwiftServer
from s3s3.scripts.templates import supervisord_conf
from tests.integration.commands import eventually, write_config
from tests.integration.objects import KIB, MIB, Thing, differences, put

pytestmark = [pytest.mark.real, pytest.mark.timeout(180)]

TEMPLATES = Path(__file__).parents[2] / "supervisord"
PROGRAMS = Path(sys.prefix) / "bin"


class Supervised:
    """A supervisord in a folder that has a configuration for it and one for s3s3.

    Listener N serves HTTP on `http_ports[N]`.
    """

    def __init__(self, folder: Path, conf: str, redis_url: str, source: SwiftServer, destination: RcloneServer) -> None:
        self.folder = folder
        self.redis_url = redis_url
        self.source, self.destination = source, destination
        self.bucket_name = self.copies_name = ""
        self.http_ports = two_adjacent_ports()
        self.conf = folder / "supervisord.conf"
        self.conf.write_text(conf.replace("127.0.0.1:918", f"127.0.0.1:{self.http_ports[0] // 10}"))
        self.process = Process(
            "supervisord",
            [PROGRAMS / "supervisord", "--nodaemon", "-c", self.conf],
            log=folder / "output.log",
            ready=lambda: self.supervisorctl("pid").isdecimal(),
            # Where supervisord finds the commands, as in a service's environment.
            environment={"PATH": f"{PROGRAMS}:{os.environ['PATH']}"},
        )

    def configure(self, new_bucket: Callable[..., str]) -> None:
        self.bucket_name, self.copies_name = new_bucket(self.source), new_bucket(self.destination)
        write_config(
            self.folder,
            self.source.endpoint(self.bucket_name),
            [self.destination.endpoint(self.copies_name, name="destination")],
            self.redis_url,
            worker={"lease_s": 2},
        )

    def supervisorctl(self, *command: str) -> str:
        """The output of supervisorctl."""
        supervisorctl = [str(PROGRAMS / "supervisorctl"), "-c", str(self.conf), *command]
        return subprocess.run(supervisorctl, capture_output=True, text=True, timeout=120, check=False).stdout.strip()

    def is_running(self, name: str) -> bool:
        return any(line.split()[:2] == [name, "RUNNING"] for line in self.supervisorctl("status").splitlines())

    def pid(self, number: int) -> int:
        return int(self.supervisorctl("pid", listener(number)))

    def log(self, name: str) -> str:
        return (self.folder / name).read_text()

    def put(self, thing: Thing) -> None:
        put(self.source.boto3_client(), self.bucket_name, [thing])

    def subscribers(self) -> int:
        with redis.Redis.from_url(self.redis_url) as client:
            return int(dict(client.pubsub_numsub("backup"))[b"backup"])

    def publish(self, *things: Thing) -> None:
        with redis.Redis.from_url(self.redis_url) as client:
            for thing in things:
                client.publish("backup", thing.key.encode())

    def has_copies(self, *wanted: Thing) -> bool:
        """Whether the destination has exactly these objects."""
        return differences(self.destination.boto3_client(), self.copies_name, list(wanted)) == []

    def measured(self, series: str, number: int = 0) -> float:
        """The sum of the samples of listener `number` that start with `series`."""
        with urllib.request.urlopen(f"http://{HOST}:{self.http_ports[number]}/metrics", timeout=10) as page:
            lines = page.read().decode().splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(series))


def listener(number: int) -> str:
    return f"s3s3listen:s3s3listen-{number}"


def two_adjacent_ports() -> tuple[int, int]:
    """Free ports that differ only in the last digit, 0 and 1, as those of the template do."""
    while True:
        first = free_ports(1)[0] // 10 * 10
        with socket.socket() as zero, socket.socket() as one:
            try:
                zero.bind((HOST, first))
                one.bind((HOST, first + 1))
            except OSError:
                continue
        return first, first + 1


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short path: that of a Unix socket has at most 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="s3s3-") as name:
        yield Path(name)


@pytest.fixture
def supervised(
    folder: Path, redis_url: str, swift: SwiftServer, rclone_store: RcloneServer, new_bucket: Callable[..., str]
) -> Iterator[Callable[[str], Supervised]]:
    """`supervised(conf)` starts supervisord with this configuration."""
    started: list[Supervised] = []

    def start(conf: str) -> Supervised:
        one = Supervised(folder, conf, redis_url, swift, rclone_store)
        started.append(one)
        one.configure(new_bucket)
        one.process.start()
        one.process.wait_ready()
        return one

    yield start
    for one in started:
        one.process.stop(timeout_s=60)


@pytest.mark.long
def test_supervisord_starts_everything_and_stops_it_without_interrupting_a_copy(
    supervised: Callable[[str], Supervised],
) -> None:
    conf = (
        supervisord_conf().replace("TICK_3600", "TICK_5").replace("command=s3s3tick", "command=s3s3tick --interval 5")
    )
    setup = supervised(conf)
    eventually(lambda: setup.is_running(listener(0)) and setup.is_running("s3s3bucket"), "both are RUNNING")
    eventually(lambda: setup.subscribers() == 1, "the listener is subscribed")

    published, unpublished = Thing("published", 4 * KIB, 1), Thing("not published", 9 * KIB, 2)
    setup.put(published)
    setup.publish(published)
    eventually(lambda: setup.has_copies(published), "the published object is copied")
    setup.put(unpublished)
    eventually(lambda: setup.has_copies(published, unpublished), "a tick's comparison copies the other object", 60)
    assert "event was rejected" not in setup.log("supervisord.log")
    setup.supervisorctl("stop", "s3s3bucket")

    running = Thing("running", 2 * MIB, 3)
    setup.put(running)
    copied = setup.measured("s3s3_copies_total{")
    setup.destination.pause()
    setup.publish(running)
    eventually(lambda: setup.measured("s3s3_running_jobs") == 1, "the copy is running")
    stop = threading.Thread(target=setup.supervisorctl, args=("stop", listener(0)))
    stop.start()
    eventually(lambda: "STOPPING" in setup.supervisorctl("status"), "the listener is stopping")
    assert setup.measured("s3s3_copies_total{") == copied, "the copy is still running"
    setup.destination.resume()
    stop.join()
    assert setup.has_copies(published, unpublished, running), setup.log("s3s3listen-0.log")
    assert "STOPPED" in setup.supervisorctl("status")
    assert "SIGKILL" not in setup.log("supervisord.log")


def with_head(part: str, folder: Path) -> str:
    """A template for an existing supervisord, with the sections that such a supervisord has."""
    head = supervisord_conf().partition("[program:")[0]
    usual_place = f'environment=S3S3_CONFIG="{folder}/s3s3.toml"'
    text = (TEMPLATES / part).read_text().replace("/var/log/supervisor", str(folder))
    return head + text.replace(';environment=CEPH_SECRET="..."', usual_place)


@pytest.mark.long
def test_two_listeners_share_the_work_and_each_has_metrics_and_one_may_be_killed(
    supervised: Callable[[str], Supervised], folder: Path
) -> None:
    setup = supervised(with_head("s3s3listen.conf", folder).replace("numprocs=1", "numprocs=2"))
    eventually(lambda: setup.subscribers() == 2, "both are subscribed")
    things = [Thing(f"object {number}", KIB, number) for number in range(120)]
    for thing in things:
        setup.put(thing)
    setup.publish(*things[:60])
    eventually(lambda: setup.has_copies(*things[:60]), "the first half is copied")
    copied = [setup.measured("s3s3_copies_total{", number) for number in (0, 1)]
    assert sum(copied) >= 60
    assert min(copied) > 0, "both have copied objects"
    assert all(setup.measured("s3s3_consuming{", number) == 1 for number in (0, 1))

    killed, survivor = setup.pid(0), setup.pid(1)
    setup.publish(*things[60:])
    os.kill(killed, signal.SIGKILL)
    eventually(lambda: setup.has_copies(*things), "all are copied")
    eventually(lambda: setup.is_running(listener(0)) and setup.subscribers() == 2, "supervisord has restarted it")
    assert setup.pid(0) != killed
    assert setup.pid(1) == survivor


@pytest.mark.long
def test_a_bucket_program_compares_when_it_starts_and_stops_cleanly(
    supervised: Callable[[str], Supervised], folder: Path
) -> None:
    setup = supervised(with_head("s3s3bucket-interval.conf", folder))
    thing = Thing("not published", KIB, 1)
    setup.put(thing)
    setup.supervisorctl("restart", "s3s3bucket")
    eventually(lambda: setup.has_copies(thing), "the object is copied")
    eventually(lambda: setup.is_running("s3s3bucket"), "it waits for the next run")
    assert "stopped" in setup.supervisorctl("stop", "s3s3bucket")
    assert "SIGKILL" not in setup.log("supervisord.log")


@pytest.mark.long
def test_a_failed_run_is_reported_to_supervisord_and_retried_at_the_next_tick(
    supervised: Callable[[str], Supervised], folder: Path
) -> None:
    conf = with_head("s3s3bucket-tick.conf", folder).replace("TICK_3600", "TICK_5")
    setup = supervised(conf.replace("command=s3s3tick", "command=s3s3tick --route nowhere"))
    eventually(lambda: "event was rejected" in setup.log("supervisord.log"), "the first failure is reported")
    start_s = time.monotonic()
    eventually(lambda: setup.log("supervisord.log").count("event was rejected") == 2, "so is the second")
    assert time.monotonic() - start_s > 2, "a failed tick is not retried immediately"
    assert "--route nowhere: no such route" in setup.log("s3s3bucket.log")
    assert setup.is_running("s3s3bucket")
