"""S3 event JSON: what a store says to a queue or a webhook, plain or in the envelope of SNS or EventBridge.

Events are read for the bucket and the key alone. What happened to the object does not matter: each says that the key
is worth a look, and only reads of an object are passed over, for s3s3 makes such itself.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple
from urllib.parse import unquote_plus

from ..model import Notification
from .message import BadMessage, checked_key

MAX_ENVELOPES = 3
"""EventBridge within SNS within a forwarded SNS message is as deep as anybody has use for."""

TEST_EVENT = "s3:TestEvent"
_UNENCODED = "ceph:s3"
_A_READ = "ObjectAccessed:"


class ParsedEvents(NamedTuple):
    """What a message says: the notices in it, and what is wrong with the rest, None where nothing is."""

    notices: list[Notification]
    wrong: BadMessage | None = None


def events_in(message: str | bytes) -> ParsedEvents:
    """Return what an S3 event message says. It takes any input there is.

    Sources: Amazon S3 user guide, "Event message structure" (`s3:TestEvent`, and keys that are URL-encoded, with `+`
    for a space); Amazon SNS developer guide, "HTTP/HTTPS notification JSON format". Ceph says `ceph:s3` and does not
    encode its keys (seen in 16.2.15); MinIO says `minio:s3` and does.
    """
    try:
        return _events_of(_unwrapped(message))
    except BadMessage as bad:
        return ParsedEvents([], bad)


def _unwrapped(message: str | bytes) -> dict[str, Any]:
    """Return the S3 event within a message, without the envelopes of SNS."""
    for _ in range(MAX_ENVELOPES):
        content = _json_object(message)
        inner = content.get("Message")
        if content.get("Type") != "Notification" or not isinstance(inner, str):
            return content
        message = inner
    raise BadMessage("no event", f"more than {MAX_ENVELOPES} envelopes of SNS around each other")


def _json_object(text: str | bytes) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:  # no UTF-8 and numbers without end are ValueErrors, too
        raise BadMessage("no JSON", "no JSON: " + (str(error)[:100] or "nested too deeply")) from None
    if not isinstance(content, dict):
        raise BadMessage("no event", "JSON, and no S3 event: no object in braces")
    return content


def _events_of(content: dict[str, Any]) -> ParsedEvents:
    if content.get("Event") == TEST_EVENT:
        return ParsedEvents([])
    detail = content.get("detail")
    if isinstance(detail, dict) and "detail-type" in content:
        if "Records" not in detail:
            return _event_of_eventbridge(content.get("source"), detail)
        content = detail
    records = content.get("Records")
    if not isinstance(records, list):
        raise BadMessage("no event", "JSON, and no S3 event: it has no Records")
    notices: list[Notification] = []
    wrong = None
    for record in records:
        try:
            notices += _notices_of(record)
        except BadMessage as bad:
            wrong = wrong or bad
    return ParsedEvents(notices, wrong)


def _notices_of(record: Any) -> Iterator[Notification]:
    match record:
        case {"eventSource": str(source)} if not source.endswith(":s3"):
            raise BadMessage("wrong source", f"an event of {source[:40]!r}, and not of S3")
        case {"eventSource": str(source), "s3": {"bucket": {"name": str(bucket)}, "object": {"key": str(key)}}}:
            if not str(record.get("eventName", "")).removeprefix("s3:").startswith(_A_READ):
                yield _notice(bucket, key if source == _UNENCODED else _decoded(key))
        case _:
            raise BadMessage("no event", "a record without eventSource, s3.bucket.name or s3.object.key")


def _event_of_eventbridge(source: object, detail: dict[str, Any]) -> ParsedEvents:
    """Return what S3's own event says in EventBridge's form (S3 user guide, "EventBridge event message structure").

    It does not tell whether the key is URL-encoded, and those who use it do not agree. So where that matters both
    keys get a look: the one that is no object's costs a GET.
    """
    if source != "aws.s3":
        raise BadMessage("wrong source", f"an event of {str(source)[:40]!r}, and not of S3")
    match detail:
        case {"bucket": {"name": str(bucket)}, "object": {"key": str(key)}}:
            return ParsedEvents([_notice(bucket, one) for one in dict.fromkeys((key, *_if_decodable(key)))])
    raise BadMessage("no event", "an event without detail.bucket.name or detail.object.key")


def _notice(bucket: str, key: str) -> Notification:
    if not bucket:
        raise BadMessage("no event", "a bucket without a name")
    return Notification(checked_key(key), bucket)


def _decoded(key: str) -> str:
    try:
        return unquote_plus(key, errors="strict")
    except UnicodeDecodeError as error:
        raise BadMessage("no UTF-8", f"a key that is no UTF-8 when decoded: {error.reason}") from None


def _if_decodable(key: str) -> Iterator[str]:
    try:
        yield checked_key(_decoded(key))
    except BadMessage:
        return
