from __future__ import annotations

import pytest

from tests.faults import duration


class Clock:
    """A clock that advances by a second at each reading."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def monotonic(self) -> float:
        self.now_s += 1
        return self.now_s


def test_the_short_form_is_short_and_the_long_one_has_the_given_duration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duration, "time", Clock())
    monkeypatch.delenv("FAULT_MINUTES", raising=False)
    assert duration.duration_s(3.0, share=0.5) == 3.0
    assert list(duration.rounds(share=0.5)) == [0]
    assert list(duration.rounds(share=0.5, at_least=3)) == [0, 1, 2]
    assert duration.amount(20, per_minute=100, largest=5000) == 20
    monkeypatch.setenv("FAULT_MINUTES", "10")
    assert duration.duration_s(3.0, share=0.5) == 300.0
    assert len(list(duration.rounds(share=0.5))) == 300
    assert duration.amount(20, per_minute=100, largest=5000) == 1000
    monkeypatch.setenv("FAULT_MINUTES", "60")
    assert duration.amount(20, per_minute=100, largest=5000) == 5000
