"""A warning for files with secrets that every user of the machine can read."""

from __future__ import annotations

from pathlib import Path

import pytest

from s3s3 import config

STORES = """
[source]
host = "ceph.example.org"
bucket_name = "images"
aws_access_key_id = "K"
{source}
[destination]
host = "swift.example.org"
bucket_name = "copies"
aws_access_key_id = "K"
aws_secret_access_key = "${{SWIFT_SECRET}}"
[pubsub]
{pubsub}
"""
LOCAL = 'url = "redis://localhost:6379/0"'


@pytest.mark.parametrize(
    ("source", "pubsub", "mode", "warned_of"),
    [
        ('aws_secret_access_key = "S"', LOCAL, 0o644, {"s3s3.toml": "[source] aws_secret_access_key"}),
        ('aws_secret_access_key = "S"', LOCAL, 0o640, {}),
        ('aws_secret_access_key = "${SWIFT_SECRET}"', LOCAL, 0o644, {}),
        ('aws_secret_access_key = "${SWIFT_SECRET}"', 'url = "redis://:pw@db:6379/0"', 0o644,
         {"s3s3.toml": "[pubsub] url"}),
        ('aws_secret_access_key_file = "secret"', LOCAL, 0o644, {"secret": "[source] aws_secret_access_key"}),
        ('aws_secret_access_key_file = "secret"', LOCAL, 0o600, {}),
        ('aws_secret_access_key_file = "secret"', 'url = "redis://:pw@db:6379/0"', 0o604,
         {"secret": "[source] aws_secret_access_key", "s3s3.toml": "[pubsub] url"}),
    ],
)  # fmt: skip
def test_a_file_that_others_can_read_and_that_has_a_secret_is_warned_of(
    source: str, pubsub: str, mode: int, warned_of: dict[str, str], tmp_path: Path
) -> None:
    for name, text in (("s3s3.toml", STORES.format(source=source, pubsub=pubsub)), ("secret", "S\n")):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(mode)
    loaded = config.load(tmp_path / "s3s3.toml", {"SWIFT_SECRET": "S"})
    assert sorted(config.config_warnings(loaded)) == sorted(
        f"every user of this machine can read {tmp_path / name}, which has the secret {key}: "
        f"run chmod o= {tmp_path / name}"
        for name, key in warned_of.items()
    )
