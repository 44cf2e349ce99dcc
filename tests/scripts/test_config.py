"""`s3s3 config`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from s3s3.config.json_schema import json_schema
from s3s3.scripts.config import main
from s3s3.scripts.templates import toml_template
from tests.scripts.command import run

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

TEXT = """\
[stores.ceph]
aws_access_key_id = "ID://id"
aws_secret_access_key = "${SECRET}"
[source]
store = "ceph"
bucket_name_file = "name"
[dest-a]
store = "ceph"
bucket_name = "copies"
is_secure = false
max_bytes_per_s = { "08:00-18:00" = "20 MiB" }
[pubsub]
url = "redis://:hunter2@redis:6379/0"
[webhook]
token = "hunter2"
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SECRET", "hunter2")
    monkeypatch.delenv("S3S3_HTTP_BIND", raising=False)
    (tmp_path / "name").write_text("images")
    path = tmp_path / "s3s3.toml"
    path.write_text(TEXT)
    path.chmod(0o600)
    return path


def test_a_valid_configuration_is_called_valid(file: Path) -> None:
    for arguments in ([], ["validate"]):
        done = run(main, *arguments, "--config", file)
        assert (done.status, done.out, done.err) == (0, f"{file}: valid, 1 route\n", "")


def test_every_problem_is_reported(file: Path) -> None:
    file.write_text(TEXT + "tokn = 1\n[sorce]\n")
    for action in ("validate", "show"):
        done = run(main, action, "--config", file)
        assert (done.status, done.out) == (2, "")
        assert done.err.splitlines() == [
            f"{file}:16: [webhook] tokn: unknown key; did you mean token?",
            f"{file}:17: [sorce]: unknown table; did you mean [source]?",
        ]


def test_a_deletion_that_destroys_the_source_of_another_route_is_a_warning(file: Path) -> None:
    file.write_text('[source]\nbucket_name = "a"\n[dest]\nbucket_name = "b"\ndelete = true\n[routes.two.source]\n'
                    'bucket_name = "b"\n[routes.two.dest]\nbucket_name = "c"\n')  # fmt: skip
    assert "warning: [dest] has delete = true and contains [routes.two.source]" in run(main, "--config", file).out


def test_each_value_is_shown_with_its_origin(file: Path) -> None:
    done = run(main, "show", "--config", file)
    lines = [" ".join(line.split()) for line in done.out.splitlines()]
    for line in (
        f'bucket_name = "images" # the text of the file in bucket_name_file, {file}:6',
        f'aws_secret_access_key = "***" # environment variable SECRET, {file}:3',
        f'store = "ceph" # {file}:5',
        f"is_secure = false # {file}:10",
        f'max_bytes_per_s = {{"08:00-18:00" = "20 MiB"}} # {file}:11',
        'spool_bytes = "8 GiB" # default',
        f'url = "redis://***@redis:6379/0" # {file}:13',
        'bind = "127.0.0.1:9181" # default',
    ):
        assert line in lines


def test_no_secret_is_shown(file: Path) -> None:
    out = run(main, "show", "--config", file).out
    assert "hunter2" not in out
    assert "ID" not in out


def test_what_is_shown_is_toml_with_every_table(file: Path) -> None:
    shown = tomllib.loads(run(main, "show", "--config", file).out)
    assert list(shown) == ["source", "dest-a", "pubsub", "worker", "http", "webhook"]
    assert shown["source"]["bucket_name"] == "images"


def test_the_variable_that_replaces_the_address_is_named(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("S3S3_HTTP_BIND", "[::1]:80")
    out = run(main, "show", "--config", file).out
    assert 'bind = "[::1]:80"' in out
    assert "# environment variable S3S3_HTTP_BIND" in out


def test_routes_and_mirrors_are_shown_by_their_whole_names(file: Path) -> None:
    file.write_text('[routes."a.b".source]\nbucket_name = "a"\n[routes."a.b".dest]\nbucket_name = "b"\n'
                    '[mirror.redirect]\nallowed_patterns = ["^https://a/"]\n'
                    '[mirror.redirect.s3.eu]\nbucket_name = "m"\n')  # fmt: skip
    shown = tomllib.loads(run(main, "show", "--config", file).out)
    assert shown["mirror"]["redirect"]["s3"]["eu"]["bucket_name"] == "m"


def test_the_schema_and_the_template_are_printed() -> None:
    assert json.loads(run(main, "schema").out) == json_schema()
    assert run(main, "template").out == toml_template()
