"""S3 event JSON as stores, SNS and EventBridge send it, and invalid input."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any
from urllib.parse import quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3s3.model import Notification
from s3s3.notifications.s3_events import parse_events

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


def parsed(content: object) -> tuple[list[tuple[str | None, str]], str]:
    """The buckets and keys in a message, and the kind of its problem."""
    notifications, problem = parse_events(json.dumps(content))
    return [(notification.bucket, notification.key) for notification in notifications], problem.kind if problem else ""


@pytest.mark.parametrize("wrap", [lambda content: content, in_sns, lambda content: in_sns(in_sns(content))])
def test_every_record_is_returned_in_any_envelope(wrap: Any) -> None:
    message = wrap(event(record("a"), record("b", "logs", name="ObjectRemoved:Delete"), record("c")))
    assert parsed(message) == ([("images", "a"), ("logs", "b"), ("images", "c")], "")


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
def test_keys_are_url_decoded_except_from_ceph(source: str, written: str, key: str) -> None:
    assert parsed(event(record(written, source=source))) == ([("images", key)], "")


def test_an_eventbridge_key_that_decoding_changes_is_returned_in_both_forms() -> None:
    assert parsed(in_eventbridge(native("a/b"))) == ([("images", "a/b")], "")
    assert parsed(in_sns(in_eventbridge(native("a+b")))) == ([("images", "a+b"), ("images", "a b")], "")
    assert parsed(in_eventbridge(native("100%ff"))) == ([("images", "100%ff")], "")


def test_an_s3_event_in_the_detail_of_an_eventbridge_event_is_parsed() -> None:
    assert parsed(in_eventbridge(event(record("a+b")), source="mine")) == ([("images", "a b")], "")


@pytest.mark.parametrize("message", [TEST_EVENT, in_sns(TEST_EVENT), in_sns(in_sns(TEST_EVENT)), event()])
def test_a_test_event_is_valid_and_has_no_keys(message: object) -> None:
    assert parsed(message) == ([], "")


def test_read_events_are_skipped() -> None:
    """s3s3 itself reads objects; each read would cause the next one."""
    assert parsed(event(record("a", source="minio:s3", name="s3:ObjectAccessed:Get"))) == ([], "")


@pytest.mark.parametrize(
    "name", ["ObjectCreated:Put", "s3:ObjectRemoved:Delete", "ObjectTagging:Put", "UnknownEvent:New"]
)
def test_every_other_event_is_a_notification(name: str) -> None:
    assert parsed(event(record("a", name=name))) == ([("images", "a")], "")


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        (event(record("a", source="aws:sqs")), "wrong_source"),
        (event({"eventSource": "aws:dynamodb", "dynamodb": {}}), "wrong_source"),
        (in_eventbridge({"instance-id": "i-1"}, source="aws.ec2"), "wrong_source"),
        (in_eventbridge({"bucket": {"name": "b"}}), "no_event"),
        (event({"s3": {"bucket": {"name": "b"}, "object": {"key": "k"}}}), "no_event"),
        (event(record(""), record("", "b")), "empty"),
        (event(record("k", bucket="")), "no_event"),
        (event(record("k" * 1025)), "too_long"),
        (event(record("%FF")), "not_utf8"),
        (event(record("\ud800")), "not_utf8"),
        (event(record("\ud800", source="ceph:s3")), "not_utf8"),
        (event(None, "x", []), "no_event"),
        ({"Type": "SubscriptionConfirmation", "SubscribeURL": "https://sns", "Message": "You have"}, "no_event"),
        (in_sns(in_sns(in_sns(event(record("a"))))), "no_event"),
        ({"Type": "Notification", "Message": "hello"}, "not_json"),
        ({"Records": "a"}, "no_event"),
        ([], "no_event"),
        (None, "no_event"),
        ("text", "no_event"),
    ],
)
def test_an_unusable_message_is_rejected_with_its_kind(message: object, kind: str) -> None:
    assert parsed(message) == ([], kind)


def test_a_bad_record_does_not_affect_the_others() -> None:
    assert parsed(event(record("a"), record("b", source="aws:sqs"), record("c"))) == (
        [("images", "a"), ("images", "c")], "wrong_source",
    )  # fmt: skip


@pytest.mark.parametrize(
    "message",
    [b"", b"\xff\xfe\x00", b"{", b"[" * 200_000, b'{"Records":' * 100_000, b"9" * 100_000, b'{"Records":[NaN]}',
     b'{"a":' + b"1" * 5000 + b"}", b"\xef\xbb\xbf{}"],
)  # fmt: skip
def test_bytes_that_are_not_json_are_rejected(message: bytes) -> None:
    notifications, problem = parse_events(message)
    assert notifications == []
    assert problem is not None and len(str(problem)) < 300


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
def test_any_input_is_parsed_without_an_error_to_valid_keys(message: str | bytes) -> None:
    notifications, _ = parse_events(message)
    for notification in notifications:
        assert 1 <= len(notification.key.encode()) <= 1024
        assert notification.bucket


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=50), st.booleans())
def test_any_key_is_parsed(key: str, is_ceph: bool) -> None:
    written = record(key, source="ceph:s3") if is_ceph else record(quote_plus(key))
    assert parse_events(json.dumps(event(written))).notifications == [Notification(key, "images")]


@pytest.mark.long
@pytest.mark.parametrize("filling", ["[],", "{},", '"",', '{"a":[{}]},'])
def test_memory_is_bounded_by_the_length_of_the_message_times_100(filling: str) -> None:
    body = '{"Records":[' + filling * (256 * 1024 // len(filling)) + "0]}"
    tracemalloc.start()
    try:
        notifications, problem = parse_events(body)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (notifications, problem is not None) == ([], True)
    assert peak_bytes < 100 * len(body)


@pytest.mark.parametrize(
    ("name", "arn", "bucket"),
    [
        ("images", "arn:aws:s3::acme:images", "acme:images"),  # as Ceph 16.2.15 sends it
        ("acme:images", "arn:aws:s3:default:acme:images", "acme:images"),
        ("images", "arn:aws:s3:::images", "images"),
        ("images", "images", "images"),
        ("images", 5, "images"),
        ("images", None, "images"),
    ],
)
def test_the_tenant_of_a_bucket_is_taken_from_its_arn(name: str, arn: object, bucket: str) -> None:
    record = {"eventSource": "ceph:s3", "s3": {"bucket": {"name": name, "arn": arn}, "object": {"key": "k"}}}
    assert parse_events(json.dumps({"Records": [record]})) == ([Notification("k", bucket)], None)
