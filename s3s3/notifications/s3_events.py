"""Parse S3 event JSON, plain or wrapped by SNS or EventBridge.

Only the bucket and the key of an event are used. Which event it was does not matter, except that reads of an object are
skipped: s3s3 itself reads objects.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, NamedTuple
from urllib.parse import unquote_plus

from ..model import Notification
from .message import BadMessage, check_key

#: SNS messages nested in each other; EventBridge in SNS in a forwarded SNS message has two.
MAX_ENVELOPES = 3

TEST_EVENT = "s3:TestEvent"
_UNENCODED_SOURCE = "ceph:s3"
_READ_EVENT = "ObjectAccessed:"


class ParsedEvents(NamedTuple):
    """The notifications in a message, and the first problem with the rest of it, or None."""

    notifications: list[Notification]
    problem: BadMessage | None = None


def parse_events(message: str | bytes) -> ParsedEvents:
    """Parse an S3 event message. Accepts any input and does not raise.

    Sources: Amazon S3 user guide, "Event message structure" (`s3:TestEvent`; keys are URL-encoded, with `+` for a
    space); Amazon SNS developer guide, "HTTP/HTTPS notification JSON format". Ceph sends `ceph:s3` and does not encode
    keys (observed with 16.2.15); MinIO sends `minio:s3` and does.
    """
    try:
        return _parse(_unwrap(message))
    except BadMessage as bad:
        return ParsedEvents([], bad)


def _unwrap(message: str | bytes) -> dict[str, Any]:
    """Return the S3 event in a message, without the envelopes of SNS."""
    for _ in range(MAX_ENVELOPES):
        try:
            content = json.loads(message)
        except (ValueError, RecursionError) as error:  # also raised for invalid UTF-8 and for endless numbers
            raise BadMessage("not_json", "not JSON: " + (str(error)[:100] or "nested too deeply")) from None
        if not isinstance(content, dict):
            raise BadMessage("no_event", "not an S3 event: the JSON is not an object")
        inner = content.get("Message")
        if content.get("Type") != "Notification" or not isinstance(inner, str):
            return content
        message = inner
    raise BadMessage("no_event", f"more than {MAX_ENVELOPES} nested SNS envelopes")


def _parse(content: dict[str, Any]) -> ParsedEvents:
    if content.get("Event") == TEST_EVENT:
        return ParsedEvents([])
    detail = content.get("detail")
    if isinstance(detail, dict) and "detail-type" in content:
        if "Records" not in detail:
            return _parse_eventbridge(content.get("source"), detail)
        content = detail
    records = content.get("Records")
    if not isinstance(records, list):
        raise BadMessage("no_event", "not an S3 event: the JSON has no Records")
    notifications: list[Notification] = []
    problem = None
    for record in records:
        try:
            notifications += _parse_record(record)
        except BadMessage as bad:
            problem = problem or bad
    return ParsedEvents(notifications, problem)


def _parse_record(record: Any) -> Iterator[Notification]:
    match record:
        case {"eventSource": str(source)} if not source.endswith(":s3"):
            raise BadMessage("wrong_source", f"not an S3 event: its source is {source[:40]!r}")
        case {"eventSource": str(source), "s3": {"bucket": {"name": str(bucket)}, "object": {"key": str(key)}}}:
            name, arn = record.get("eventName"), record["s3"]["bucket"].get("arn")
            if bucket and isinstance(arn, str) and (tenant := bucket_parts(arn)[0]):
                bucket = f"{tenant}:{bucket_parts(bucket)[1]}"  # Ceph names the tenant in the ARN only
            if not (isinstance(name, str) and name.removeprefix("s3:").startswith(_READ_EVENT)):
                yield _notification(bucket, key if source == _UNENCODED_SOURCE else _decode_key(key))
        case _:
            raise BadMessage("no_event", "record without eventSource, s3.bucket.name or s3.object.key")


def _parse_eventbridge(source: object, detail: dict[str, Any]) -> ParsedEvents:
    """Parse an event that S3 sends to EventBridge (S3 user guide, "EventBridge event message structure").

    The guide does not define whether the key is URL-encoded, and reports differ. Where decoding changes the key, both
    forms are notified; the wrong one costs a GET.
    """
    if source != "aws.s3":
        shown = repr(source[:40]) if isinstance(source, str) else type(source).__name__
        raise BadMessage("wrong_source", f"not an S3 event: its source is {shown}")
    match detail:
        case {"bucket": {"name": str(bucket)}, "object": {"key": str(key)}}:
            forms = [key]
            with suppress(BadMessage):
                forms.append(check_key(_decode_key(key)))
            return ParsedEvents([_notification(bucket, form) for form in dict.fromkeys(forms)])
    raise BadMessage("no_event", "event without detail.bucket.name or detail.object.key")


def _notification(bucket: str, key: str) -> Notification:
    if not bucket:
        raise BadMessage("no_event", "the bucket name is empty")
    return Notification(check_key(key), bucket)


def bucket_parts(name: str) -> tuple[str, str]:
    """Return the tenant, or "", and the name in a bucket's name, "tenant:name", "tenant/name" or ARN."""
    parts = name.split(":", 5)
    if parts[0] == "arn" and len(parts) == 6:  # arn:PARTITION:s3:REGION:TENANT:NAME
        return parts[4], parts[5].partition("/")[0]
    tenant, separator, rest = name.replace("/", ":", 1).partition(":")
    return (tenant, rest) if separator else ("", name)


def _decode_key(key: str) -> str:
    try:
        return unquote_plus(key, errors="strict")
    except UnicodeDecodeError as error:
        raise BadMessage("not_utf8", f"the decoded key is not valid UTF-8: {error.reason}") from None
