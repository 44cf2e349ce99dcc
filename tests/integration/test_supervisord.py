"""A real supervisord on the templates as they are, with a real Redis and real stores."""

from __future__ import annotations

import os
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
LISTENER = "s3s3listen:s3s3listen_00"


class Supervised:
    """A folder with a configuration for s3s3 and one for supervisord, and that supervisord."""

    def __init__(self, folder: Path, conf: str, redis_url: str, source: SwiftServer, destination: RcloneServer) -> None:
        self.folder = folder
        self.redis_url = redis_url
        self.source, self.destination = source, destination
        self.bucket_name = self.copies_name = ""
        self.conf = folder / "supervisord.conf"
        self.conf.write_text(conf)
        self.process = Process(
            "supervisord",
            [PROGRAMS / "supervisord", "--nodaemon", "-c", self.conf],
            log=folder / "output.log",
            ready=lambda: self.ask("pid").isdecimal(),
            # Where the commands are found, as a service's environment would say.
            environment={"PATH": f"{PROGRAMS}:{os.environ['PATH']}"},
        )

    def configure(self, new_bucket: Callable[..., str]) -> None:
        self.bucket_name, self.copies_name = new_bucket(self.source), new_bucket(self.destination)
        (self.http_port,) = free_ports(1)
        write_config(
            self.folder,
            self.source.endpoint(self.bucket_name),
            [self.destination.endpoint(self.copies_name, name="destination")],
            self.redis_url,
            bind=f"{HOST}:{self.http_port}",
        )

    def ask(self, *command: str) -> str:
        """What supervisorctl says."""
        supervisorctl = [str(PROGRAMS / "supervisorctl"), "-c", str(self.conf), *command]
        return subprocess.run(supervisorctl, capture_output=True, text=True, timeout=120, check=False).stdout.strip()

    def is_running(self, name: str) -> bool:
        return any(line.split()[:2] == [name, "RUNNING"] for line in self.ask("status").splitlines())

    def log(self, name: str) -> str:
        return (self.folder / name).read_text()

    def put(self, thing: Thing) -> None:
        put(self.source.boto3_client(), self.bucket_name, [thing])

    def listeners(self) -> int:
        with redis.Redis.from_url(self.redis_url) as client:
            return int(dict(client.pubsub_numsub("backup"))[b"backup"])

    def publish(self, *things: Thing) -> None:
        with redis.Redis.from_url(self.redis_url) as client:
            for thing in things:
                client.publish("backup", thing.key.encode())

    def hold(self, *wanted: Thing) -> bool:
        """Whether the copies are exactly these."""
        return differences(self.destination.boto3_client(), self.copies_name, list(wanted)) == []

    def measured(self, series: str) -> float:
        with urllib.request.urlopen(f"http://{HOST}:{self.http_port}/metrics", timeout=10) as page:
            lines = page.read().decode().splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(series))


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short name: a Unix socket's has 107 bytes at most."""
    with tempfile.TemporaryDirectory(prefix="s3s3-") as name:
        yield Path(name)


@pytest.fixture
def supervised(
    folder: Path, redis_url: str, swift: SwiftServer, rclone_store: RcloneServer, new_bucket: Callable[..., str]
) -> Iterator[Callable[[str], Supervised]]:
    """`supervised(conf)` starts supervisord on this configuration."""
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
def test_supervisord_runs_all_of_it_and_stops_it_without_breaking_a_copy_off(
    supervised: Callable[[str], Supervised],
) -> None:
    one = supervised(supervisord_conf().replace("TICK_3600", "TICK_5"))
    eventually(lambda: one.is_running(LISTENER) and one.is_running("s3s3bucket"), "both are RUNNING")
    eventually(lambda: one.listeners() == 1, "the listener is subscribed")

    published, unpublished = Thing("published", 4 * KIB, 1), Thing("nobody said so", 9 * KIB, 2)
    one.put(published)
    one.publish(published)
    eventually(lambda: one.hold(published), "the published object is copied")
    one.put(unpublished)
    eventually(lambda: one.hold(published, unpublished), "a tick's comparison repairs what nobody published", 60)
    assert "event was rejected" not in one.log("supervisord.log")
    one.ask("stop", "s3s3bucket")

    running = Thing("under way", 2 * MIB, 3)
    one.put(running)
    copied = one.measured("s3s3_copies_total{")
    one.destination.pause()
    one.publish(running)
    eventually(lambda: one.measured("s3s3_running_jobs") == 1, "the copy is under way")
    stop = threading.Thread(target=one.ask, args=("stop", LISTENER))
    stop.start()
    eventually(lambda: "STOPPING" in one.ask("status"), "the listener is told to stop")
    assert one.measured("s3s3_copies_total{") == copied, "it still is"
    one.destination.resume()
    stop.join()
    assert one.hold(published, unpublished, running), one.log("s3s3listen_00.log")
    assert "STOPPED" in one.ask("status")
    assert "SIGKILL" not in one.log("supervisord.log")


def with_head(part: str, folder: Path) -> str:
    """A part as its reader uses it: with a supervisord that has the rest, and a configuration in its usual place."""
    head = supervisord_conf().partition("[program:")[0]
    usual_place = f'environment=S3S3_CONFIG="{folder}/s3s3.toml"'
    text = (TEMPLATES / part).read_text().replace("/var/log/supervisor", str(folder))
    return head + text.replace(';environment=CEPH_SECRET="..."', usual_place)


@pytest.mark.long
def test_several_listeners_of_one_program_share_the_work(supervised: Callable[[str], Supervised], folder: Path) -> None:
    one = supervised(with_head("s3s3listen.conf", folder).replace("numprocs=1", "numprocs=2"))
    eventually(lambda: one.listeners() == 2, "both are subscribed")
    things = [Thing(f"object {number}", KIB, number) for number in range(20)]
    for thing in things:
        one.put(thing)
    one.publish(*things)
    eventually(lambda: one.hold(*things), "all are copied")


@pytest.mark.long
def test_a_bucket_program_compares_at_once_and_ends_when_told_to(
    supervised: Callable[[str], Supervised], folder: Path
) -> None:
    one = supervised(with_head("s3s3bucket-interval.conf", folder))
    thing = Thing("nobody said so", KIB, 1)
    one.put(thing)
    one.ask("restart", "s3s3bucket")
    eventually(lambda: one.hold(thing), "it is copied")
    eventually(lambda: one.is_running("s3s3bucket"), "it stays for the next time")
    assert "stopped" in one.ask("stop", "s3s3bucket")
    assert "SIGKILL" not in one.log("supervisord.log")


@pytest.mark.long
def test_a_run_that_fails_is_said_to_supervisord_and_tried_at_the_next_tick(
    supervised: Callable[[str], Supervised], folder: Path
) -> None:
    conf = with_head("s3s3bucket-tick.conf", folder).replace("TICK_3600", "TICK_5")
    one = supervised(conf.replace("command=s3s3tick", "command=s3s3tick --route nowhere"))
    eventually(lambda: "event was rejected" in one.log("supervisord.log"), "FAIL is said")
    began_s = time.monotonic()
    eventually(lambda: one.log("supervisord.log").count("event was rejected") == 2, "FAIL is said again")
    assert time.monotonic() - began_s > 2, "a tick that failed is not tried again at once"
    assert "--route nowhere: there is no such route" in one.log("s3s3bucket.log")
    assert one.is_running("s3s3bucket")
