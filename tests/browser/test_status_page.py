"""The status page in a real Chromium, of a real listener between real stores."""

from __future__ import annotations

import dataclasses
import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import redis

from s3s3.scripts.demo.redis_server import RedisServer
from s3s3.scripts.demo.servers import ServerMissing, free_ports
from s3s3.scripts.demo.swift_server import SwiftServer
from tests.browser.chromium import launched
from tests.conftest import missing
from tests.integration.commands import Listener, eventually, write_config

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ConsoleMessage, Page

pytestmark = [pytest.mark.real, pytest.mark.long]

TOKEN = "a token"
HOSTILE = "<script>document.title = 'taken'</script>\"'><img src=x onerror=\"document.title='taken'\">"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    try:
        with launched() as browser:
            yield browser
    except ServerMissing as error:
        missing(str(error))


class Setup:
    """A listener with three destinations: one is unavailable, and one accepts no key, since its prefix is too long."""

    def __init__(self, port: int, redis_url: str, put: Callable[[str], None]) -> None:
        self.url = f"http://127.0.0.1:{port}/"
        self.redis_url = redis_url
        self.put = put

    def publish(self, *keys: str | bytes) -> None:
        with redis.Redis.from_url(self.redis_url) as client:
            for key in keys:
                client.publish("backup", key)


@pytest.fixture
def setup(swift: SwiftServer, redis_url: str, new_bucket: Callable[..., str], tmp_path: Path) -> Iterator[Setup]:
    source = swift.endpoint(new_bucket(swift))
    destination = swift.endpoint(new_bucket(swift, 1), "destination-swift", account=1)
    (unused,) = free_ports(1)
    unavailable = dataclasses.replace(destination, name="destination-unavailable", port=unused, prefix="unavailable/")
    other = swift.endpoint(new_bucket(swift, 1), "destination-refusing", account=1)
    refusing = dataclasses.replace(other, prefix="x" * 1000)
    (port,) = free_ports(1)
    config = write_config(
        tmp_path, source, [destination, unavailable, refusing], redis_url, worker={"max_attempts": 1},
        bind=f"127.0.0.1:{port}",
    )  # fmt: skip
    config.write_text(config.read_text() + f'token = "{TOKEN}"\n')
    client = swift.boto3_client()

    def put(key: str) -> None:
        client.put_object(Bucket=source.bucket_name, Key=key, Body=b"content")

    with Listener(config):
        yield Setup(port, redis_url, put)


def is_error(message: ConsoleMessage) -> bool:
    return message.type == "error" and "401 (Unauthorized)" not in message.text  # the response to a wrong token


@contextmanager
def page_of(browser: Browser, url: str, **how: Any) -> Iterator[Page]:
    """The page; errors on its console fail the test."""
    errors: list[str] = []
    context = browser.new_context(**how)
    page = context.new_page()
    page.on("console", lambda message: errors.append(message.text) if is_error(message) else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(url)
    yield page
    context.close()
    assert not errors


def test_the_page_is_live_safe_and_usable(browser: Browser, setup: Setup) -> None:
    with page_of(browser, setup.url) as page:
        page.locator("#live.on").wait_for()
        assert "1 warning" in page.inner_text("#summary")
        setup.put(HOSTILE)
        setup.publish(HOSTILE, b"\xff<b>no key</b>")
        # The page updates without a reload.
        page.locator("#dead-letters li", has_text="no key").wait_for()
        item = page.locator("#dead-letters li", has_text="onerror")
        item.wait_for()
        assert page.title() == "s3s3 status", "a key has run as a script"
        assert page.locator("#dead-letters .key *, #dead-letters img").count() == 0
        check_it_is_accessible(page)

        # A wrong token changes nothing; the right one drops the dead letter.
        page.fill("#token", "wrong")
        item.get_by_role("button", name="Retry").click()
        page.locator("#message", has_text="Nothing changed: send Authorization").wait_for()
        page.fill("#token", TOKEN)
        page.once("dialog", lambda dialog: dialog.dismiss())
        page.locator("#dead-letters li", has_text="onerror").get_by_role("button", name="Drop").click()
        assert page.locator("#dead-letters li", has_text="onerror").count() == 1, "a cancelled dialog drops nothing"
        page.once("dialog", lambda dialog: dialog.accept())
        page.locator("#dead-letters li", has_text="onerror").get_by_role("button", name="Drop").click()
        page.locator("#message", has_text="1 dead letter dropped").wait_for()
        page.locator("#dead-letters li", has_text="onerror").wait_for(state="detached")
        page.reload()
        assert page.input_value("#token") == TOKEN, "the token is remembered"
        # A focused button keeps the focus while the page updates.
        drop = page.locator("#dead-letters li", has_text="no key").get_by_role("button", name="Drop")
        drop.focus()
        setup.publish(b"\xfe another")
        page.locator("#dead-letters li", has_text="another").wait_for()
        assert page.evaluate("document.activeElement.tagName") == "BUTTON"


def test_an_operator_works_on_a_failing_destination(browser: Browser, setup: Setup) -> None:
    keys = [f"{'k' * 30}{number:02}" for number in range(60)]
    for key in keys:
        setup.put(key)
    setup.put("never notified")
    setup.publish(*keys)
    with page_of(browser, setup.url) as page:
        page.fill("#token", TOKEN)
        group = page.locator("#dead-letters li", has_text="60 ×")
        group.wait_for(timeout=60_000)
        assert page.locator("#dead-letters li").count() == 1, "equal reasons are one group"
        refusing = page.locator(".store", has_text="destination-refusing")
        assert "dead letters" in refusing.inner_text()

        # The keys of the group, by pages and searched.
        group.get_by_role("button", name="Show keys").click()
        letters = page.locator("#letters li")
        letters.first.wait_for()
        page.get_by_role("button", name="Next page").wait_for()
        page.fill("#letters-search", keys[42])
        page.locator("#letters-form button").click()
        page.locator("#letters li", has_text=keys[42]).wait_for()
        page.wait_for_function("document.querySelectorAll('#letters li').length === 1")
        page.once("dialog", lambda dialog: dialog.accept())
        letters.first.get_by_role("button", name="Drop").click()
        letters.first.wait_for(state="detached")
        page.locator("#dead-letters li", has_text="59 ×").wait_for()

        # One key.
        page.fill("#explain-key", keys[7])
        page.locator("#explain-form button").click()
        explanation = page.locator("#explanation .explained")
        explanation.wait_for()
        for text in ("dead letter since", "equal: both have the same ETag", "nothing listens on", "s3s3 jobs retry"):
            assert text in explanation.inner_text()

        # The keys that wait.
        page.select_option("#jobs-what", label="parked for destination-unavailable")
        page.locator("#jobs-form button").click()
        page.locator("#jobs li", has_text="destination-unavailable is down").first.wait_for()
        assert "next attempt" in page.locator("#jobs li").first.inner_text()
        check_it_is_accessible(page)

        # Charts with axes, of an hour and of a day.
        chart = page.locator(".store", has_text="destination-refusing").locator(".chart.hour").first
        assert "last hour, at most" in chart.inner_text()
        assert [part.inner_text() for part in chart.locator(".times span").all()] == ["1 h ago", "now"]
        page.get_by_role("button", name="Last day").click()
        page.locator(".chart.day", has_text="Keys on the queue").wait_for()
        assert not chart.is_visible()
        page.get_by_role("button", name="Last hour").click()
        chart.wait_for()

        # Pause and resume.
        swift = page.locator(".store", has=page.get_by_role("heading", name="destination-swift", exact=True))
        swift.get_by_role("button", name="Pause").click()
        swift.locator(".badge", has_text="paused").wait_for()
        swift.get_by_role("button", name="Resume").click()
        swift.locator(".badge", has_text="ok").wait_for()
        assert "never compared" in page.inner_text("#summary")
        # Retry the group, and compare.
        page.locator("#dead-letters li", has_text="59 ×").get_by_role("button", name="Retry").click()
        page.locator("#message", has_text="59 dead letters put back on the queue").wait_for()
        page.get_by_role("button", name="Reconcile now").click()
        page.locator("#message", has_text="reconcile started").wait_for()
        # It may have ended before the page updates.
        shown = re.compile("running by process|could not compare destination-unavailable")
        page.locator("#routes .facts", has_text=shown).first.wait_for(timeout=60_000)


def test_everything_is_reached_and_used_by_keyboard(browser: Browser, setup: Setup) -> None:
    refused = "k" * 30
    setup.put(refused)
    setup.publish(refused)
    with page_of(browser, setup.url) as page:
        page.locator("#dead-letters li", has_text="1 ×").wait_for()
        seen: set[str] = set()
        while True:
            page.keyboard.press("Tab")
            focused = page.evaluate("document.activeElement.outerHTML")
            if focused in seen or focused.startswith("<body"):
                break
            seen.add(focused)
            outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
            assert outline == "solid", f"the focus is not shown: {focused}"
        for control in page.locator("button, input, select, a").all():
            if control.is_visible():
                assert control.evaluate("node => node.outerHTML") in seen

        page.fill("#token", TOKEN)
        page.get_by_role("link", name="Dead letters", exact=True).press("Enter")
        assert page.locator("#dead-letters-title").bounding_box()["y"] < 700  # type: ignore[index]
        page.get_by_role("button", name="Show keys").press("Enter")
        page.locator("#letters li", has_text=refused).wait_for()
        assert page.evaluate("document.activeElement.id") == "letters-title"
        page.once("dialog", lambda dialog: dialog.accept())
        page.locator("#letters").get_by_role("button", name="Drop").press("Enter")
        page.locator("#message", has_text="1 dead letter dropped").wait_for()


def test_a_killed_process_can_be_dismissed(browser: Browser, setup: Setup) -> None:
    with redis.Redis.from_url(setup.redis_url) as client:
        info = {"host": "gone", "pid": 7, "version": "1", "command": "listen", "started_ms": 0}
        client.zadd("s3s3:{default}:processes", {"gone:7": (time.time() - 60) * 1000})
        client.hset("s3s3:{default}:processes:info", "gone:7", json.dumps(info))
    with page_of(browser, setup.url) as page:
        page.fill("#token", TOKEN)
        page.get_by_role("button", name="Dismiss process 7 on gone").click()
        page.locator("#message", has_text="the process is forgotten").wait_for()
        page.locator(".processes li", has_text="gone").wait_for(state="detached")


def check_it_is_accessible(page: Page) -> None:
    from axe_playwright_python.sync_playwright import Axe  # noqa: PLC0415 - as above

    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()


def test_without_redis_the_last_known_state_is_marked(
    browser: Browser, setup: Setup, redis_server: RedisServer
) -> None:
    setup.publish(b"\xff no key")
    with page_of(browser, setup.url) as page:
        page.locator("#dead-letters li", has_text="no key").wait_for()
        redis_server.kill()
        page.locator("#routes", has_text="Last known state, of").wait_for()
        assert "no key" in page.inner_text("#dead-letters")
        check_it_is_accessible(page)
        redis_server.start()
        page.locator("#routes .last-known").wait_for(state="detached")


def test_it_is_readable_on_a_phone_and_in_dark_mode(browser: Browser, setup: Setup) -> None:
    setup.put("x" * 300)
    setup.publish("x" * 300, b"\xff" * 900)
    for width in (320, 390, 1280, 1600):
        for scheme in ("light", "dark"):
            with page_of(browser, setup.url, viewport={"width": width, "height": 800}, color_scheme=scheme) as page:
                page.locator("#dead-letters li").nth(1).wait_for()
                assert page.evaluate("document.documentElement.scrollWidth") <= width, "no horizontal scrolling"
                background = page.evaluate("getComputedStyle(document.body).backgroundColor")
                assert (sum(map(int, background[4:-1].split(","))) < 200) == (scheme == "dark")
                check_it_is_accessible(page)


def test_it_works_without_javascript(browser: Browser, setup: Setup) -> None:
    setup.publish(b"\xff no key")
    with page_of(browser, setup.url, java_script_enabled=False) as page:

        def has_dead_letter() -> bool:
            page.reload()
            return page.locator("#dead-letters li").count() == 1

        eventually(has_dead_letter, "the dead letter", every_s=0.5)
        assert "Live updates need JavaScript" in page.inner_text("#live")
        page.fill("#token", TOKEN)
        page.get_by_role("button", name="Drop").click()
        assert "1 dead letter dropped" in page.inner_text(".message")
        assert page.locator("#dead-letters li").count() == 0
