"""The status page over real sockets, from a real Redis, with hostile keys."""

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
from s3s3.monitoring import fleet as fleet_module
from s3s3.monitoring import status_page as status_module
from s3s3.monitoring.health import application, served
from s3s3.monitoring.heartbeat import ProcessInfo, ProcessRegistry
from s3s3.monitoring.history import Failure, History
from s3s3.monitoring.metrics import Metrics
from s3s3.monitoring.page import decode_command, encode_command
from s3s3.monitoring.snapshot import snapshot_readers
from s3s3.monitoring.status_page import StatusPage
from s3s3.queue.base import DeadLetter, Disposition, DispositionKind, JobRequest, ReconcileRecord
from s3s3.queue.connection import connect
from s3s3.queue.dead_letters import common_reason
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
    monkeypatch.setattr(fleet_module, "UPDATE_INTERVAL_S", 0.05)
    monkeypatch.setattr(status_module, "WRONG_TOKEN_DELAY_S", 0.01)


@asynccontextmanager
async def visiting(client: Redis, token: Secret | None = TOKEN) -> AsyncIterator[aiohttp.ClientSession]:
    (port,) = free_ports(1)
    status = StatusPage(snapshot_readers(client, [ROUTE], 60.0), token)
    async with (
        served(application([], Metrics(), status), HttpSettings("127.0.0.1", port)),
        aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session,
    ):
        yield session


async def page(session: aiohttp.ClientSession, path: str = "/") -> str:
    async with session.get(path) as response:
        assert response.status == 200
        return await response.text()


async def dead_letter(jobs: RedisJobQueue, *keys: str, reason: str = "") -> None:
    await jobs.enqueue([JobRequest(key, ("swift",)) for key in keys], Lane.FRESH)
    for job in (await jobs.claim(len(keys), 0, len(keys), 0)).jobs:
        await jobs.finish(
            job, {"swift": Disposition(DispositionKind.DEAD_LETTER, reason=reason or f"refused: {job.key}")}
        )


def words(text: str) -> str:
    """The text that a browser shows."""
    return " ".join(html.unescape(re.sub(r"<(style|script)>.*?</\1>|<[^>]*>", " ", text, flags=re.DOTALL)).split())


async def press(session: aiohttp.ClientSession, *command: str, token: str = "the token") -> tuple[int, str]:
    form = {"token": token, "command": encode_command(*command)}
    async with session.post("/dead-letters", data=form) as response:
        return response.status, words(await response.text())


# -- the page


async def test_a_route_without_processes_is_a_problem(client: Redis) -> None:
    async with visiting(client) as session:
        text = words(await page(session))
    assert "1 problem needs attention Route images: no process is running; start s3s3 listen" in text
    assert "from ceph/a · channel backup" in text
    assert "swift ● ok swift:8080/b" in text
    assert "Last reconcile never" in text
    assert "1 warning Route images: never compared, so nothing shows that the copies are complete" in text
    assert "hush" not in text


async def test_the_page_shows_processes_rates_failures_and_the_last_reconcile(
    client: Redis, jobs: RedisJobQueue
) -> None:
    await ProcessRegistry(client, jobs.prefix).register(
        ProcessInfo("m", "host-1", 7, "0.1.0", "listen", 0, running=3, is_leader=True)
    )
    await History(client, jobs.prefix).add(
        {"swift copied": 1200, "swift lag 3": 9}, [Failure("swift", "HTTP 503", "k")]
    )
    await jobs.enqueue([JobRequest("waits", ("swift",))], Lane.FRESH)
    await jobs.save_reconcile_summary(ReconcileRecord(0, 1, 5, {"swift": {"same": 5}}, {}, {"swift": 1.0}))
    async with visiting(client) as session:
        text = words(await page(session))
    assert "No problems" in text
    assert "host-1 listen, pid 7 ok" in text
    assert re.search(r"Rate (20|1\d(\.\d)?)/s", text), text
    assert "18 ms / 25 ms" in text
    assert "1 × HTTP 503" in text
    assert "Last reconcile 1970-01-01 00:00:00 UTC 5 same" in text
    assert "Pending 1" in text


async def test_a_gap_and_withheld_deletions_are_problems(client: Redis, jobs: RedisJobQueue) -> None:
    await client.hset(f"{jobs.prefix}gap", mapping={"from_ms": 0, "generation": 1})
    withheld = {"swift": "would delete 9 of 10 objects"}
    await jobs.save_reconcile_summary(ReconcileRecord(0, 1, 5, {"swift": {}}, {}, {"swift": 0}, withheld))
    async with visiting(client) as session:
        text = words(await page(session))
    assert (
        "Redis lost its data, and objects may be missing at swift until a backfill or reconcile closes the gap" in text
    )
    assert "the last reconcile withheld deletions at swift: would delete 9 of 10 objects" in text


async def test_a_reconcile_that_could_not_compare_a_store_is_a_problem(client: Redis, jobs: RedisJobQueue) -> None:
    errors = {"swift": "swift: LIST: HTTP 503"}
    await jobs.save_reconcile_summary(ReconcileRecord(0, 1, 5, {"swift": {}}, errors))
    async with visiting(client) as session:
        text = words(await page(session))
    assert "the last reconcile could not compare swift: LIST: HTTP 503" in text
    assert "Last reconcile 1970-01-01 00:00:00 UTC could not compare swift" in text
    assert "Last compared never" in text


async def test_each_state_of_a_store_is_shown_and_listed_as_a_problem(client: Redis, jobs: RedisJobQueue) -> None:
    async with visiting(client) as session:
        await jobs.trip_circuit("swift", "swift: HTTP 503", "k")
        text = words(await page(session))
        assert "swift is down and its jobs are parked: HTTP 503" in text
        shown = r"down since \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC \([^()]+ ago\), next attempt in [\d.]+ m?s: HTTP 503"
        assert re.search(shown, text.replace("\xa0", " ")), text
        await jobs.close_circuit("swift")
        await jobs.pause("swift")
        await asyncio.sleep(0.1)
        resume = "s3s3 jobs resume --route images --destination swift"
        text = words(await page(session))
        assert f"swift is paused; resume with {resume}" in text
        assert "paused since" in text
        await jobs.resume("swift")
        await jobs.enqueue([JobRequest("k", ("swift",))], Lane.FRESH)
        (job,) = (await jobs.claim(1, 0, 1, 0)).jobs
        await jobs.finish(job, {"swift": Disposition(DispositionKind.RETRY, 60.0)})
        await asyncio.sleep(0.1)
        assert "swift ↻ retrying" in words(await page(session))
        await jobs.pause()
        await asyncio.sleep(0.1)
        assert "the route is paused; resume with s3s3 jobs resume --route images" in words(await page(session))


async def test_hostile_keys_are_shown_as_text(client: Redis, jobs: RedisJobQueue) -> None:
    await dead_letter(jobs, *HOSTILE)
    await jobs.dead_letter_message("<b>\\xff\udce4".encode("utf-8", "backslashreplace").decode(), "no <i>key</i>")
    await History(client, jobs.prefix).add({}, [Failure("swift", f"no {key}", key) for key in HOSTILE])
    async with visiting(client) as session:
        text = await page(session)
        async with session.get("/events") as response:
            line = (await response.content.readline()).decode()
    body = text[text.index("<main>") : text.index("</main>")]
    for part in (body, "".join(json.loads(line.removeprefix("data: ")).values())):
        tags = set(re.findall(r"<(\w+)", part))
        assert not tags & {"script", "img", "b\\xff", "i"}, tags
        assert not re.search(r"\son\w+=", re.sub(r'"[^"]*"', "", "".join(re.findall(r"<[^>]*>", part))))
        assert "\u202e" not in part
        assert "\x1b" not in part
    text = words(body)
    for key in (
        "<script>alert(1)</script>",
        r"a\r\nb\x00\x1b[31m",
        r"\u202egpj.exe",
        "&lt;",
        "{{7*7}}",
        "한국어 ключ",
    ):
        assert key in text


async def test_the_content_security_policy_allows_only_the_own_script(client: Redis) -> None:
    async with visiting(client) as session, session.get("/") as response:
        policy = dict(part.strip().split(" ", 1) for part in response.headers["Content-Security-Policy"].split(";"))
        text = await response.text()
    assert policy["default-src"] == policy["base-uri"] == policy["frame-ancestors"] == "'none'"
    assert policy["script-src"].startswith("'sha256-")
    assert "unsafe" not in str(policy)
    assert not re.search(r"\sstyle=|\son\w+=|src=|https?://", text)


async def test_events_contain_only_the_parts_that_changed(client: Redis, jobs: RedisJobQueue) -> None:
    async with visiting(client) as session, session.get("/events") as response:
        assert response.headers["Content-Type"] == "text/event-stream"

        async def event() -> dict[str, str]:
            line = await asyncio.wait_for(response.content.readline(), 10)
            await response.content.readline()
            found: dict[str, str] = json.loads(line.decode().removeprefix("data: "))
            return found

        assert set(await event()) == {"summary", "routes", "processes", "dead-letters"}
        await dead_letter(jobs, "lost")
        changed: dict[str, str] = {}
        while "dead-letters" not in changed:
            changed |= await event()
        assert "lost" in changed["dead-letters"]
        assert "processes" not in changed


async def test_shutdown_does_not_wait_for_clients(client: Redis) -> None:
    async with visiting(client) as session:
        response = await session.get("/events")
        await response.content.readline()
        start_s = asyncio.get_running_loop().time()
    assert asyncio.get_running_loop().time() - start_s < 5
    response.close()


async def test_the_number_of_clients_is_limited(client: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status_module, "MAX_CLIENTS", 1)
    async with visiting(client) as session, session.get("/events") as first:
        await first.content.readline()
        async with session.get("/events") as second:
            assert second.status == 503


async def test_without_redis_the_last_known_state_is_shown(
    client: Redis, jobs: RedisJobQueue, redis_server: RedisServer
) -> None:
    async with visiting(client) as session:
        await dead_letter(jobs, "known")
        text = words(await page(session))
        assert "known" in text
        assert "Last known state" not in text
        redis_server.stop()
        await asyncio.sleep(0.1)
        text = words(await page(session))
        assert text.count("Last known state, of 20") == 3, "routes, dead letters and processes are marked"
        assert "Redis cannot be reached" in text
        assert re.search(r"the last known state, of 20\d\d-[^,]* UTC, is shown", text)
        assert "refused: known" in text


# -- actions


async def test_a_button_retries_or_drops_its_own_dead_letter(client: Redis, jobs: RedisJobQueue) -> None:
    await dead_letter(jobs, *HOSTILE)
    async with visiting(client) as session:
        for number, key in enumerate(HOSTILE):
            values = re.findall(r'name="command" value="([^"]+)"', await page(session))
            commands = map(decode_command, values)
            reason = common_reason(DeadLetter("swift", key, f"refused: {key}"))
            retry = next(command for command in commands if command[-1] == reason and command[0] == "retry group")
            status, text = await press(session, *retry)
            assert (status, "1 dead letter put back on the queue" in text) == (200, True)
            assert (await jobs.stats()).dead_letters["swift"] == len(HOSTILE) - number - 1
        assert (await jobs.stats()).bulk == len(HOSTILE)
        await dead_letter(jobs, *HOSTILE)
        assert "1 dead letter dropped" in (await press(session, "drop", "images", "swift", HOSTILE[0]))[1]
        await dead_letter(jobs, *(f"same {number}" for number in range(9)), reason="after 3 attempts: swift: HTTP 500")
        assert "<b>9 ×</b> HTTP 500" in await page(session)
        assert "9 dead letters put back" in (await press(session, "retry group", "images", "swift", "HTTP 500"))[1]
        assert (await jobs.stats()).dead_letters["swift"] == len(HOSTILE) - 1
        assert "6 dead letters put back" in (await press(session, "retry", "images", "swift", *HOSTILE))[1]
    assert (await jobs.stats()).dead_letters["swift"] == 0


@pytest.mark.parametrize("token", ["", "the tokem", "the token ", "ключ"])
async def test_a_wrong_token_changes_nothing(client: Redis, jobs: RedisJobQueue, token: str) -> None:
    await dead_letter(jobs, "k")
    async with visiting(client) as session:
        status, text = await press(session, "drop", "images", "swift", "k", token=token)
        assert (status, "Nothing changed" in text) == (403, True)
        async with session.get("/dead-letters") as response:
            assert response.status == 405
    assert (await jobs.stats()).dead_letters["swift"] == 1


async def test_without_a_token_in_the_configuration_there_are_no_buttons(client: Redis, jobs: RedisJobQueue) -> None:
    await dead_letter(jobs, "k")
    async with visiting(client, token=None) as session:
        text = await page(session)
        assert not re.search(r'name="command"|data-api=', text)
        assert "Read-only" in text
        assert (await press(session, "drop", "images", "swift", "k", token=""))[0] == 403
    assert (await jobs.stats()).dead_letters["swift"] == 1


@pytest.mark.parametrize(
    "command",
    [("drop", "other", "swift", "k"), ("drop", "images", "other", "k"), ("burn", "images", "swift", "k"), ("drop",)],
)
async def test_an_unknown_command_changes_nothing(client: Redis, jobs: RedisJobQueue, command: tuple[str, ...]) -> None:
    await dead_letter(jobs, "k")
    async with visiting(client) as session:
        assert (await press(session, *command))[0] == 400
        async with session.post("/dead-letters", data={"token": "the token", "command": "%%%"}) as response:
            assert response.status == 400
    assert (await jobs.stats()).dead_letters["swift"] == 1


async def test_the_message_cannot_be_chosen_by_the_url(client: Redis) -> None:
    async with visiting(client) as session:
        text = await page(session, "/?done=<script>&count=1")
        assert 'role="status" hidden></p>' in text
        assert 'role="status" hidden></p>' in await page(session, "/?done=drop&count=²")
        assert "3 dead letters dropped" in await page(session, "/?done=drop&count=3")
