"""docs/how-to/deletions.md: its commands, in order, with what happens to the source in between."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from s3s3.scripts.demo.swift_server import SwiftServer
from tests.console_blocks import REPOSITORY, check_block, console_blocks
from tests.integration.commands import Listener, run, write_config

pytestmark = pytest.mark.real

PAGE = REPOSITORY / "docs" / "how-to" / "deletions.md"


@pytest.mark.long
def test_the_commands_of_the_page_print_what_it_shows(
    swift: SwiftServer, new_bucket: Callable[..., str], redis_url: str, tmp_path: Path
) -> None:
    source = swift.endpoint(new_bucket(swift))
    there = swift.endpoint(new_bucket(swift, 1), "dest-swift", account=1)
    config = write_config(tmp_path, source, [there], redis_url)
    client = swift.boto3_client()
    keys = [f"m{number:02}.fits" for number in range(20)]
    for key in keys:
        client.put_object(Bucket=source.bucket_name, Key=key, Body=b"content of " + key.encode())
    run("bucket", "--config", config)
    assert "\n[dest-swift]\ndelete = true\nmax_delete = 0.1\n" in PAGE.read_text().replace("```toml", "")
    config.write_text(config.read_text().replace("[dest-swift]", "[dest-swift]\ndelete = true\nmax_delete = 0.1"))

    def delete(some: list[str]) -> None:
        for key in some:
            client.delete_object(Bucket=source.bucket_name, Key=key)

    def steps() -> Iterator[None]:
        """What happens before each command."""
        delete(keys[:1])
        yield  # --dry-run
        yield  # explain
        with Listener(config):
            yield  # publish
        delete(keys[1:8])
        yield  # bucket, which max_delete stops
        config.write_text(config.read_text().replace("max_delete = 0.1", "max_delete = 0.5"))
        yield  # bucket
        delete(keys[8:])
        yield  # bucket of an empty source
        yield  # --allow-empty

    happens = steps()
    for command, output in console_blocks(PAGE):
        next(happens)
        check_block(command, output, config)
    assert next(happens, "done") == "done", "every step was used"
