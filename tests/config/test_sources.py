"""The tables that turn sources of notifications on."""

from __future__ import annotations

from pathlib import Path

import pytest

from s3s3.config import SqsSettings, StreamSettings, WebhookSettings
from s3s3.model import Secret
from tests.config.configurations import SOUND, loaded, problems_in


def test_each_source_is_off_until_its_table_is_there() -> None:
    found = loaded(SOUND)
    assert (found.stream, found.sqs, found.webhook) == (None, None, None)


def test_a_table_with_nothing_but_what_it_needs_turns_its_source_on() -> None:
    url = "https://sqs.us-west-2.amazonaws.com/1/q"
    found = loaded(SOUND + f'[stream]\n[sqs]\nurl = "{url}"\n[webhook]\ntoken = "${{TOKEN}}"\n', {"TOKEN": "s"})
    assert found.stream == StreamSettings("s3s3:notifications", "s3s3")
    assert found.sqs == SqsSettings(url, None, "")
    assert found.webhook == WebhookSettings("127.0.0.1", 9181, Secret("s"))
    assert "'s'" not in repr(found.webhook)


def test_the_consumer_group_of_the_stream_is_the_namespace_unless_given() -> None:
    found = loaded(SOUND + '[pubsub]\nnamespace = "other"\n[stream]\n')
    assert found.pubsub.namespace == "other"
    assert [route.namespace for route in found.routes] == ["other"]
    assert found.stream == StreamSettings("s3s3:notifications", "other")
    given = loaded(SOUND + '[pubsub]\nnamespace = "other"\n[stream]\ngroup = "own"\n').stream
    assert given is not None and given.group == "own"


@pytest.mark.parametrize("namespace", ["", "{other}", "a}b"])
def test_a_namespace_without_text_or_with_braces_is_refused(namespace: str) -> None:
    (problem,) = problems_in(SOUND + f'[pubsub]\nnamespace = "{namespace}"\n')
    assert "[pubsub] namespace: must " in problem


def test_a_webhook_without_a_token_is_one_that_says_so() -> None:
    (problem,) = problems_in(SOUND + "[webhook]\n")
    assert "[webhook]" in problem and "token is missing" in problem
    webhook = loaded(SOUND + '[webhook]\ntoken = ""\n').webhook
    assert webhook is not None and webhook.token == Secret("")


@pytest.mark.parametrize(
    ("tables", "expected"),
    [
        ('[sqs]\nurl = "sqs.us-west-2.amazonaws.com/1/q"', '[sqs] url: must be a URL, not "sqs.us-west-2'),
        ('[sqs]\nurl = "https://u:p@h/1/q"', "[sqs] url: must be a URL"),
        ('[sqs]\nurl = "https://sqs/1/q"\nendpoint_url = "localhost:4566"', "[sqs] endpoint_url: must be a URL"),
        ("[sqs]", "[sqs]: url is missing"),
        ('[pubsub]\nurl = ""\n[stream]', "[stream]: notifications need Redis"),
        ('[webhook]\ntoken = "t"\nbind = "127.0.0.1:9180"', "[webhook] bind: is also the address of [http]"),
        ('[webhook]\ntoken = "t"\nbind = ""', "[webhook] bind: must be at least one character"),
        ('[webhook]\ntoken = "t"\nbind = "x"', '[webhook] bind: must be HOST:PORT, as in "127.0.0.1:9181", not "x"'),
        ('[http]\ntoken = ""', "[http] token: must be at least one character; leave it out for the default"),
        ('[pubsub]\nchannel = ""\nmark_done = true', "[pubsub] mark_done: the marker's name begins with the channel"),
        ("[streams]", "[streams]: unknown table; did you mean [stream]?"),
    ],
)
def test_what_cannot_be_is_reported(tables: str, expected: str) -> None:
    (problem,) = problems_in(SOUND + tables)
    assert expected in problem


def test_a_token_or_url_that_is_empty_elsewhere_is_an_accident_and_opens_nothing(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n")
    by_file = f'token_file = "{tmp_path / "empty"}"'
    for tables, wrong in (
        ('[webhook]\ntoken = "${T}"\n', "[webhook] token: must be at least one character (environment variable T)"),
        (
            f"[webhook]\n{by_file}\n",
            "[webhook] token: must be at least one character (the text of the file in token_file)",
        ),
        ('[pubsub]\nurl = "${T}"\n', "[pubsub] url: must be at least one character (environment variable T)"),
    ):
        (problem,) = problems_in(SOUND + tables, {"T": ""})
        assert problem.partition(": ")[2] == wrong


def test_a_channel_that_is_empty_is_none_for_every_route_without_one_of_its_own() -> None:
    tables = """
[pubsub]
channel = ""
[routes.raw]
channel = "raw"
[routes.raw.source]
bucket_name = "r"
[routes.raw.dest]
bucket_name = "r-copy"
"""
    assert [(route.name, route.channel) for route in loaded(SOUND + tables).routes] == [("default", ""), ("raw", "raw")]
    tables = tables.replace('[pubsub]\nchannel = ""', "").replace('"raw"\n[', '""\n[')
    assert [route.channel for route in loaded(SOUND + tables).routes] == ["backup", ""]
