"""Extracting the key from a message."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3s3.notifications.message import BadMessage, parse_message, printable_message


@given(st.text(min_size=1, max_size=256))
def test_a_message_is_the_key_in_utf8(key: str) -> None:
    if len(key.encode("utf-8", "surrogatepass")) <= 1024 and not any("\ud800" <= c <= "\udfff" for c in key):
        assert parse_message(key.encode()) == key


@pytest.mark.parametrize(
    ("message", "kind"),
    [(b"", "empty"), (b"k" * 1025, "too_long"), (b"\xff\xfe", "not_utf8"), (b"ok\xc3", "not_utf8")],
)
def test_an_unusable_message_is_rejected_with_its_kind(message: bytes, kind: str) -> None:
    with pytest.raises(BadMessage) as caught:
        parse_message(message)
    assert caught.value.kind == kind


def test_a_key_has_at_most_1024_bytes() -> None:
    assert parse_message("é".encode() * 512) == "é" * 512
    with pytest.raises(BadMessage):
        parse_message("é".encode() * 512 + b"x")


@given(st.binary())
def test_any_message_is_printable_and_cut(message: bytes) -> None:
    assert len(printable_message(message)) <= 4 * 1024 + 40
    printable_message(message).encode()
