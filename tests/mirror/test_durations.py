"""Durations in x-max-wait-duration, in the syntax of Go."""

from __future__ import annotations

import pytest

from s3s3.mirror.copy_proxy import parse_wait


@pytest.mark.parametrize(
    ("text", "wait_s"),
    [("500ms", 0.5), ("1s", 1), ("1m", 60), ("1m20.5s", 80.5), (".5s", 0.5), ("1.s", 1), ("0", 0), ("0s", 0),
     ("30us", 3e-5), ("30\u00b5s", 3e-5), ("10ns", 1e-8), ("0.01h", 36)],
)  # fmt: skip
def test_a_valid_duration(text: str, wait_s: float) -> None:
    assert parse_wait(text, 90) == pytest.approx(wait_s)


@pytest.mark.parametrize(
    "text",
    [None, "", "91s", "2m", "1h", "9" * 60 + "h", "5", "s", "1 s", "-1s", "+1s", "1s ", "1x", "1sx", "x1s", "1e3s",
     "١s", "1s" * 100, "nan", "inf", "1.2.3s"],
)  # fmt: skip
def test_longer_missing_and_invalid_durations_become_the_maximum(text: str | None) -> None:
    assert parse_wait(text, 90) == 90
