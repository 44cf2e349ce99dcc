"""Commands that do not open the stores need no secret of them: an operator's shell has none."""

from __future__ import annotations

from pathlib import Path

import pytest

from s3s3 import config
from s3s3.errors import ConfigError
from s3s3.scripts import bucket, cache, check, jobs, mirror, publish
from tests.scripts.command import Main, run

pytestmark = pytest.mark.real

TEXT = """
[stores.ceph]
host = "127.0.0.1"
port = 9
aws_access_key_id = "${CEPH_KEY}"
aws_secret_access_key = "${CEPH_SECRET}"
client_cert_file = "gone.pem"
[source]
store = "ceph"
bucket_name = "images"
[destination]
host = "127.0.0.1"
port = 9
bucket_name = "copies"
aws_access_key_id = "K"
aws_secret_access_key_file = "gone"
[http]
bind = ""
token = "${TOKEN}"
[webhook]
token = "${TOKEN}"
[mirror.cache]
directory = "DIRECTORY"
[mirror.cache.store]
host = "127.0.0.1"
bucket_name = "cached"
aws_access_key_id = "${CEPH_KEY}"
aws_secret_access_key = "${CEPH_SECRET}"
[mirror.cache.keys.reader]
aws_access_key_id = "${READER}"
aws_secret_access_key_file = "gone"
[pubsub]
"""


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("CEPH_KEY", "CEPH_SECRET", "TOKEN", "READER", "REDIS"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "cache").mkdir()
    (tmp_path / "s3s3.toml").write_text(TEXT.replace("DIRECTORY", str(tmp_path / "cache")))
    return tmp_path / "s3s3.toml"


def test_jobs_and_publish_need_only_redis(path: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path.write_text(f'{path.read_text()}url = "${{REDIS}}"\n')
    for main, *arguments in ((publish.main, "key"), (jobs.main,), (jobs.main, "pause"), (jobs.main, "resume")):
        done = run(main, *arguments, "--config", path)
        assert (done.status, done.err.strip()) == (
            2, f"{path}:{len(path.read_text().splitlines())}: [pubsub] url: environment variable REDIS is not set",
        )  # fmt: skip
        monkeypatch.setenv("REDIS", redis_url)
        assert run(main, *arguments, "--config", path).status == 0
        monkeypatch.delenv("REDIS")
    monkeypatch.setenv("REDIS", redis_url)
    assert "1 pending" in run(jobs.main, "--config", path).out


def test_cache_needs_none(path: Path) -> None:
    path.write_text(f'{path.read_text()}url = "${{REDIS}}"\n')
    for action in ("stat", "verify", "evict"):
        done = run(cache.main, action, "--config", path)
        assert (done.status, done.err) == (0, ""), action


@pytest.mark.parametrize("main", [bucket.main, check.main, mirror.main])
def test_commands_that_open_the_stores_name_each_missing_secret(main: Main, path: Path) -> None:
    done = run(main, "--config", path)
    assert done.status == 2
    names = ("CEPH_KEY is not set", "CEPH_SECRET is not set", "TOKEN is not set", "aws_secret_access_key_file: cannot",
             "client_cert_file: cannot read")  # fmt: skip
    assert [name for name in names if name not in done.err] == []


def test_other_settings_and_contradictions_are_reported_by_each_command(path: Path) -> None:
    text = path.read_text().replace('bucket_name = "images"', 'bucket_name = "${BUCKET}"')
    path.write_text(text.replace('aws_access_key_id = "K"', 'aws_access_key_id = "K"\naws_secret_access_key = "S"'))
    with pytest.raises(ConfigError) as caught:
        config.load(path, environ={}, secrets_of=())
    problems = str(caught.value).splitlines()
    assert len(problems) == 2, problems
    assert "[source] bucket_name: environment variable BUCKET is not set" in problems[0]
    assert "aws_secret_access_key and aws_secret_access_key_file are both given" in problems[1]
