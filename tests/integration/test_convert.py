"""The predecessor's template, filled in, converted and used."""

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


@pytest.mark.long
def test_a_listener_with_the_converted_template_copies_published_keys(
    ceph: CephServer, swift: SwiftServer, new_bucket: Callable[..., str], redis_url: str, tmp_path: Path
) -> None:
    source, destination = ceph.endpoint(new_bucket(ceph)), swift.endpoint(new_bucket(swift))
    text = INI.replace("is_secure = True", "is_secure = False").replace(
        "[destination]\n",
        f"     port = {source.port}\n[destination]\n     host = {destination.host}\n     port = {destination.port}\n",
    )
    for name, values in {
        "{YOUR_AWS_ACCESS_KEY_ID}": (source.access_key_id, destination.access_key_id),
        "{YOUR_AWS_SECRET_ACCESS_KEY}": (ceph.accounts[0].secret_access_key, swift.accounts[0].secret_access_key),
        "{YOUR_S3_BUCKET}": (source.bucket_name, destination.bucket_name),
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
        eventually(
            lambda: keys_of(swift.boto3_client(), destination.bucket_name) == {"hello.txt"}, "it arrives", every_s=0.1
        )
    run("bucket", "--config", config, "--dry-run")
