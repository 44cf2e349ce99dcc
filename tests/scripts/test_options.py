from __future__ import annotations

import argparse

import pytest

from s3s3.scripts import bucket, listen, mirror, options
from tests.scripts.command import Main, run


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "soon", ""])
def test_what_is_no_interval_is_none(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="number of seconds"):
        options.interval_s(text)


def test_an_interval_may_be_a_part_of_a_second() -> None:
    assert options.interval_s("0.5") == 0.5


def test_to_drain_may_take_no_time_at_all() -> None:
    assert options.span_s("0") == 0


@pytest.mark.parametrize(
    ("main", "option"),
    [
        (bucket.main, "--interval"),
        (bucket.main, "--drain-s"),
        (listen.main, "--reconcile-interval"),
        (listen.main, "--drain-s"),
        (mirror.main, "--drain-s"),
    ],
)
def test_a_time_before_now_is_wrong_usage(main: Main, option: str) -> None:
    done = run(main, option, "-3")
    assert (done.status, f"{option}: '-3' should be a number of seconds" in done.err) == (2, True)
