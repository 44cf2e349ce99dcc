"""As containers run: a read-only root file system, and a user id that no passwd file has."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from s3s3.model import MIN_PART_BYTES
from tests.conftest import REPOSITORY, missing
from tests.integration.commands import command, eventually, write_config
from tests.real.ceph_server import CephServer

pytestmark = [pytest.mark.real, pytest.mark.timeout(180)]

UID = 54321

#: The user may read all files: the interpreter, and the folders of pytest, can be in places that are closed to others.
#: The first argument is a directory to mount an empty file system on, as an `emptyDir` in Kubernetes, or "".
READ_ONLY = """
set -e
mount --make-rprivate /
if [ -n "$1" ]; then mount -t tmpfs -o mode=1777 none "$1"; fi
for target in / /tmp /var/tmp /dev/shm; do
    if [ "$target" = / ] || mountpoint -q "$target"; then mount -o remount,bind,ro "$target"; fi
done
cd /
shift
exec setpriv --reuid UID --regid 0 --clear-groups --inh-caps +dac_read_search --ambient-caps +dac_read_search "$@"
""".replace("UID", str(UID))


def contained(arguments: list[str], writable: Path | None = None) -> list[str]:
    """Return the command line of a process with a read-only root; it has the process id of the command."""
    return ["unshare", "--mount", "--", "sh", "-c", READ_ONLY, "sh", str(writable or ""), *arguments]


def environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "LANG")}
    return {**kept, "PYTHONPATH": str(REPOSITORY), "HOME": "/"}


def contained_run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    verb, *rest = arguments
    return subprocess.run(
        contained(command(str(verb), *rest)), env=environment(), capture_output=True, text=True, timeout=120,
        check=False,
    )  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def can_contain() -> None:
    if os.geteuid() != 0 or not all(map(shutil.which, ("unshare", "setpriv"))):
        missing("a mount namespace needs root, unshare and setpriv (util-linux)")
    tried = subprocess.run(
        contained([sys.executable, "-c", "import s3s3.scripts.main; open('/tmp/x', 'w')"]), env=environment(),
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    if "Read-only file system" not in tried.stderr:
        missing(f"no read-only root for another user here: {tried.stderr.strip()[-300:]}")


@pytest.fixture
def config(tmp_path: Path, ceph: CephServer, new_bucket: Callable[..., str], redis_url: str) -> Path:
    source, destination = ceph.endpoint(new_bucket(ceph)), ceph.endpoint(new_bucket(ceph, 1), "destination", account=1)
    (tmp_path / "spool").mkdir()
    return write_config(tmp_path, source, [destination], redis_url)


@pytest.mark.long
def test_commands_that_do_not_spool_need_no_temporary_directory(config: Path) -> None:
    for arguments in (("jobs",), ("publish", "key"), ("jobs", "--json"), ("config", "show"), ("explain", "key")):
        done = contained_run(arguments[0], *arguments[1:2], "--config", config, *arguments[2:])
        assert "Traceback" not in done.stderr, done.stderr
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("arguments", [("listen",), ("bucket",), ("check",), ("config", "validate")], ids=" ".join)
def test_commands_that_spool_name_the_setting_in_one_line(config: Path, arguments: tuple[str, ...]) -> None:
    done = contained_run(arguments[0], *arguments[1:], "--config", config)
    assert done.returncode == 2
    [line] = [line for line in done.stderr.splitlines() if " WARNING " not in line]
    assert line == (
        f"{config}: [worker] spool_dir: no temporary directory is writable; name a writable directory (or make /tmp "
        "writable)"
    )


def test_a_configured_directory_that_is_read_only_is_named(config: Path) -> None:
    spool = config.with_name("spool")
    config.write_text(config.read_text().replace("[worker]\n", f'[worker]\nspool_dir = "{spool}"\n'))
    done = contained_run("bucket", "--config", config)
    assert done.returncode == 2
    message = f"cannot write to '{spool}' (Read-only file system); name another directory"
    assert f"{config}: [worker] spool_dir: {message}\n" in done.stderr


def test_with_one_writable_directory_everything_is_copied(config: Path, ceph: CephServer, redis_url: str) -> None:
    """Small objects, and one in parts, whose MD5 is not known before it was read."""
    spool = config.with_name("spool")
    config.write_text(config.read_text().replace("[worker]\n", f'[worker]\nspool_dir = "{spool}"\n'))
    buckets = [line.split('"')[1] for line in config.read_text().splitlines() if line.startswith("bucket_name")]
    client = ceph.boto3_client()
    client.put_object(Bucket=buckets[0], Key="small", Body=b"content")
    upload = client.create_multipart_upload(Bucket=buckets[0], Key="parts")["UploadId"]
    part = bytes(MIN_PART_BYTES)
    etags = [
        client.upload_part(Bucket=buckets[0], Key="parts", UploadId=upload, PartNumber=number, Body=part)["ETag"]
        for number in (1, 2)
    ]
    client.complete_multipart_upload(
        Bucket=buckets[0], Key="parts", UploadId=upload,
        MultipartUpload={"Parts": [{"ETag": etag, "PartNumber": number} for number, etag in enumerate(etags, 1)]},
    )  # fmt: skip
    listing = contained(command("listen", "--config", config), spool)
    with subprocess.Popen(listing, env=environment(), stderr=subprocess.PIPE, text=True) as process:
        try:
            with redis.Redis.from_url(redis_url) as channel:
                eventually(lambda: channel.publish("backup", "small") and channel.publish("backup", "parts"), "listens")
            there = ceph.boto3_client(1)

            def copied() -> bool:
                found = there.list_objects_v2(Bucket=buckets[1]).get("Contents", [])
                return [(entry["Key"], entry["Size"]) for entry in found] == [("parts", 2 * len(part)), ("small", 7)]

            eventually(copied, "both objects at the destination")
        finally:
            process.send_signal(signal.SIGTERM)
            _, log = process.communicate(timeout=90)
    assert process.returncode == 0, log
    assert "Traceback" not in log
