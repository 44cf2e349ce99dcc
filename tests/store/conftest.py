from __future__ import annotations

import pytest

from s3s3.store import exchange


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attempts follow each other at once: the pauses are for real stores."""
    monkeypatch.setattr(exchange, "FIRST_PAUSE_S", 0.001)
