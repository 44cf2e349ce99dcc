"""How figures are written for people."""

from __future__ import annotations

import pytest

from s3s3.monitoring.formatting import count_noun, duration_text, rate_text, size_text, time_text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "–"),
        (0, "0.0 s"),
        (0.0034, "3.4 ms"),
        (0.0186, "19 ms"),
        (0.9996, "1.0 s"),
        (1.24, "1.2 s"),
        (42, "42 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (60, "1 min"),
        (3590, "1 h"),
        (3600 * 3 + 1200, "3 h 20 min"),
        (86_400, "1 d"),
        (86_400 * 2 + 4 * 3600, "2 d 4 h"),
    ],
)
def test_a_duration_has_its_largest_units(seconds: float | None, text: str) -> None:
    assert duration_text(seconds) == text


def test_rates_below_one_a_second_are_by_the_minute() -> None:
    assert [rate_text(rate) for rate in (0, 1200, 1.52, 0.5, 0.02)] == ["0/s", "1,200/s", "1.5/s", "30/min", "1.2/min"]


def test_sizes_have_binary_units() -> None:
    sizes_bytes = (0, 1, 12, 1023.9, 1024, 1024**2 - 1, 3.4 * 1024**2, 5 * 1024**4, 2 * 1024**5)
    texts = ["0 B", "1 B", "12 B", "1023 B", "1.0 KiB", "1.0 MiB", "3.4 MiB", "5.0 TiB", "2.0 PiB"]
    assert [size_text(size_bytes) for size_bytes in sizes_bytes] == texts


def test_times_are_utc() -> None:
    assert time_text(1_000) == "1970-01-01 00:00:01 UTC"


def test_a_count_has_its_plural() -> None:
    assert (count_noun(1, "key"), count_noun(2000, "key")) == ("1 key", "2,000 keys")
