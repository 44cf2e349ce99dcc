from __future__ import annotations

import configparser
import json
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3s3 import config
from s3s3.config import Config
from s3s3.scripts.convert import main
from s3s3.scripts.convert.javascript import objects_in
from s3s3.scripts.convert.toml_writer import toml
from tests.scripts.command import Done, run

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

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
"""The predecessor's own template (extras/s3s3.ini.dist of its 0.1.10)."""

CONFIG_JS = """
var rc = require("rc");
var defaults = {
    aws: { accessKeyId: process.env.AWS_ID, secretAccessKey: 'base "secret"' },   // all regions but one
    log4js: { "level": "INFO", "replaceConsole": true, "appenders": [{"type": "console"}] },
    s3sync: {
        regions: [
            {region: 'us-west-2', suffix: '.usw2'}, {region: 'eu-west-1', suffix: '.euw1'},
            {region: 'cn-north-1', suffix: '.cnn1', access: 'CN', secret: 'other'},
        ],
        /* two jobs */
        buckets: [
            {src: 'srcbucket', srcprefix: 'srcfolder/', srcregion: 'us-west-2', dest: 'dest', destprefix: 'destfolder/',
             destregions: ["us-west-2", "eu-west-1", "cn-north-1"]},
            {src: 'srcbucket', srcprefix: 'srcfolder2/', srcregion: 'us-east-1', dest: 'dest',
             destprefix: 'destfolder2/', destregions: ["eu-west-1"]},
        ]
    },
    fullsync: {interval: 600}, "skip-fullsync": true
};
module.exports = rc("s3sync", defaults, function() { return {}; });
"""


def converted(folder: Path, text: str, name: str = "s3s3.ini") -> Done:
    (folder / name).write_text(text)
    return run(main, folder / name)


def loaded(folder: Path, done: Done, environ: dict[str, str] | None = None) -> Config:
    assert done.status == 0, done.err
    (folder / "s3s3.toml").write_text(done.out)
    return config.load(folder / "s3s3.toml", environ or {})


# -- the predecessor's INI


def test_the_predecessor_s_template_loads_and_says_what_is_to_be_filled_in(tmp_path: Path) -> None:
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


def test_values_are_taken_as_they_stand_without_interpolation_and_comments(tmp_path: Path) -> None:
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
    assert (source.access_key_id, source.secret_access_key) == ("A#1", '50%(x)s"quoted"\\back')
    assert (source.host, source.port, source.is_secure, source.path_style) == ("ceph", 7480, False, False)
    assert route.destination_names == ("dest-one", "dest-two")
    assert (settings.pubsub.url, settings.pubsub.channel) == ("redis://redis.example.org:6379/0", "backup")


def test_what_has_no_counterpart_is_a_comment_and_a_line_without_its_value(tmp_path: Path) -> None:
    text = INI.replace("sns = False", "sns = True").replace("is_secure = True # Optional", "is_secure = hunter2", 1)
    text = text.replace("calling_format = Ordinary", "proxy_pass = hunter2\n     calling_format = VHost")
    done = converted(tmp_path, text + "[log]\nfile = /tmp/x\nmore = a\n  b\n")
    loaded(tmp_path, done)
    for what in ("[source]: not taken over: is_secure: it is neither true nor false",
                 "[source]: not taken over: proxy_pass: there is no such key",
                 "[source]: not taken over: calling_format: ",
                 "[pubsub]: not taken over: sns: s3s3 takes no notices from SNS directly",
                 "not taken over: [log]: there is no such table"):  # fmt: skip
        assert what in done.err
    assert "hunter2" not in done.err
    for line in ("#     proxy_pass = hunter2", "#     is_secure = hunter2", "#     sns = True", "#     file = /tmp/x"):
        assert line in done.out.splitlines()


def test_without_redis_there_is_no_queue(tmp_path: Path) -> None:
    done = converted(tmp_path, INI.replace("redis = True", "redis = off"))
    assert loaded(tmp_path, done).pubsub.url == ""
    assert "s3s3 listen needs one" in done.err


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[source]\nbucket_name = a\n", "a section [source] and one whose name starts with dest"),
        ("[source]\nx = hunter2\nx = hunter2\n[dest]\n", "line 3: [source] x is there twice"),
        ("[source]\n[dest]\n[source]\n", "line 3: [source] is there twice"),
        ("[source]\nhunter2\n[dest]\n", "line 2: neither a [section] nor a key = value"),
        ("a = hunter2\n[source]\n", "line 1: a key stands before the first [section]"),
        ("hunter2", "neither an INI file of s3s3 nor a configuration of s3sync"),
        ("", "neither an INI file of s3s3 nor a configuration of s3sync"),
    ],
)
def test_what_cannot_be_converted_is_told_by_line_and_without_its_text(
    tmp_path: Path, text: str, expected: str
) -> None:
    done = converted(tmp_path, text)
    assert (done.status, done.out) == (2, "")
    assert expected in done.err
    assert "hunter2" not in done.err


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    done = run(main, tmp_path / "nope.ini")
    assert done.status == 2
    assert "nope.ini: cannot be read: No such file or directory" in done.err


TEXTS = st.text(st.characters(exclude_categories=["Cs", "Cc", "Z"], exclude_characters="#;$"), min_size=1, max_size=20)


@given(TEXTS)
def test_any_secret_arrives_as_the_old_file_has_it(secret: str) -> None:
    assert tomllib.loads(f"x = {toml(secret)}") == {"x": secret}
    parser = configparser.ConfigParser(interpolation=None, inline_comment_prefixes=("#",))
    parser.read_string(f"[s]\nx = {secret}\n")
    assert parser["s"]["x"] == secret


# -- s3sync's config.js


def test_s3sync_s_jobs_become_routes_with_its_regions_as_stores(tmp_path: Path) -> None:
    done = converted(tmp_path, CONFIG_JS, "config.js")
    settings = loaded(tmp_path, done, {"AWS_ID": "BASE"})
    first, second = settings.routes
    assert (first.source.bucket_name, first.source.prefix, first.source.region) == (
        "srcbucket",
        "srcfolder/",
        "us-west-2",
    )
    assert [(there.bucket_name, there.region, there.prefix) for there in first.destinations] == [
        ("dest.usw2", "us-west-2", "destfolder/"),
        ("dest.euw1", "eu-west-1", "destfolder/"),
        ("dest.cnn1", "cn-north-1", "destfolder/"),
    ]
    assert {(there.access_key_id, there.secret_access_key) for there in first.destinations} == {
        ("BASE", 'base "secret"'), ("CN", "other")
    }  # fmt: skip
    assert (second.source.region, second.destination_names) == ("us-east-1", ("destination-eu-west-1",))
    for there in (*first.destinations, *second.destinations):
        assert (there.server_side_encryption, there.storage_class, there.delete) == (
            "AES256",
            "REDUCED_REDUNDANCY",
            True,
        )
        assert there.signature_version == "s3v4"
    assert settings.pubsub.url == ""
    for what in (
        "AES256 and REDUCED_REDUNDANCY, and deleted",
        "log4js",
        "s3s3 listen --reconcile-interval 600 --no-initial",
        "s3sync had no Redis",
    ):
        assert what in done.err
        assert what in done.out


def test_a_job_that_lacks_something_is_a_comment(tmp_path: Path) -> None:
    text = CONFIG_JS.replace("src: 'srcbucket', srcprefix: 'srcfolder2/', ", "").replace(
        "'eu-west-1', suffix", "'x', suffix"
    )
    done = converted(tmp_path, text, "config.js")
    assert len(loaded(tmp_path, done, {"AWS_ID": "BASE"}).routes) == 1
    assert "not taken over: job 2: it lacks src" in done.err
    assert "[routes.job-1.destination-eu-west-1]: s3sync.regions does not name its region" in done.err


def test_an_sqs_queue_is_not_lost(tmp_path: Path) -> None:
    text = CONFIG_JS.replace(
        "/* two jobs */", "sqs: {url: 'https://sqs.us-west-2.amazonaws.com/1/q', region: 'us-west-2'},"
    )
    done = converted(tmp_path, text, "config.js")
    assert loaded(tmp_path, done, {"AWS_ID": "BASE"}).pubsub.url == "redis://localhost:6379/0"
    assert "https://sqs.us-west-2.amazonaws.com/1/q" in done.out


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc \"'\\é😀", max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text("abc", max_size=3), JSON, max_size=3), st.booleans())
def test_every_json_object_is_read_as_json_reads_it(value: dict[str, object], ascii_only: bool) -> None:
    text = f"var x = {json.dumps(value, ensure_ascii=ascii_only)};"
    assert next(objects_in(text)) == value


@given(st.text("{}[]:,'\"/*\\ a1.\n-"))
def test_no_text_is_too_odd_to_look_for_objects(text: str) -> None:
    assert all(isinstance(found, dict) for found in objects_in(text))


def test_code_is_passed_over_and_nesting_has_an_end() -> None:
    assert list(objects_in("function f() { return 1 + {a: b()}; } x = {a: -1.5, 'b': [1, 2,], c: process.env.D};")) == [
        {"a": -1.5, "b": [1, 2], "c": "${D}"}
    ]
    assert list(objects_in("{a:" * 1000)) == []
