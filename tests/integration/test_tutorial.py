"""docs/tutorial.md: what its commands print, after the steps of the README, which tests/test_readme.py follows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from s3s3.scripts.demo.swift_server import SwiftServer
from tests.console_blocks import REPOSITORY, check_block, console_blocks
from tests.integration.commands import Listener, run, write_config

pytestmark = pytest.mark.real


@pytest.mark.long
def test_the_commands_of_the_tutorial_print_what_it_shows(
    swift: SwiftServer, new_bucket: Callable[..., str], redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = swift.endpoint(new_bucket(swift))
    there = swift.endpoint(new_bucket(swift, 1), "destination-swift", account=1)
    config = write_config(tmp_path, source, [there], redis_url)
    monkeypatch.chdir(tmp_path)
    swift.boto3_client().put_object(Bucket=source.bucket_name, Key="hello.txt", Body=b"hello")
    with Listener(config):
        run("publish", "--config", config, "--wait", "hello.txt")
        for command, output in console_blocks(REPOSITORY / "docs" / "tutorial.md"):
            check_block(command, output, config)
