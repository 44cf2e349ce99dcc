"""docs/how-to/rclone.md: a bucket that rclone has copied, with one object in parts, is taken over as the page shows."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from s3s3.model import Endpoint
from s3s3.scripts.demo.rclone_server import find_rclone
from s3s3.scripts.demo.servers import ServerMissing
from s3s3.scripts.demo.swift_server import SwiftServer
from tests.conftest import missing
from tests.console_blocks import REPOSITORY, check_block, console_blocks
from tests.contents import random_bytes
from tests.integration.commands import run, write_config
from tests.integration.objects import MIB

pytestmark = pytest.mark.real

PAGE = REPOSITORY / "docs" / "how-to" / "rclone.md"


def remote(name: str, endpoint: Endpoint) -> dict[str, str]:
    """The environment that defines a remote of rclone."""
    assert endpoint.access_key_id is not None
    assert endpoint.secret_access_key is not None
    settings = {
        "TYPE": "s3",
        "PROVIDER": "Other",
        "ENDPOINT": f"http://127.0.0.1:{endpoint.port}",
        "ACCESS_KEY_ID": endpoint.access_key_id,
        "SECRET_ACCESS_KEY": endpoint.secret_access_key.get_secret_value(),
        "FORCE_PATH_STYLE": "true",
    }
    return {f"RCLONE_CONFIG_{name}_{key}": value for key, value in settings.items()}


@pytest.mark.long
def test_what_rclone_has_copied_is_taken_over_as_the_page_shows(
    swift: SwiftServer, new_bucket: Callable[..., str], redis_url: str, tmp_path: Path
) -> None:
    try:
        rclone = find_rclone()
    except ServerMissing as error:
        missing(str(error))
    source = swift.endpoint(new_bucket(swift))
    there = swift.endpoint(new_bucket(swift, 1), "dest-swift", account=1)
    config = write_config(tmp_path, source, [there], redis_url)
    client = swift.boto3_client()
    for number in range(5):
        client.put_object(Bucket=source.bucket_name, Key=f"m{number}.fits", Body=b"content", ContentType="image/fits")
    client.put_object(Bucket=source.bucket_name, Key="large.fits", Body=random_bytes(6 * MIB))
    environment = {**os.environ, "RCLONE_CONFIG": os.devnull, **remote("A", source), **remote("B", there)}
    in_parts = ["--s3-upload-cutoff", "5M", "--s3-chunk-size", "5M"]
    command = [str(rclone), "sync", f"a:{source.bucket_name}", f"b:{there.bucket_name}", *in_parts]
    subprocess.run(command, env=environment, check=True, capture_output=True, timeout=120)
    (etag,) = {
        found["ETag"]
        for found in swift.boto3_client(1).list_objects_v2(Bucket=there.bucket_name)["Contents"]
        if found["Key"] == "large.fits"
    }
    assert "-" in etag, "rclone has uploaded it in parts"
    for block in console_blocks(PAGE):
        check_block(*block, config)
    counts = run("bucket", "--config", config, "--metadata", "--dry-run", status=1).stdout
    assert "would_copy" in counts
