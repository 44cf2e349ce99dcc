"""Which headers of a copy are those of its source, in the forms in which stores return them."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3s3.errors import (
    AccessDenied,
    IntegrityError,
    InvalidKey,
    NoSuchBucket,
    StoreError,
    StoreRefused,
    StoreUnavailable,
    TooLarge,
)
from s3s3.s3 import ObjectInfo
from s3s3.transfer import metadata
from s3s3.transfer.metadata import (
    MAX_METADATA_BYTES,
    MAX_METADATA_ITEMS,
    RefusedRecords,
    has_room_for_record,
    has_same_headers,
    headers_digest,
    may_concern_metadata,
)

ETAG = "0123456789abcdef0123456789abcdef-2"


def info(headers: Mapping[str, str], *, key: str = "key", recorded_headers: str | None = None) -> ObjectInfo:
    return ObjectInfo(key, 1, ETAG, headers=headers, recorded_headers=recorded_headers)


def meta(value: str) -> dict[str, str]:
    return {"x-amz-meta-m": value}


LATIN_1 = b"gr\xfc\xdf".decode("utf-8", "surrogateescape")


@pytest.mark.parametrize(
    ("source", "copy"),
    [
        ({"content-type": "image/fits", "x-amz-meta-a": "1"}, {"x-amz-meta-a": "1", "content-type": "image/fits"}),
        ({"x-amz-meta-a_b": "1"}, {"x-amz-meta-a_b": "1"}),
        ({"x-amz-meta-a_b": "1"}, {"x-amz-meta-a-b": "1"}),  # Ceph
        (meta(" a  b\t"), meta("a  b")),
        (meta("=?UTF-8?B?w7w=?="), meta("=?UTF-8?B?w7w=?=")),
        (meta("=?UTF-8?B?w7w=?="), meta("=?utf-8?q?=C3=BC?=")),
        (meta("gr\xfc\xdf"), meta("gr\xfc\xdf")),  # Ceph
        (meta("gr\xfc\xdf"), meta("=?UTF-8?B?Z3LDg8K8w4PCnw==?=")),  # Swift
        (meta("\xc4M\xc4Z\xd5\xd1 S3"), meta("=?UTF-8?B?w4PChE3Dg8KEWsODwpXDg8KRIFMz?=")),  # AWS's documentation
        (meta("gr\xfc\xdf"), meta("gr\xc3\xbc\xc3\x9f")),
        (meta("gr\xfc\xdf"), meta("=?UTF-8?Q?gr=C3=BC=C3=9F?=")),
        (meta("a gr\xfc\xdf\nb"), meta("=?UTF-8?Q?a_gr=C3=BC?=\n =?utf-8?q?=C3=9F=0Ab?=")),
        (meta("gr\xfc\xdf"), meta("gr%C3%BC%C3%9F")),
        (meta(LATIN_1), meta("=?UTF-8?B?Z3LDvMOf?=")),  # Swift
        (meta(LATIN_1), meta("=?UTF-8?Q?gr=FC=DF?=")),  # Ceph
        (meta("a\tb"), meta("=?UTF-8?Q?a=09b?=")),  # Ceph
        ({}, {"content-type": "binary/octet-stream"}),  # Ceph, Swift, AWS
        ({"content-type": ""}, {"content-type": "application/octet-stream"}),
        ({"x-amz-meta-a": "", "x-amz-meta-b": "1"}, {"x-amz-meta-b": "1"}),
        ({"content-encoding": "gzip, br"}, {"content-encoding": "gzip,br"}),
        ({"expires": "Thu, 01 Dec 2033 16:00:00 GMT"}, {"expires": "Thu, 1 Dec 2033 16:00:00 GMT"}),
        ({"expires": "2033-12-01T16:00:00Z"}, {"expires": "Thu, 01 Dec 2033 16:00:00 GMT"}),
        ({"expires": "Thursday, 01-Dec-33 16:00:00 GMT"}, {"expires": "Thu, 01 Dec 2033 16:00:00 GMT"}),
        ({"expires": "0"}, {"expires": "0"}),
    ],
)
def test_what_a_store_makes_of_a_header_is_no_difference(source: dict[str, str], copy: dict[str, str]) -> None:
    assert has_same_headers(info(source), info(copy))


@pytest.mark.parametrize(
    ("source", "copy"),
    [
        ({"content-type": "image/fits"}, {"content-type": "text/plain"}),
        ({"content-type": "image/fits"}, {"content-type": "binary/octet-stream"}),
        ({"content-type": "image/fits"}, {}),
        ({}, {"content-type": "image/fits"}),
        ({"x-amz-meta-a": "1"}, {"x-amz-meta-a": "2"}),
        ({"x-amz-meta-a": "1"}, {}),
        ({}, {"x-amz-meta-a": "1"}),
        ({"x-amz-meta-a": ""}, {"x-amz-meta-a": "1"}),
        ({"x-amz-meta-a-b": "1"}, {"x-amz-meta-a_b": "1"}),
        ({"x-amz-meta-a_b": "1", "x-amz-meta-a-b": "2"}, {"x-amz-meta-a-b": "2"}),
        (meta("a b"), meta("a  b")),
        (meta("a b"), meta("a%20b")),
        (meta("abc"), meta("=?UTF-8?Q?abc?=")),
        (meta("=?UTF-8?Q?abc?="), meta("abc")),
        (meta("=?UTF-8?B?w7w=?="), meta("=?UTF-8?B?w7Y=?=")),
        (meta("gr\xfc\xdf"), meta("gruss")),
        (meta("gr\xfc\xdf"), meta("=?UTF-8?B?Z3LDvA==?=")),
        (meta("gr\xfc\xdf"), meta("=?UTF-8?B?!?=")),
        (meta("gr\xfc\xdf"), meta("=?UTF-8?X?Z3LDvA==?=")),
        ({"content-encoding": "gzip"}, {}),
        ({"cache-control": "max-age=1"}, {"cache-control": "max-age=2"}),
        ({"expires": "Thu, 01 Dec 2033 16:00:00 GMT"}, {"expires": "Thu, 01 Dec 2033 16:00:01 GMT"}),
        ({"expires": "0"}, {"expires": "-1"}),
    ],
)
def test_a_changed_header_is_a_difference(source: dict[str, str], copy: dict[str, str]) -> None:
    assert not has_same_headers(info(source), info(copy))


def test_a_copy_that_records_the_source_headers_has_them_whatever_its_store_returns() -> None:
    source = {"x-amz-meta-odd@name": "1"}
    recorded = headers_digest(source)

    assert has_same_headers(info(source), info({}, recorded_headers=recorded))
    assert not has_same_headers(info({**source, "x-amz-meta-new": "1"}), info({}, recorded_headers=recorded))
    assert not has_same_headers(info(source), info({}, recorded_headers=""))


TEXTS = st.text(st.characters(exclude_categories=()), max_size=30)
HEADERS = st.dictionaries(st.sampled_from(["content-type", "expires", "content-encoding", "x-amz-meta-a_b"]), TEXTS)


@given(HEADERS, HEADERS)
def test_any_headers_can_be_compared(source: dict[str, str], copy: dict[str, str]) -> None:
    source, copy = ({name: as_received(value) for name, value in each.items()} for each in (source, copy))
    assert has_same_headers(info(source), info(copy)) in (True, False)
    assert has_same_headers(info(source), info(source))


def as_received(text: str) -> str:
    """Return a header value as the client decodes it."""
    return text.encode("utf-8", "surrogatepass").decode("utf-8", "surrogateescape")


WORST = ["=?utf-8?q?" * 6500, "=?" * 32_000, "% " * 32_000, "\n " * 32_000, f"=?utf-8?b?{'A' * 64_000}?="]


@pytest.mark.parametrize("value", WORST)
@pytest.mark.parametrize("name", ["x-amz-meta-a", "expires", "content-encoding"])
def test_a_comparison_of_long_values_takes_no_quadratic_time(name: str, value: str) -> None:
    for source in (value + "x", "\xfc" + value):
        assert not has_same_headers(info({name: source}), info({name: value}))


# limits


@pytest.mark.parametrize(
    ("headers", "has_room"),
    [
        ({}, True),
        ({"content-type": "x" * MAX_METADATA_BYTES}, True),
        ({f"x-amz-meta-{number}": "v" for number in range(MAX_METADATA_ITEMS - 1)}, True),
        ({f"x-amz-meta-{number}": "v" for number in range(MAX_METADATA_ITEMS)}, False),
        (meta("v" * (MAX_METADATA_BYTES - 1 - len("s3s3-source-etag") - len(ETAG))), True),
        (meta("v" * (MAX_METADATA_BYTES - len("s3s3-source-etag") - len(ETAG))), False),
        (meta("\xfc" * (MAX_METADATA_BYTES // 2)), False),
    ],
)
def test_room_for_a_record_is_that_of_aws_and_swift(headers: dict[str, str], has_room: bool) -> None:
    assert has_room_for_record(info(headers)) is has_room


@pytest.mark.parametrize(
    ("error", "may_concern"),
    [
        (StoreRefused("", status=400, code="MetadataTooLarge"), True),
        (StoreRefused("", status=400, code="InvalidRequest"), True),
        (StoreRefused("", status=400, code="InvalidArgument"), True),
        (StoreRefused("", status=400), True),
        (StoreRefused("", status=431), True),
        (TooLarge("", status=413), True),
        (StoreRefused("", status=400, code="RequestHeaderSectionTooLarge"), True),
        (StoreUnavailable("", status=400), True),
        (StoreUnavailable("", status=500, code="UnknownError"), True),
        (StoreUnavailable("", status=500, code="InternalError"), False),
        (StoreUnavailable("", status=400, code="RequestTimeout"), False),
        (StoreUnavailable("", status=503, code="SlowDown"), False),
        (StoreUnavailable("no response"), False),
        (TooLarge("", status=400, code="EntityTooLarge"), False),
        (StoreRefused("", status=400, code="InvalidDigest"), False),
        (IntegrityError("", status=400, code="BadDigest"), False),
        (InvalidKey("", status=400, code="KeyTooLongError"), False),
        (AccessDenied("", status=400, code="ExpiredToken"), False),
        (AccessDenied("", status=403), False),
        (NoSuchBucket("", status=404), False),
        (StoreRefused("", status=409), False),
    ],
)
def test_refusals_that_may_concern_metadata(error: StoreError, may_concern: bool) -> None:
    assert may_concern_metadata(error) is may_concern


# what a process remembers


def test_copies_without_records_are_remembered_until_the_source_changes() -> None:
    refused = RefusedRecords()
    source, replaced = info({"x-amz-meta-a": "1"}), info({"x-amz-meta-a": "0"})
    refused.add("dest", source, replaced)

    assert refused.has("dest", source)
    assert refused.is_unchanged("dest", source, replaced)
    assert not refused.is_unchanged("dest", source, info({"x-amz-meta-a": "3"}))
    changed = info({"x-amz-meta-a": "2"})
    assert not refused.has("dest", changed) and not refused.is_unchanged("dest", changed, replaced)
    assert not refused.has("other", source)
    refused.add("dest", source, None)
    assert refused.is_unchanged("dest", source, replaced)


def test_a_process_remembers_a_limited_number_of_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "MAX_REMEMBERED", 2)
    refused = RefusedRecords()
    for key in "abac":
        refused.add("dest", info({"x-amz-meta-a": key}, key=key), info({}))

    assert [refused.has("dest", info({"x-amz-meta-a": key}, key=key)) for key in "abc"] == [True, False, True]
