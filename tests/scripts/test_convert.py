from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3s3 import config
from s3s3.config import Config
from s3s3.model import Secret
from s3s3.scripts.convert import convert_ini, main
from tests.scripts.command import Done, run

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

#: The predecessor's own template (extras/s3s3.ini.dist of its version 0.1.10).
INI = """[source]
     aws_access_key_id = {YOUR_AWS_ACCESS_KEY_ID}
     aws_secret_access_key = {YOUR_AWS_SECRET_ACCESS_KEY}
     bucket_name = {YOUR_S3_BUCKET}
     host = {YOUR_CEPH_S3_ENDPOINT}
     verify_md5 = False # Verify md5 during s3 operations.
     is_secure = True # Optional
     calling_format = OrdinaryCallingFormat # Optional
[destination]
     aws_access_key_id = {YOUR_AWS_ACCESS_KEY_ID}
     aws_secret_access_key = {YOUR_AWS_SECRET_ACCESS_KEY}
     bucket_name = {YOUR_S3_BUCKET}
     verify_md5 = False # Verify md5 during s3 operations.
     is_secure = True # Optional
[pubsub]
     redis = True
     sns = False
"""


def converted(folder: Path, text: str, name: str = "s3s3.ini") -> Done:
    (folder / name).write_text(text)
    return run(main, folder / name)


def loaded(folder: Path, done: Done, environ: dict[str, str] | None = None) -> Config:
    assert done.status == 0, done.err
    (folder / "s3s3.toml").write_text(done.out)
    return config.load(folder / "s3s3.toml", environ or {})


def test_the_old_template_converts_to_a_loadable_file_with_a_note_for_each_placeholder(tmp_path: Path) -> None:
    done = converted(tmp_path, INI)
    (route,) = loaded(tmp_path, done).routes
    assert (route.source.host, route.source.bucket_name, route.source.path_style) == (
        "ceph.example.org",
        "images",
        True,
    )
    assert (route.destinations[0].host, route.destinations[0].verify_md5) == (None, False)
    assert done.err.count("fill it in") == 7
    assert f"{tmp_path}/s3s3.ini: [source]: host: fill it in" in done.err


def test_values_are_literal_without_interpolation_and_comments(tmp_path: Path) -> None:
    text = """
[source]
aws_access_key_id: A#1
aws_secret_access_key = 50%(x)s"quoted"\\back  # mine
bucket_name = images
host = ceph
port = 7480
is_secure = no
calling_format = SubdomainCallingFormat
[dest-one]
bucket_name = one
[dest two]
bucket_name = two
[pubsub]
redis = redis.example.org
"""
    settings = loaded(tmp_path, converted(tmp_path, text))
    (route,) = settings.routes
    source = route.source
    assert (source.access_key_id, source.secret_access_key) == ("A#1", Secret('50%(x)s"quoted"\\back'))
    assert (source.host, source.port, source.is_secure, source.path_style) == ("ceph", 7480, False, False)
    assert route.destination_names == ("dest-one", "dest-two")
    assert (settings.pubsub.url, settings.pubsub.channel) == (Secret("redis://redis.example.org:6379/0"), "backup")


def test_a_setting_without_equivalent_becomes_a_comment_and_a_note_without_its_value(tmp_path: Path) -> None:
    text = INI.replace("sns = False", "sns = True").replace("is_secure = True # Optional", "is_secure = hunter2", 1)
    text = text.replace("calling_format = Ordinary", "proxy_pass = hunter2\n     calling_format = VHost")
    done = converted(tmp_path, text + "[log]\nfile = /tmp/x\nmore = a\n  b\n")
    loaded(tmp_path, done)
    for what in ("[source]: not converted: is_secure: neither true nor false",
                 "[source]: not converted: proxy_pass: unknown key",
                 "[source]: not converted: calling_format: must be OrdinaryCallingFormat or",
                 "[pubsub]: not converted: sns: not supported: subscribe an SQS queue",
                 "not converted: [log]: unknown table"):  # fmt: skip
        assert what in done.err
    assert "hunter2" not in done.err
    for line in ("#     proxy_pass = hunter2", "#     is_secure = hunter2", "#     sns = True", "#     file = /tmp/x"):
        assert line in done.out.splitlines()


def test_a_setting_with_control_characters_does_not_break_the_comment_that_keeps_it(tmp_path: Path) -> None:
    text = INI.replace("verify_md5 = False", "proxy_pass = a\x01b\x7f", 1)
    done = converted(tmp_path, text)
    loaded(tmp_path, done)
    assert "#     proxy_pass = a?b?" in done.out.splitlines()


def test_redis_off_becomes_an_empty_url_with_a_note(tmp_path: Path) -> None:
    done = converted(tmp_path, INI.replace("redis = True", "redis = off"))
    assert loaded(tmp_path, done).pubsub.url == Secret("")
    assert "s3s3 listen needs it" in done.err


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[source]\nbucket_name = a\n", "needs the sections [source] and [destination]"),
        ("[source]\nx = hunter2\nx = hunter2\n[dest]\n", "line 3: duplicate [source] x"),
        ("[source]\n[dest]\n[source]\n", "line 3: duplicate [source]"),
        ("[source]\nhunter2\n[dest]\n", "line 2: neither a [section] nor key = value"),
        ("a = hunter2\n[source]\n", "line 1: text before the first [section]"),
        ("hunter2", "line 1: text before the first [section]"),
        ("", "not an INI file"),
    ],
)
def test_an_invalid_file_is_reported_by_line_and_without_its_text(tmp_path: Path, text: str, expected: str) -> None:
    done = converted(tmp_path, text)
    assert (done.status, done.out) == (2, "")
    assert expected in done.err
    assert "hunter2" not in done.err


def test_a_missing_file_is_reported(tmp_path: Path) -> None:
    done = run(main, tmp_path / "nope.ini")
    assert done.status == 2
    assert "nope.ini: cannot read: No such file or directory" in done.err


TEXTS = st.text(st.characters(exclude_categories=["Cs", "Cc", "Z"], exclude_characters="#;$"), min_size=1, max_size=20)


@given(TEXTS)
def test_any_secret_is_converted_unchanged(secret: str) -> None:
    text = f"[source]\nbucket_name = a\naws_secret_access_key = {secret}\n[dest]\nbucket_name = b\n"
    assert tomllib.loads(convert_ini(text).toml("s3s3.ini"))["source"]["aws_secret_access_key"] == secret


@pytest.mark.parametrize(
    ("name", "text"),
    [("config.js", "module.exports = {};"), ("s3sync.json", '{"s3sync": {"buckets": []}}')],
)
def test_a_configuration_of_s3sync_is_refused_with_the_page_that_explains_the_move(
    tmp_path: Path, name: str, text: str
) -> None:
    done = converted(tmp_path, text, name)
    assert (done.status, done.out) == (2, "")
    assert 'docs/how-to/s3sync.md ("Moving from s3sync")' in done.err


def test_a_toml_file_is_refused(tmp_path: Path) -> None:
    done = converted(tmp_path, '[source]\nhost = "ceph"\n', "s3s3.toml")
    assert (done.status, done.out) == (2, "")
    assert "s3s3.toml: is already TOML" in done.err


def test_the_example_of_that_page_is_a_valid_configuration(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "s3sync.md").read_text()
    assert page.startswith("# Moving from s3sync\n")
    example = page.rpartition("```toml\n")[2].partition("```")[0]
    (tmp_path / "s3s3.toml").write_text(example)
    settings = config.load(tmp_path / "s3s3.toml", {"AWS_ID": "ID", "AWS_SECRET": "SECRET"})
    (route,) = settings.routes
    assert (route.source.bucket_name, route.source.prefix, route.source.region) == ("images", "raw/", "us-west-2")
    assert [(store.bucket_name, store.region, store.storage_class, store.delete) for store in route.destinations] == [
        ("copies.usw2", "us-west-2", "REDUCED_REDUNDANCY", True),
        ("copies.euw1", "eu-west-1", "REDUCED_REDUNDANCY", True),
    ]
    assert {store.access_key_id for store in (route.source, *route.destinations)} == {"ID"}
