"""Encode keys and queries; map keys to endpoint keys."""

from __future__ import annotations

from urllib.parse import parse_qsl, unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3s3.errors import InvalidKey
from s3s3.model import Endpoint
from s3s3.s3.address import encode_query
from s3s3.s3.request import KeyMapper, encode_key

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


@given(text)
def test_an_encoded_key_is_a_valid_path_and_decodes_to_the_key(key: str) -> None:
    encoded = encode_key(key)
    assert unquote(encoded) == key
    assert all(part.isascii() and (part.isalnum() or part in "-._~/%") for part in encoded)


@given(st.lists(st.tuples(text, text)))
def test_a_query_decodes_to_itself(pairs: list[tuple[str, str | None]]) -> None:
    assert parse_qsl(encode_query(pairs), keep_blank_values=True, separator="&") == pairs


def test_a_name_without_a_value_has_no_equals_sign() -> None:
    assert encode_query([("acl", None), ("prefix", "a b+/")]) == "acl&prefix=a%20b%2B%2F"


@given(text, text, text.filter(bool))
def test_an_endpoint_key_maps_back_to_the_key(own: str, source: str, rest: str) -> None:
    mapper = KeyMapper(Endpoint("d", "b", prefix=own), source)
    assert mapper.endpoint_key(source + rest) == own + rest
    assert mapper.source_key(own + rest) == source + rest


@pytest.mark.parametrize("key", ["", "x" * 1025, "ü" * 513, "\ud800", "p"])
def test_an_error_for_an_invalid_key_has_store_and_key(key: str) -> None:
    mapper = KeyMapper(Endpoint("d", "b", prefix=""), "p" if key == "p" else "")
    with pytest.raises(InvalidKey) as caught:
        mapper.endpoint_key(key)
    assert (caught.value.store, caught.value.key) == ("d", key)


def test_a_longer_prefix_can_make_a_key_too_long() -> None:
    mapper = KeyMapper(Endpoint("d", "b", prefix="copies/"), "")
    with pytest.raises(InvalidKey, match="has 1031 bytes"):
        mapper.endpoint_key("x" * 1024)
