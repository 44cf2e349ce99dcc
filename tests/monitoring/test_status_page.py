"""The status page over real sockets, from a real Redis, with keys that nobody would choose."""

from __future__ import annotations

import asyncio
import html
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest
from redis.asyncio import Redis

from s3s3.config import HttpSettings
from s3s3.model import Endpoint, Lane, Route, Secret
from s3s3.monitoring import status_page as status_module
from s3s3.monitoring.health import application, served
from s3s3.monitoring.heartbeat import ProcessInfo, ProcessRegistry
from s3s3.monitoring.history import Failure, History
from s3s3.monitoring.metrics import Metrics
from s3s3.monitoring.page import wish_of, wish_text
from s3s3.monitoring.snapshot import watches
from s3s3.monitoring.status_page import StatusPage
from s3s3.queue.base import Disposition, DispositionKind, JobRequest
from s3s3.queue.connection import connect
from s3s3.queue.redis_queue import RedisJobQueue
from s3s3.scripts.demo.redis_server import RedisServer
from s3s3.scripts.demo.servers import free_ports

pytestmark = pytest.mark.real

ROUTE = Route("images", Endpoint("source", "a", host="ceph", secret_access_key=Secret("hush")),
              (Endpoint("swift", "b", host="swift", port=8080),), channel="backup")  # fmt: skip
TOKEN = Secret("the token")
HOSTILE = ["<script>alert(1)</script>", "\"'><img src=x onerror=alert(2)>", "a\r\nb\x00\x1b[31m", "\u202egpj.exe",
           "&lt;", "{{7*7}}", "한국어 ключ"]  # fmt: skip


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[Redis]:
    client = connect(redis_url)
    yield client
    await client.aclose()


@pytest.fixture
def jobs(client: Redis) -> RedisJobQueue:
    return RedisJobQueue(client, ROUTE.name, ROUTE.destination_names)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status_module, "EVERY_S", 0.05)
    monkeypatch.setattr(status_module, "WRONG_TOKEN_PAUSE_S", 0.01)


@asynccontextmanager
async def visiting(client: Redis, token: Secret | None = TOKEN) -> AsyncIterator[aiohttp.ClientSession]:
    (port,) = free_ports(1)
    status = StatusPage(watches(client, [ROUTE], 60.0), token)
    async with (
        served(application([], Metrics(), status), HttpSettings("127.0.0.1", port)),
        aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session,
    ):
        yield session


async def page(session: aiohttp.ClientSession, path: str = "/") -> str:
    async with session.get(path) as answer:
        assert answer.status == 200
        return await answer.text()


async def bury(jobs: RedisJobQueue, *keys: str) -> None:
    await jobs.enqueue([JobRequest(key, ("swift",)) for key in keys], Lane.FRESH)
    for job in (await jobs.claim(len(keys), 0, len(keys), 0)).jobs:
        await jobs.finish(job, {"swift": Disposition(DispositionKind.DEAD_LETTER, reason=f"no good: {job.key}")})


def words(text: str) -> str:
    """What a person reads."""
    return " ".join(html.unescape(re.sub(r"<(style|script)>.*?</\1>|<[^>]*>", " ", text, flags=re.DOTALL)).split())


async def press(session: aiohttp.ClientSession, *wish: str, token: str = TOKEN) -> tuple[int, str]:
    form = {"token": str(token), "wish": wish_text(*wish)}
    async with session.post("/dead-letters", data=form) as answer:
        return answer.status, words(await answer.text())


# -- looking


async def test_an_empty_fleet_is_told_of_as_it_is(client: Redis) -> None:
    async with visiting(client) as session:
        said = words(await page(session))
    assert "1 thing needs a look Route images: no process works on it; start s3s3 listen." in said
    assert "from ceph/a · channel backup" in said
    assert "swift ● healthy swift:8080/b" in said
    assert "Last comparison never" in said
    assert "hush" not in said


async def test_what_all_processes_told_is_on_the_page(client: Redis, jobs: RedisJobQueue) -> None:
    await ProcessRegistry(client, jobs.prefix).register(
        ProcessInfo("m", "host-1", 7, "0.1.0", "listen", 0, running=3, leads=True)
    )
    await History(client, jobs.prefix).add(
        {"swift copied": 1200, "swift lag 3": 9}, [Failure("swift", "HTTP 503", "k")]
    )
    await jobs.enqueue([JobRequest("waits", ("swift",))], Lane.FRESH)
    await jobs.save_reconcile_summary(json.dumps({"destinations": {"swift": {"same": 5}}, "errors": {}, "ended_s": 0}))
    async with visiting(client) as session:
        said = words(await page(session))
    assert "All is well" in said
    assert "host-1 listen, pid 7 alive" in said
    assert re.search(r"Rate (20|1\d(\.\d)?)/s", said), said
    assert "18 ms / 25 ms" in said
    assert "1 × HTTP 503" in said
    assert "Last comparison 1970-01-01 00:00:00 5 same" in said
    assert "Pending 1" in said


async def test_a_comparison_that_could_not_list_a_store_is_no_comparison_of_nothing(
    client: Redis, jobs: RedisJobQueue
) -> None:
    errors = {"swift": "swift: LIST: HTTP 503"}
    await jobs.save_reconcile_summary(json.dumps({"destinations": {"swift": {}}, "errors": errors, "ended_s": 0}))
    async with visiting(client) as session:
        said = words(await page(session))
    assert "the last comparison could not list swift: LIST: HTTP 503" in said
    assert "Last comparison 1970-01-01 00:00:00 could not list swift" in said


async def test_each_state_has_its_word_and_what_it_means_is_said_above(client: Redis, jobs: RedisJobQueue) -> None:
    async with visiting(client) as session:
        await jobs.trip_circuit("swift", "swift: HTTP 503", "k")
        assert "swift is down, its jobs are parked: HTTP 503" in words(await page(session))
        await jobs.close_circuit("swift")
        await jobs.pause("swift")
        await asyncio.sleep(0.1)
        resume = "s3s3 jobs resume --route images --destination swift"
        assert f"swift is paused; {resume} lets it go on" in words(await page(session))
        await jobs.resume("swift")
        await jobs.enqueue([JobRequest("k", ("swift",))], Lane.FRESH)
        (job,) = (await jobs.claim(1, 0, 1, 0)).jobs
        await jobs.finish(job, {"swift": Disposition(DispositionKind.RETRY, 60.0)})
        await asyncio.sleep(0.1)
        assert "swift ↻ retrying" in words(await page(session))
        await jobs.pause()
        await asyncio.sleep(0.1)
        assert "the whole route is paused" in words(await page(session))


async def test_hostile_keys_are_shown_and_do_nothing(client: Redis, jobs: RedisJobQueue) -> None:
    await bury(jobs, *HOSTILE)
    await jobs.dead_letter_message("<b>\\xff\udce4".encode("utf-8", "backslashreplace").decode(), "no <i>key</i>")
    await History(client, jobs.prefix).add({}, [Failure("swift", f"no {key}", key) for key in HOSTILE])
    async with visiting(client) as session:
        text = await page(session)
        async with session.get("/events") as answer:
            line = (await answer.content.readline()).decode()
    body = text[text.index("<main>") : text.index("</main>")]
    for part in (body, "".join(json.loads(line.removeprefix("data: ")).values())):
        tags = set(re.findall(r"<(\w+)", part))
        assert not tags & {"script", "img", "b\\xff", "i"}, tags
        assert not re.search(r"\son\w+=", re.sub(r'"[^"]*"', "", "".join(re.findall(r"<[^>]*>", part))))
        assert "\u202e" not in part
        assert "\x1b" not in part
    said = words(body)
    for told in (
        "<script>alert(1)</script>",
        r"a\r\nb\x00\x1b[31m",
        r"\u202egpj.exe",
        "&lt;",
        "{{7*7}}",
        "한국어 ключ",
    ):
        assert told in said


async def test_the_browser_is_told_to_run_nothing_but_the_page_s_own_script(client: Redis) -> None:
    async with visiting(client) as session, session.get("/") as answer:
        policy = dict(part.strip().split(" ", 1) for part in answer.headers["Content-Security-Policy"].split(";"))
        text = await answer.text()
    assert policy["default-src"] == policy["base-uri"] == policy["frame-ancestors"] == "'none'"
    assert policy["script-src"].startswith("'sha256-")
    assert "unsafe" not in str(policy)
    assert not re.search(r"\sstyle=|\son\w+=|src=|https?://", text)


async def test_who_looks_is_sent_what_changed_and_only_that(client: Redis, jobs: RedisJobQueue) -> None:
    async with visiting(client) as session, session.get("/events") as answer:
        assert answer.headers["Content-Type"] == "text/event-stream"

        async def event() -> dict[str, str]:
            line = await asyncio.wait_for(answer.content.readline(), 10)
            await answer.content.readline()
            found: dict[str, str] = json.loads(line.decode().removeprefix("data: "))
            return found

        assert set(await event()) == {"summary", "routes", "fleet", "letters"}
        await bury(jobs, "lost")
        changed: dict[str, str] = {}
        while "letters" not in changed:
            changed |= await event()
        assert "lost" in changed["letters"]
        assert "fleet" not in changed


async def test_an_end_does_not_wait_for_who_looks(client: Redis) -> None:
    async with visiting(client) as session:
        answer = await session.get("/events")
        await answer.content.readline()
        began_s = asyncio.get_running_loop().time()
    assert asyncio.get_running_loop().time() - began_s < 5
    answer.close()


async def test_not_more_than_so_many_may_look(client: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status_module, "MAX_WATCHING", 1)
    async with visiting(client) as session, session.get("/events") as first:
        await first.content.readline()
        async with session.get("/events") as second:
            assert second.status == 503


async def test_a_redis_that_is_away_is_said_and_what_was_known_stays(
    client: Redis, jobs: RedisJobQueue, redis_server: RedisServer
) -> None:
    async with visiting(client) as session:
        await bury(jobs, "known")
        assert "known" in await page(session)
        redis_server.stop()
        await asyncio.sleep(0.1)
        said = words(await page(session))
        assert "Redis cannot be reached" in said
        assert "known" in said


# -- doing


async def test_a_button_retries_or_drops_just_its_dead_letter(client: Redis, jobs: RedisJobQueue) -> None:
    await bury(jobs, *HOSTILE)
    async with visiting(client) as session:
        for number, key in enumerate(HOSTILE):
            values = re.findall(r'name="wish" value="([^"]+)"', await page(session))
            wish = next(value for value in values if wish_of(value)[-1] == key and wish_of(value)[0] == "retry")
            status, said = await press(session, *wish_of(wish))
            assert (status, "1 dead letter put back to work." in said) == (200, True)
            assert (await jobs.stats()).dead_letters["swift"] == len(HOSTILE) - number - 1
        assert (await jobs.stats()).bulk == len(HOSTILE)
        await bury(jobs, *HOSTILE)
        assert "1 dead letter dropped." in (await press(session, "drop", "images", "swift", HOSTILE[0]))[1]
        assert "6 dead letters put back" in (await press(session, "retry all", "images", "swift"))[1]
    assert (await jobs.stats()).dead_letters["swift"] == 0


@pytest.mark.parametrize("token", ["", "the tokem", "the token ", "ключ"])
async def test_without_the_token_nothing_is_done(client: Redis, jobs: RedisJobQueue, token: str) -> None:
    await bury(jobs, "k")
    async with visiting(client) as session:
        status, said = await press(session, "drop", "images", "swift", "k", token=token)
        assert (status, "nothing was done" in said) == (403, True)
        async with session.get("/dead-letters") as answer:
            assert answer.status == 405
    assert (await jobs.stats()).dead_letters["swift"] == 1


async def test_without_a_token_in_the_configuration_there_are_no_buttons(client: Redis, jobs: RedisJobQueue) -> None:
    await bury(jobs, "k")
    async with visiting(client, token=None) as session:
        text = await page(session)
        assert "<button" not in text
        assert "Read-only" in text
        assert (await press(session, "drop", "images", "swift", "k", token=""))[0] == 403
    assert (await jobs.stats()).dead_letters["swift"] == 1


@pytest.mark.parametrize(
    "wish",
    [("drop", "other", "swift", "k"), ("drop", "images", "other", "k"), ("burn", "images", "swift", "k"), ("drop",)],
)
async def test_a_wish_that_no_button_has_is_refused(client: Redis, jobs: RedisJobQueue, wish: tuple[str, ...]) -> None:
    await bury(jobs, "k")
    async with visiting(client) as session:
        assert (await press(session, *wish))[0] == 400
        async with session.post("/dead-letters", data={"token": str(TOKEN), "wish": "%%%"}) as answer:
            assert answer.status == 400
    assert (await jobs.stats()).dead_letters["swift"] == 1


async def test_what_is_said_comes_from_no_address_line(client: Redis) -> None:
    async with visiting(client) as session:
        text = await page(session, "/?done=<script>&count=1")
        assert 'class="said"' not in text
        assert 'class="said"' not in await page(session, "/?done=drop&count=²")
        assert "3 dead letters dropped." in await page(session, "/?done=drop&count=3")
