"""The status page in a real Chromium, of a real listener between real stores."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import redis

from s3s3.scripts.demo.servers import free_ports
from s3s3.scripts.demo.swift_server import SwiftServer
from tests.conftest import missing
from tests.integration.commands import Listener, eventually, write_config

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ConsoleMessage, Page

pytestmark = [pytest.mark.real, pytest.mark.long]

PROGRAMS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
TOKEN = "a token"
NAUGHTY = "<script>document.title = 'taken'</script>\"'><img src=x onerror=\"document.title='taken'\">"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        missing("there is no Chromium; apt-get install chromium-headless-shell has one")
    from playwright.sync_api import sync_playwright  # noqa: PLC0415 - it is large, and used here alone

    with sync_playwright() as playwright:
        # Root, as in a container, has Chromium without its sandbox.
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


class Place:
    """A listener between two buckets, whose second destination is away."""

    def __init__(self, port: int, redis_url: str, put: Callable[[str], None]) -> None:
        self.url = f"http://127.0.0.1:{port}/"
        self._redis_url = redis_url
        self.put = put

    def publish(self, *keys: str | bytes) -> None:
        with redis.Redis.from_url(self._redis_url) as client:
            for key in keys:
                client.publish("backup", key)


@pytest.fixture
def place(swift: SwiftServer, redis_url: str, new_bucket: Callable[..., str], tmp_path: Path) -> Iterator[Place]:
    source = swift.endpoint(new_bucket(swift))
    there = swift.endpoint(new_bucket(swift, 1), "destination-swift", account=1)
    (away,) = free_ports(1)
    gone = dataclasses.replace(there, name="destination-away", port=away, prefix="away/")
    (port,) = free_ports(1)
    config = write_config(
        tmp_path, source, [there, gone], redis_url, worker={"max_attempts": 1}, bind=f"127.0.0.1:{port}"
    )  # fmt: skip
    config.write_text(config.read_text() + f'token = "{TOKEN}"\n')
    client = swift.boto3_client()

    def put(key: str) -> None:
        client.put_object(Bucket=source.bucket_name, Key=key, Body=b"content")

    with Listener(config):
        yield Place(port, redis_url, put)


def is_complaint(message: ConsoleMessage) -> bool:
    return message.type == "error" and "403 (Forbidden)" not in message.text  # what a wrong token gets


@contextmanager
def page_of(browser: Browser, url: str, **how: Any) -> Iterator[Page]:
    """The page, in which nothing may be complained of."""
    complaints: list[str] = []
    context = browser.new_context(**how)
    page = context.new_page()
    page.on("console", lambda message: complaints.append(message.text) if is_complaint(message) else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(url)
    yield page
    context.close()
    assert not complaints


def test_the_page_is_live_safe_and_usable(browser: Browser, place: Place) -> None:
    with page_of(browser, place.url) as page:
        page.locator("#live.on").wait_for()
        assert "All is well" in page.inner_text("#summary") or "needs a look" in page.inner_text("#summary")
        place.put(NAUGHTY)
        place.publish(NAUGHTY, b"\xff<b>no key</b>")
        # What happens is seen without a reload.
        page.locator("#letters li", has_text="no key").wait_for()
        letter = page.locator("#letters li", has_text="onerror")
        letter.wait_for()
        assert page.title() == "s3s3 status", "a key has run as a script"
        assert page.locator("#letters b, #letters img").count() == 0
        check_it_is_accessible(page)

        # A wrong token does nothing, the right one does it.
        page.fill("#token", "wrong")
        letter.get_by_role("button", name="Retry").click()
        assert "nothing was done" in page.inner_text(".said")
        page.fill("#token", TOKEN)
        page.once("dialog", lambda dialog: dialog.dismiss())
        page.locator("#letters li", has_text="onerror").get_by_role("button", name="Drop").click()
        assert page.locator("#letters li", has_text="onerror").count() == 1, "who thinks better of it drops nothing"
        page.once("dialog", lambda dialog: dialog.accept())
        page.locator("#letters li", has_text="onerror").get_by_role("button", name="Drop").click()
        page.locator(".said", has_text="1 dead letter dropped").wait_for()
        assert page.locator("#letters li", has_text="onerror").count() == 0
        assert page.input_value("#token") == TOKEN, "it need not be typed for each"
        # By keyboard, and who is at a button stays there while the page changes around.
        drop = page.locator("#letters li", has_text="no key").get_by_role("button", name="Drop")
        drop.focus()
        place.publish(b"\xfe another")
        page.locator("#letters li", has_text="another").wait_for()
        assert page.evaluate("document.activeElement.tagName") == "BUTTON"


def check_it_is_accessible(page: Page) -> None:
    from axe_playwright_python.sync_playwright import Axe  # noqa: PLC0415 - as above

    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()


def test_it_fits_and_can_be_read_on_a_phone_and_in_the_dark(browser: Browser, place: Place) -> None:
    place.put("x" * 300)
    place.publish("x" * 300, b"\xff" * 900)
    for width in (320, 390, 1280):
        for scheme in ("light", "dark"):
            with page_of(browser, place.url, viewport={"width": width, "height": 800}, color_scheme=scheme) as page:
                page.locator("#letters li").nth(1).wait_for()
                assert page.evaluate("document.documentElement.scrollWidth") <= width, "nobody scrolls sideways"
                ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
                assert (sum(map(int, ground[4:-1].split(","))) < 200) == (scheme == "dark")
                check_it_is_accessible(page)


def test_without_javascript_it_shows_the_same_and_its_buttons_work(browser: Browser, place: Place) -> None:
    place.publish(b"\xff no key")
    with page_of(browser, place.url, java_script_enabled=False) as page:

        def on_copied() -> bool:
            page.reload()
            return page.locator("#letters li").count() == 1

        eventually(on_copied, "the dead letter", every_s=0.5)
        assert "Without JavaScript" in page.inner_text("#live")
        page.fill("#token", TOKEN)
        page.get_by_role("button", name="Drop").click()
        assert "1 dead letter dropped" in page.inner_text(".said")
        assert page.locator("#letters li").count() == 0
