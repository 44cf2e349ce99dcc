"""The predecessor's own template, filled in as its users did, converted and run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from s3s3.scripts.demo.swift_server import SwiftServer
from tests.integration.commands import Listener, eventually, run
from tests.integration.objects import keys_of
from tests.real.ceph_server import CephServer
from tests.scripts.test_convert import INI

pytestmark = pytest.mark.real


def test_the_predecessor_s_template_converted_copies_what_is_published(
    ceph: CephServer, swift: SwiftServer, new_bucket: Callable[..., str], redis_url: str, tmp_path: Path
) -> None:
    source, there = ceph.endpoint(new_bucket(ceph)), swift.endpoint(new_bucket(swift))
    text = INI.replace("is_secure = True", "is_secure = False").replace(
        "[destination]\n",
        f"     port = {source.port}\n[destination]\n     host = {there.host}\n     port = {there.port}\n",
    )
    for name, values in {
        "{YOUR_AWS_ACCESS_KEY_ID}": (source.access_key_id, there.access_key_id),
        "{YOUR_AWS_SECRET_ACCESS_KEY}": (source.secret_access_key, there.secret_access_key),
        "{YOUR_S3_BUCKET}": (source.bucket_name, there.bucket_name),
        "{YOUR_CEPH_S3_ENDPOINT}": (source.host,),
    }.items():
        for value in values:
            text = text.replace(name, str(value), 1)
    (tmp_path / "s3s3.ini").write_text(text)
    done = run("convert", tmp_path / "s3s3.ini")
    assert done.stderr == ""
    config = tmp_path / "s3s3.toml"
    config.write_text(done.stdout.replace("redis://localhost:6379/0", redis_url) + '[http]\nbind = ""\n')

    ceph.boto3_client().put_object(Bucket=source.bucket_name, Key="hello.txt", Body=b"content")
    with Listener(config), redis.Redis.from_url(redis_url) as client:
        client.publish("backup", "hello.txt")
        eventually(lambda: keys_of(swift.boto3_client(), there.bucket_name) == {"hello.txt"}, "it arrives", every_s=0.1)
    run("bucket", "--config", config, "--dry-run")
