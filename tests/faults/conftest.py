from __future__ import annotations

from pathlib import Path

import pytest

from . import extent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """In the long form any of these may take as long as all of them are to take."""
    if extent.minutes():
        for item in items:
            if item.path.is_relative_to(Path(__file__).parent):
                item.add_marker(pytest.mark.timeout(60 * extent.minutes() + 600), append=False)
