"""The programs compared: s3s3 and its alternatives, each with the same objects on the same server."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bench import ready_requests
from bench.cost import Cost, run_to_end
from bench.objects import Copying, check, content_of
from bench.s3s3_commands import run_listeners
from s3s3.scripts.demo.rclone_server import find_rclone
from s3s3.scripts.demo.servers import HOST, ServerMissing, StoreServer

#: The fastest settings of rclone: no requests to the destination, no server-side copy, one PUT per object (it
#: would send parts from 200 MiB on, several in parallel from 256 MiB on), and no SHA-256 of each body.
TUNED = (
    "--transfers=32", "--checkers=32", "--fast-list", "--no-check-dest", "--s3-no-head", "--s3-no-check-bucket",
    "--disable=copy", "--s3-upload-cutoff=5G", "--multi-thread-streams=0", "--s3-use-unsigned-payload=true",
)  # fmt: skip

DEFAULTS = ("--disable=copy",)
WRK_CONNECTIONS = 32
WRK_S = 5


@dataclass(frozen=True)
class Peer:
    """A program that copies.

    Attributes:
        copy: does the work and returns its cost. Raises PeerFailed.
        missing: returns why it cannot run and how to install it, or "".
        share: fraction of the objects that it copies, if all would take too long; costs are per object.
    """

    name: str
    copy: Callable[[Copying], Cost]
    missing: Callable[[], str] = lambda: ""
    share: float = 1.0


def _s3s3(work: Copying, listeners: int = 1, checksum: str = "auto") -> Cost:
    """Run `s3s3 check`, which is not measured, and copy; `checksum` is the setting of each destination."""
    cost = run_listeners(work, listeners, checksum)
    check(work)
    return cost


def s3s3_with(listeners: int) -> Peer:
    """Return s3s3 with this number of listeners."""
    return Peer(f"s3s3, {listeners} listener{'s' * (listeners > 1)}", lambda work: _s3s3(work, listeners))


# -- rclone


def rclone_environment(server: StoreServer, port: int) -> dict[str, str]:
    """Return the environment that defines the rclone remote `bench:`."""
    account = server.accounts[0]
    settings = {
        "TYPE": "s3",
        "PROVIDER": "Ceph" if server.name == "ceph" else "Other",
        "ENDPOINT": f"http://{HOST}:{port}",
        "ACCESS_KEY_ID": account.access_key_id,
        "SECRET_ACCESS_KEY": account.secret_access_key,
        "REGION": "us-east-1",
        "FORCE_PATH_STYLE": "true",
    }
    return {"RCLONE_CONFIG": os.devnull, **{f"RCLONE_CONFIG_BENCH_{name}": text for name, text in settings.items()}}


def _rclone_missing() -> str:
    try:
        find_rclone()
    except ServerMissing as error:
        return str(error)
    return ""


def _rclone(work: Copying, flags: Sequence[str]) -> Cost:
    """Run `rclone copy` for each destination."""
    costs = []
    for bucket in work.destinations:
        command: list[str | Path] = [find_rclone(), "copy", f"bench:{work.source}", f"bench:{bucket}", *flags]
        environment = rclone_environment(work.server, work.port)
        costs.append(run_to_end(command, log=work.folder / "rclone.log", environment=environment))
    check(work)
    return _total(work, costs)


def _total(work: Copying, costs: Sequence[Cost]) -> Cost:
    """Return the total cost of programs that ran one after the other."""
    return Cost(
        len(work.keys),
        work.total_bytes,
        wall_s=sum(cost.wall_s for cost in costs),
        cpu_s=sum(cost.cpu_s for cost in costs),
        peak_bytes=max(cost.peak_bytes for cost in costs),
    )


# -- the straightforward program


def _boto3(work: Copying) -> Cost:
    account = work.server.accounts[0]
    script = Path(__file__).with_name("boto3_copy.py")
    (bucket,) = work.destinations
    command: list[str | Path] = [sys.executable, script, f"http://{HOST}:{work.port}", work.source, bucket]
    environment = {
        "AWS_ACCESS_KEY_ID": account.access_key_id,
        "AWS_SECRET_ACCESS_KEY": account.secret_access_key,
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    cost = run_to_end(command, log=work.folder / "boto3.log", environment=environment)
    check(work)
    return _total(work, [cost])


# -- the limit: the same requests, prepared beforehand, sent by a C program


def _wrk(work: Copying) -> Cost:
    """Send GETs and PUTs in turn for some seconds; a pair counts as an object."""
    requests = work.folder / "requests"
    ready_requests.write(requests, work)
    script = Path(__file__).with_name("ready_requests.lua")
    url = f"http://{HOST}:{work.port}"
    command: list[str | Path] = ["wrk", "-t2", f"-c{WRK_CONNECTIONS}", f"-d{WRK_S}s", "-s", script, url, "--", requests]
    cost = run_to_end(command, log=work.folder / "wrk.log")
    pairs = ready_requests.pairs_in(work.folder / "wrk.log")
    return replace(cost, objects=pairs, size_bytes=pairs * work.size_bytes, wall_s=WRK_S)


# -- large objects with standard tools


def _curl(work: Copying) -> Cost:
    """Run `curl GET | curl PUT` for each object, and `md5sum` of the same number of bytes."""
    content = work.folder / "content"
    content.write_bytes(content_of(work.size_bytes))
    script = Path(__file__).with_name("curl_copy.sh")
    costs = []
    for key in work.keys:
        source, destination, md5 = ready_requests.presigned(work, key)
        command: list[str | Path] = ["bash", script, source, destination, str(work.size_bytes), md5, content]
        costs.append(run_to_end(command, log=work.folder / "curl.log"))
    content.unlink()
    check(work)
    return _total(work, costs)


def _program_missing(program: str) -> Callable[[], str]:
    def missing() -> str:
        return "" if shutil.which(program) else f"{program} is not installed: apt-get install {program}"

    return missing


S3S3 = Peer("s3s3", _s3s3)
S3S3_CLIENT = Peer('s3s3, checksum = "client"', lambda work: _s3s3(work, checksum="client"))
RCLONE_TUNED = Peer("rclone, tuned", lambda work: _rclone(work, TUNED), _rclone_missing)
RCLONE = Peer("rclone", lambda work: _rclone(work, DEFAULTS), _rclone_missing, share=0.2)
BOTO3 = Peer("boto3, 16 threads", _boto3, share=0.2)
WRK = Peer("wrk", _wrk, _program_missing("wrk"))
CURL = Peer("curl | curl, md5sum", _curl, _program_missing("curl"))
