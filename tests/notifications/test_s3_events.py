"""S3 event JSON as stores, SNS and EventBridge send it, and as nobody ought to."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any
from urllib.parse import quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3s3.model import Notification
from s3s3.notifications.s3_events import events_in

TEST_EVENT = {"Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": "images", "RequestId": "A", "HostId": "B"}


def record(key: str, bucket: str = "images", source: str = "aws:s3", name: str = "ObjectCreated:Put") -> dict[str, Any]:
    return {
        "eventVersion": "2.1",
        "eventSource": source,
        "eventName": name,
        "s3": {"bucket": {"name": bucket, "arn": f"arn:aws:s3:::{bucket}"}, "object": {"key": key, "size": 4}},
    }


def event(*records: object) -> dict[str, Any]:
    return {"Records": list(records)}


def in_sns(content: object) -> dict[str, Any]:
    return {"Type": "Notification", "TopicArn": "arn:aws:sns:us-east-1:1:t", "Message": json.dumps(content)}


def in_eventbridge(detail: object, source: str = "aws.s3") -> dict[str, Any]:
    return {"version": "0", "detail-type": "Object Created", "source": source, "detail": detail}


def native(key: str) -> dict[str, Any]:
    return {"version": "0", "bucket": {"name": "images"}, "object": {"key": key, "size": 5}, "reason": "PutObject"}


def said(content: object) -> tuple[list[tuple[str | None, str]], str]:
    """The buckets and keys that a message names, and what kind of wrong is with it."""
    notices, wrong = events_in(json.dumps(content))
    return [(notice.bucket, notice.key) for notice in notices], wrong.kind if wrong else ""


@pytest.mark.parametrize("wrap", [lambda content: content, in_sns, lambda content: in_sns(in_sns(content))])
def test_every_record_of_a_message_counts_wherever_it_is_wrapped(wrap: Any) -> None:
    message = wrap(event(record("a"), record("b", "logs", name="ObjectRemoved:Delete"), record("c")))
    assert said(message) == ([("images", "a"), ("logs", "b"), ("images", "c")], "")


@pytest.mark.parametrize(
    ("source", "written", "key"),
    [
        ("aws:s3", "a+b%20c", "a b c"),
        ("aws:s3", "caf%C3%A9%2B/100%25", "café+/100%"),
        ("minio:s3", "users%2FABC+1", "users/ABC 1"),
        ("ceph:s3", "a+b%20c", "a+b%20c"),
        ("ceph:s3", "100%", "100%"),
    ],
)
def test_keys_are_decoded_but_for_those_of_ceph(source: str, written: str, key: str) -> None:
    assert said(event(record(written, source=source))) == ([("images", key)], "")


def test_eventbridge_s_own_events_are_taken_and_a_key_that_can_be_read_in_two_ways_is_looked_at_in_both() -> None:
    assert said(in_eventbridge(native("a/b"))) == ([("images", "a/b")], "")
    assert said(in_sns(in_eventbridge(native("a+b")))) == ([("images", "a+b"), ("images", "a b")], "")
    assert said(in_eventbridge(native("100%ff"))) == ([("images", "100%ff")], "")


def test_an_s3_event_may_be_the_detail_of_an_event_of_eventbridge() -> None:
    assert said(in_eventbridge(event(record("a+b")), source="mine")) == ([("images", "a b")], "")


@pytest.mark.parametrize("message", [TEST_EVENT, in_sns(TEST_EVENT), in_sns(in_sns(TEST_EVENT)), event()])
def test_a_test_event_is_well_and_names_nothing(message: object) -> None:
    assert said(message) == ([], "")


def test_what_was_only_read_needs_no_look() -> None:
    """A look reads it again, which would be told again."""
    assert said(event(record("a", source="minio:s3", name="s3:ObjectAccessed:Get"))) == ([], "")


@pytest.mark.parametrize(
    "name", ["ObjectCreated:Put", "s3:ObjectRemoved:Delete", "ObjectTagging:Put", "what comes next year"]
)
def test_whatever_else_happened_to_an_object_it_is_looked_at(name: str) -> None:
    assert said(event(record("a", name=name))) == ([("images", "a")], "")


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        (event(record("a", source="aws:sqs")), "wrong source"),
        (event({"eventSource": "aws:dynamodb", "dynamodb": {}}), "wrong source"),
        (in_eventbridge({"instance-id": "i-1"}, source="aws.ec2"), "wrong source"),
        (in_eventbridge({"bucket": {"name": "b"}}), "no event"),
        (event({"s3": {"bucket": {"name": "b"}, "object": {"key": "k"}}}), "no event"),
        (event(record(""), record("", "b")), "empty"),
        (event(record("k", bucket="")), "no event"),
        (event(record("k" * 1025)), "too long"),
        (event(record("%FF")), "no UTF-8"),
        (event(record("\ud800")), "no UTF-8"),
        (event(record("\ud800", source="ceph:s3")), "no UTF-8"),
        (event(None, "x", []), "no event"),
        ({"Type": "SubscriptionConfirmation", "SubscribeURL": "https://sns", "Message": "You have"}, "no event"),
        (in_sns(in_sns(in_sns(event(record("a"))))), "no event"),
        ({"Type": "Notification", "Message": "hello"}, "no JSON"),
        ({"Records": "a"}, "no event"),
        ([], "no event"),
        (None, "no event"),
        ("text", "no event"),
    ],
)
def test_what_names_no_object_is_told_by_kind(message: object, kind: str) -> None:
    assert said(message) == ([], kind)


def test_records_beside_one_that_is_wrong_count() -> None:
    assert said(event(record("a"), record("b", source="aws:sqs"), record("c"))) == (
        [("images", "a"), ("images", "c")], "wrong source",
    )  # fmt: skip


@pytest.mark.parametrize(
    "message",
    [b"", b"\xff\xfe\x00", b"{", b"[" * 200_000, b'{"Records":' * 100_000, b"9" * 100_000, b'{"Records":[NaN]}',
     b'{"a":' + b"1" * 5000 + b"}", b"\xef\xbb\xbf{}"],
)  # fmt: skip
def test_bytes_that_are_no_json_are_told_so(message: bytes) -> None:
    notices, wrong = events_in(message)
    assert notices == []
    assert wrong is not None and len(str(wrong)) < 300


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(["Records", "s3", "bucket", "name", "object", "key", "eventSource", "eventName", "Type",
                         "Message", "detail", "detail-type", "source", "Event"]), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip
damaged = st.builds(
    lambda text, at, what: text[:at] + what + text[at + len(what) :],
    st.sampled_from([json.dumps(one) for one in (event(record("a+b")), in_sns(event(record("a"))), TEST_EVENT)]),
    st.integers(0, 300),
    st.text(max_size=5),
)


@given(st.binary(max_size=200) | st.text(max_size=200) | json_values.map(json.dumps) | damaged)
def test_nothing_at_all_crashes_it_and_what_it_names_may_be_a_key(message: str | bytes) -> None:
    notices, _ = events_in(message)
    for notice in notices:
        assert 1 <= len(notice.key.encode()) <= 1024
        assert notice.bucket


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=50), st.booleans())
def test_any_key_comes_through(key: str, is_ceph: bool) -> None:
    written = record(key, source="ceph:s3") if is_ceph else record(quote_plus(key))
    assert events_in(json.dumps(event(written))).notices == [Notification(key, "images")]


@pytest.mark.parametrize("filling", ["[],", "{},", '"",', '{"a":[{}]},'])
def test_memory_is_bounded_by_the_length_of_the_message(filling: str) -> None:
    body = '{"Records":[' + filling * (256 * 1024 // len(filling)) + "0]}"
    tracemalloc.start()
    try:
        notices, wrong = events_in(body)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (notices, wrong is not None) == ([], True)
    assert peak_bytes < 100 * len(body)
