from __future__ import annotations

import pytest

from s3s3.s3 import request


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retry without pauses, which are for real stores."""
    monkeypatch.setattr(request, "INITIAL_BACKOFF_S", 0.001)
