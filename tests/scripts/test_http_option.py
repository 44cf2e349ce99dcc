"""`--http` and $S3S3_HTTP_BIND of `listen` and `mirror`."""

from __future__ import annotations

from pathlib import Path

import pytest

from s3s3.scripts import cli, listen, mirror
from tests.scripts.command import Main, config_file, run


@pytest.mark.parametrize("main", [listen.main, mirror.main])
def test_a_wrong_address_is_wrong_usage_and_names_its_source(
    main: Main, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = str(config_file(tmp_path, "redis://127.0.0.1:1/0"))
    done = run(main, "--config", file, "--http", "localhost")
    assert done.status == 2
    assert done.err.startswith('--http: must be HOST:PORT, as in "127.0.0.1:9180", not "localhost"')
    monkeypatch.setenv("S3S3_HTTP_BIND", "localhost:99999")
    done = run(main, "--config", file)
    assert (done.status, done.err.partition(": ")[0]) == (2, "environment variable S3S3_HTTP_BIND")


@pytest.mark.parametrize(
    ("options", "environment", "replacement"),
    [
        ([], {}, None),
        ([], {"S3S3_HTTP_BIND": "127.0.0.1:1"}, ("environment variable S3S3_HTTP_BIND", "127.0.0.1:1")),
        ([], {"S3S3_HTTP_BIND": ""}, ("environment variable S3S3_HTTP_BIND", "")),
        (["--http", "127.0.0.1:2"], {"S3S3_HTTP_BIND": "127.0.0.1:1"}, ("--http", "127.0.0.1:2")),
        (["--http="], {"S3S3_HTTP_BIND": "127.0.0.1:1"}, ("--http", "")),
    ],
)
def test_the_option_takes_precedence_over_the_environment(
    options: list[str], environment: dict[str, str], replacement: tuple[str, str] | None
) -> None:
    for parser in (listen.command_line(), mirror.command_line()):
        assert cli.http_bind(parser.parse_args(options), environment) == replacement
