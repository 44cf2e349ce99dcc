"""Keep the servers running after the demo: `s3s3 demo --keep`."""

from __future__ import annotations

import os
import shlex
import signal
import sys
from pathlib import Path

from ...model import Endpoint
from .environment import CHANNEL, Environment
from .screen import Screen
from .verification import Bucket


def keep_running(environment: Environment, screen: Screen) -> None:
    """Print the addresses and what to try; return on Ctrl-C or SIGTERM."""
    rclone_config = environment.folder / "rclone.conf"
    rclone_config.write_text("\n".join(map(_rclone_remote, environment.buckets)))
    screen.step("The servers keep running", "So does a listener. Ctrl-C stops everything and removes the folders.")
    screen.columns(
        [_row(bucket) for bucket in environment.buckets], heading=("", "address/bucket (http)", "access key / secret")
    )
    screen.gap()
    screen.columns(
        [
            ("redis", f"{environment.redis.url}, channel {CHANNEL}"),
            ("metrics", f"{environment.metrics_url}, also /healthz and /readyz"),
            ("configuration", str(environment.config)),
        ]
    )
    screen.gap()
    screen.line("To try in another terminal:")
    screen.gap()
    settings = {
        "PATH": f"{shlex.quote(str(Path(sys.executable).parent))}:$PATH",
        "S3S3_CONFIG": shlex.quote(str(environment.config)),
        "RCLONE_CONFIG": shlex.quote(str(rclone_config)),
    }
    for name, text in settings.items():
        screen.verbatim(f"  export {name}={text}")
    for command in commands(environment):
        screen.verbatim(f"  {command}")
    screen.gap()
    screen.line(f"To end it: Ctrl-C here, or kill {os.getpid()} from anywhere.", "bold")
    try:
        signal.pause()
    except KeyboardInterrupt:
        screen.gap()


def commands(environment: Environment) -> list[str]:
    """Return commands to try: a new object, a notification, its copies, the queue, the comparison."""
    source, destination = environment.source, environment.destinations[0]
    return [
        "echo hello > hello.txt",
        f"rclone copy hello.txt {source.name}:{source.endpoint.bucket_name}",
        "s3s3 publish --wait hello.txt",
        f"rclone cat {destination.name}:{destination.endpoint.bucket_name}/hello.txt",
        "s3s3 jobs",
        "s3s3 bucket",
    ]


def _row(bucket: Bucket) -> tuple[str, str, str]:
    endpoint = bucket.endpoint
    return (
        bucket.name,
        f"{bucket.address}/{endpoint.bucket_name}",
        f"{endpoint.access_key_id} / {_secret(endpoint)}",
    )


def _secret(endpoint: Endpoint) -> str:
    assert endpoint.secret_access_key
    return endpoint.secret_access_key.get_secret_value()


def _rclone_remote(bucket: Bucket) -> str:
    endpoint = bucket.endpoint
    return f"""[{bucket.name}]
type = s3
provider = Other
endpoint = http://{bucket.address}
region = {endpoint.region}
access_key_id = {endpoint.access_key_id}
secret_access_key = {_secret(endpoint)}
"""
