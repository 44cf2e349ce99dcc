from __future__ import annotations

import pytest

from . import extent


def test_the_short_form_is_short_and_the_long_one_is_as_long_as_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FAULT_MINUTES", raising=False)
    assert extent.duration_s(3.0, share=0.5) == 3.0
    assert extent.examples(20, each_minute=100) == 20
    monkeypatch.setenv("FAULT_MINUTES", "60")
    assert extent.duration_s(3.0, share=0.5) == 1800.0
    assert extent.examples(20, each_minute=100) == 6000
