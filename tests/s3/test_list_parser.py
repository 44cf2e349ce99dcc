"""Parse pages of real stores, and invalid ones."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import quote, quote_plus
from xml.sax.saxutils import escape

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s3s3.errors import StoreRefused
from s3s3.model import Entry
from s3s3.s3 import list_parser
from s3s3.s3.list_parser import parse_page

SPACE = "http://s3.amazonaws.com/doc/2006-03-01/"
ETAG = "9dd4e461268c8034f5c8564e155c67a6"
WHEN = "2026-10-05T21:09:27.250Z"
WHEN_MS = 1_791_234_567_250


def page(*contents: str, about: str = "<EncodingType>url</EncodingType><KeyCount>1</KeyCount>") -> bytes:
    return (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<ListBucketResult xmlns="{SPACE}"><Name>b</Name><Prefix></Prefix>'
        f"<IsTruncated>false</IsTruncated>{''.join(contents)}{about}</ListBucketResult>"
    ).encode()


def ceph(key: str) -> str:
    return (
        f"<Contents><Key>{quote(key, safe='')}</Key><LastModified>{WHEN}</LastModified><ETag>&quot;{ETAG}&quot;</ETag>"
        "<Size>7</Size><StorageClass>STANDARD</StorageClass><Owner><ID>u</ID><DisplayName>u</DisplayName></Owner>"
        "<Type>Normal</Type></Contents>"
    )


def swift(key: str) -> str:
    return (
        f'<Contents><Key>{quote(key)}</Key><LastModified>{WHEN}</LastModified><ETag>"{ETAG}"</ETag>'
        "<Size>7</Size><StorageClass>STANDARD</StorageClass></Contents>"
    )


def aws(key: str) -> str:
    return (
        f"<Contents><Key>{quote_plus(key, safe='/')}</Key><LastModified>{WHEN}</LastModified><ETag>&quot;{ETAG}&quot;"
        "</ETag><ChecksumAlgorithm>CRC32</ChecksumAlgorithm><ChecksumType>FULL_OBJECT</ChecksumType><Size>7</Size>"
        "<StorageClass>STANDARD</StorageClass></Contents>"
    )


def rclone(key: str) -> str:
    return (
        f"\n  <Contents>\n    <Key>{quote_plus(key, safe='/')}</Key>\n    <LastModified>{WHEN}</LastModified>\n"
        f"    <ETag>&#34;{ETAG}&#34;</ETag>\n    <Size>7</Size>\n  </Contents>\n"
    )


def prefixed(key: str) -> str:
    return aws(key).replace("<", f'<s:Contents xmlns:s="{SPACE}"><').replace("x", "x")


keys = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30)


@settings(max_examples=300, deadline=None)
@given(st.lists(keys, max_size=5), st.sampled_from([ceph, swift, aws, rclone]))
def test_every_key_is_read_from_the_encoding_of_every_store(names: list[str], write: Callable[[str], str]) -> None:
    listed = parse_page(page(*map(write, names)))
    assert listed.entries == [Entry(name, 7, ETAG, WHEN_MS) for name in names]


@settings(max_examples=300, deadline=None)
@given(st.lists(keys, max_size=5), st.sampled_from([ceph, swift, aws]))
def test_the_regular_expression_and_the_xml_parser_agree(names: list[str], write: Callable[[str], str]) -> None:
    text = page(*map(write, names)).decode()
    quick = list_parser._match(text.replace("&quot;", '"'))
    assert quick is not None
    fields, about = list_parser._parse(text)
    assert quick[0] == fields
    assert quick[1].items() <= about.items()


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.text(st.characters(codec="utf-8", min_codepoint=32, exclude_characters="\x7f\ufffe\uffff")), max_size=5)
)
def test_keys_that_are_not_encoded_are_read_unchanged(names: list[str]) -> None:
    contents = [ceph("k").replace("<Key>k<", f"<Key>{escape(name)}<") for name in names]
    for written in (contents, [text.replace("<Size>", " <Size>") for text in contents]):
        listed = parse_page(page(*written, about=""))
        assert [entry.key for entry in listed.entries] == names


def test_control_characters_outside_of_keys_are_accepted() -> None:
    about = "<EncodingType>url</EncodingType><NextContinuationToken>\x01\x7f</NextContinuationToken>"
    for contents in (ceph("\x01\x7f"), rclone("\x01\x7f")):
        assert parse_page(page(contents, about=about)).entries[0].key == "\x01\x7f"


def test_the_header_of_a_page_is_parsed() -> None:
    truncated = page(swift("a"), about="<NextMarker>x&amp;y</NextMarker>").replace(b">false<", b">true<")
    listed = parse_page(truncated)
    assert (listed.is_truncated, listed.is_v2, listed.token) == (True, False, "x&y")
    listed = parse_page(page())
    assert (listed.entries, listed.is_truncated, listed.is_v2, listed.token) == ([], False, True, "")


def test_a_key_that_looks_like_a_field_is_not_one() -> None:
    key = "<IsTruncated>true</IsTruncated>"
    raw = page(ceph("k").replace("<Key>k<", f"<Key>{escape(key)}<"), about="")
    assert parse_page(raw).is_truncated is False
    assert parse_page(raw).entries[0].key == key


@pytest.mark.parametrize(
    ("when", "expected_ms"),
    [
        ("2026-10-05T21:09:27.250Z", 1_791_234_567_250),
        ("2026-10-05T21:09:27Z", 1_791_234_567_000),
        ("2026-10-05T21:09:27.5Z", 1_791_234_567_500),
        ("2026-10-05T21:09:27.250999999Z", 1_791_234_567_250),
        ("1969-12-31T23:59:59.000Z", -1000),
    ],
)
def test_times_are_parsed_to_the_millisecond(when: str, expected_ms: int) -> None:
    assert parse_page(page(swift("a").replace(WHEN, when))).entries[0].modified_ms == expected_ms


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"<html><body>welcome to the hotel</body></html>",
        b"<ListBucketResult>",
        b"\xff\xfe",
        page(swift("a")).replace(b"<IsTruncated>false</IsTruncated>", b""),
        page(swift("a").replace("<Size>7</Size>", "")),
        page(swift("a").replace("<Size>7", "<Size>many")),
        page(swift("a").replace(WHEN, "yesterday")),
        page(swift("a").replace(WHEN, "2026-10-05T21:09:27.250+02:00")),
        page(swift("a").replace(">a<", ">%FF<")),
        b'<!DOCTYPE a [<!ENTITY b "c">]>' + page(swift("a")),
        b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b "c">]><ListBucketResult>&b;</ListBucketResult>',
    ],
)
def test_a_response_that_is_not_a_listing_is_refused(raw: bytes) -> None:
    with pytest.raises(StoreRefused):
        parse_page(raw)


def test_entries_are_renamed() -> None:
    listed = parse_page(page(swift("own/a")), rename=lambda key: "source/" + key[4:])
    assert listed.entries[0].key == "source/a"
    assert listed.last_key == "own/a"
