"""The Chromium of this machine, without a window."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from s3s3.scripts.demo.servers import ServerMissing

if TYPE_CHECKING:
    from playwright.sync_api import Browser

PROGRAMS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")


@contextmanager
def launched() -> Iterator[Browser]:
    """Raises ServerMissing if none is installed."""
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        raise ServerMissing("Chromium is not installed (apt-get install chromium-headless-shell)")
    from playwright.sync_api import sync_playwright  # noqa: PLC0415 - large, and used only here

    with sync_playwright() as playwright:
        # Chromium's sandbox does not work for root, as in a container.
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()
