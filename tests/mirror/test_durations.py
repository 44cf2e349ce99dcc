"""How long a client says that it waits, as Go writes durations."""

from __future__ import annotations

import pytest

from s3s3.mirror.copy_proxy import wait_s_of


@pytest.mark.parametrize(
    ("text", "wait_s"),
    [("500ms", 0.5), ("1s", 1), ("1m", 60), ("1m20.5s", 80.5), (".5s", 0.5), ("1.s", 1), ("0", 0), ("0s", 0),
     ("30us", 3e-5), ("30\u00b5s", 3e-5), ("10ns", 1e-8), ("0.01h", 36)],
)  # fmt: skip
def test_a_shorter_wait_is_taken(text: str, wait_s: float) -> None:
    assert wait_s_of(text, 90) == pytest.approx(wait_s)


@pytest.mark.parametrize(
    "text",
    [None, "", "91s", "2m", "1h", "9" * 60 + "h", "5", "s", "1 s", "-1s", "+1s", "1s ", "1x", "1sx", "x1s", "1e3s",
     "١s", "1s" * 100, "nan", "inf", "1.2.3s"],
)  # fmt: skip
def test_a_longer_one_and_what_is_none_count_as_the_longest(text: str | None) -> None:
    assert wait_s_of(text, 90) == 90
