"""The API over real sockets, with a real Redis."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate
from redis.asyncio import Redis

from s3s3.config import HttpSettings, WorkerSettings
from s3s3.errors import StoreUnavailable
from s3s3.model import Endpoint, Lane, Route, Secret
from s3s3.monitoring import fleet as fleet_module
from s3s3.monitoring import status_page as status_module
from s3s3.monitoring.health import application, served
from s3s3.monitoring.heartbeat import ProcessInfo, ProcessRegistry
from s3s3.monitoring.metrics import Metrics
from s3s3.monitoring.snapshot import snapshot_readers
from s3s3.monitoring.status_page import StatusPage
from s3s3.operations.http_api import ENDPOINTS, PREFIX, Api, openapi
from s3s3.operations.service import Service
from s3s3.queue.base import Disposition, DispositionKind, JobRequest
from s3s3.queue.connection import connect
from s3s3.queue.redis_queue import RedisJobQueue
from s3s3.reconcile.lock import run_exclusive
from s3s3.scripts.demo.redis_server import RedisServer
from s3s3.scripts.demo.servers import free_ports
from tests.waiting import until

pytestmark = pytest.mark.real

TOKEN = "the token"
SETTINGS = WorkerSettings(4, 8, 60.0, Path("/tmp"), 1 << 20)
LOCAL: dict[str, Any] = {
    "host": "127.0.0.1", "port": 9, "is_secure": False, "access_key_id": "a", "secret_access_key": Secret("hush"),
}  # fmt: skip
ROUTES = [
    Route("images", Endpoint("source", "a", prefix="i/", **LOCAL), (Endpoint("swift", "b", **LOCAL),), channel="c"),
    Route("raw", Endpoint("source", "a", prefix="r/", **LOCAL), (Endpoint("tape", "t", **LOCAL),)),
]


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[Redis]:
    client = connect(redis_url)
    yield client
    await client.aclose()


@pytest.fixture
def jobs(client: Redis) -> RedisJobQueue:
    return RedisJobQueue.of(client, ROUTES[0], 60.0)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet_module, "UPDATE_INTERVAL_S", 0.0)
    monkeypatch.setattr(status_module, "WRONG_TOKEN_DELAY_S", 0.01)


class Caller:
    """Calls the API; checks each answer against the OpenAPI description."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self.session = session

    async def get(self, path: str, status: int = 200, **query: str | int) -> Any:
        headers = {"Authorization": f"Bearer {TOKEN}"}
        async with self.session.get(PREFIX + path, params=query, headers=headers) as response:
            return await self._checked(response, "get", path, status)

    async def post(self, path: str, body: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Any:
        headers = {"Authorization": f"Bearer {TOKEN}"} if headers is None else headers
        async with self.session.post(PREFIX + path, json=body, headers=headers) as response:
            return await self._checked(response, "post", path, status)

    async def _checked(self, response: aiohttp.ClientResponse, method: str, path: str, status: int) -> Any:
        text = await response.text()
        assert response.status == status, text
        assert "hush" not in text
        content = json.loads(text)
        described = openapi()["paths"][PREFIX + path][method]["responses"][str(status)]["content"]
        check(content, described[response.content_type]["schema"])
        assert response.headers["Cache-Control"] == "no-store"
        return content


def check(content: Any, schema: Mapping[str, Any]) -> None:
    """Check content against a schema of the description."""
    Draft202012Validator({**schema, "components": openapi()["components"]}).validate(content)


@asynccontextmanager
async def calling(
    client: Redis, token: str | None = TOKEN, reconcile: Mapping[str, Callable[[], Awaitable[object]]] | None = None
) -> AsyncIterator[Caller]:
    (port,) = free_ports(1)
    secret = None if token is None else Secret(token)
    page = StatusPage(snapshot_readers(client, ROUTES, 60.0), secret)
    api = Api(Service(page.fleet, page.actions, SETTINGS, client, reconcile or {}), secret)
    async with (
        served(application([], Metrics(), page, api=api), HttpSettings("127.0.0.1", port)),
        aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session,
    ):
        yield Caller(session)


async def dead_letter(jobs: RedisJobQueue, *keys: str, reason: str = "swift: 403 AccessDenied") -> None:
    name = jobs.destinations[0]
    await jobs.enqueue([JobRequest(key, (name,)) for key in keys], Lane.FRESH)
    for job in (await jobs.claim(len(keys), 0, 0, 0)).jobs:
        await jobs.finish(job, {name: Disposition(DispositionKind.DEAD_LETTER, reason=reason)})


async def left(jobs: RedisJobQueue) -> set[str]:
    return {letter.key async for letter in jobs.dead_letters(jobs.destinations[0])}


# -- the description


async def test_the_description_is_valid_and_served(client: Redis) -> None:
    validate(openapi())
    async with calling(client) as api, api.session.get(f"{PREFIX}/openapi.json") as response:
        assert await response.json() == openapi()
    operations = [operation for path in openapi()["paths"].values() for operation in path.values()]
    assert len(operations) == len(ENDPOINTS)
    assert all(operation["summary"] for operation in operations)
    assert all(
        "security" in operation for path in openapi()["paths"].values() for operation in [path.get("post")] if operation
    )


# -- reading


async def test_the_status_has_each_route_and_its_problems(client: Redis, jobs: RedisJobQueue) -> None:
    await dead_letter(jobs, "i/k")
    await jobs.pause("swift")
    async with calling(client) as api:
        status = await api.get("/status")
        routes = await api.get("/routes")
    assert [route["name"] for route in status["routes"]] == ["images", "raw"]
    assert status["is_current"] is True
    swift = status["routes"][0]["destinations"][0]
    assert (swift["state"], swift["dead_letters"]) == ("paused", 1)
    assert status["at_ms"] - 60_000 < swift["since_ms"] <= status["at_ms"] + 1000
    assert any("no process is running" in line for line in status["problems"])
    assert any("never compared" in line for line in status["warnings"])
    assert routes["routes"][0]["destinations"] == {"swift": "127.0.0.1:9/b"}


async def test_a_destination_with_dead_letters_is_not_ok(client: Redis, jobs: RedisJobQueue) -> None:
    await dead_letter(jobs, "i/k", "i/l")
    await dead_letter(jobs, "i/m", reason="swift: 400 EntityTooLarge")
    async with calling(client) as api:
        status = await api.get("/status")
    assert status["routes"][0]["destinations"][0]["state"] == "dead letters"
    problem = "3 keys failed permanently at swift; fix the cause, then retry: 403 AccessDenied, and 1 other reason"
    assert f"Route images: {problem}" in status["problems"]
    assert status["routes"][1]["destinations"][0]["state"] == "ok"


async def test_keys_are_listed_by_state_searched_and_paged(client: Redis, jobs: RedisJobQueue) -> None:
    keys = [f"i/{number}" for number in range(30)]
    await jobs.enqueue([JobRequest(key, ("swift",)) for key in keys], Lane.FRESH)
    async with calling(client) as api:
        found: list[str] = []
        page = await api.get("/jobs", state="queued", route="images", limit=7)
        while True:
            found += [item["key"] for item in page["items"]]
            if not page["cursor"]:
                break
            page = await api.get("/jobs", state="queued", route="images", limit=7, cursor=page["cursor"])
        assert found == keys
        some = await api.get("/jobs", state="queued", route="images", search="i/29")
        assert [item["key"] for item in some["items"]] == ["i/29"]
        await jobs.trip_circuit("swift", "503 SlowDown", "k")
        (job,) = (await jobs.claim(1, 0, 0, 0)).jobs
        await jobs.finish(job, {"swift": Disposition(DispositionKind.PARK, circuit="swift")})
        (parked,) = (await api.get("/jobs", state="parked", route="images", store="swift"))["items"]
        assert parked["waits_for"] == "swift is down: 503 SlowDown"
        assert parked["next_attempt_ms"] > parked["notified_ms"]
        (job,) = (await jobs.claim(1, 0, 0, 0)).jobs
        await jobs.finish(job, {"swift": Disposition(DispositionKind.RETRY, 60.0, reason="swift: PUT: 500")})
        (waiting,) = (await api.get("/jobs", state="waiting", route="images"))["items"]
        assert waiting["waits_for"] == "retry after swift: PUT: 500"
        for query in ({"state": "queued"}, {"state": "parked", "route": "images"}, {"state": "queued", "route": "x"}):
            assert "detail" in await api.get("/jobs", 404, **query)
        one = {"state": "queued", "route": "images"}
        for query in ({}, {"state": "lost"}, {**one, "limit": "0"}, {**one, "cursor": "x:1"}, {**one, "colour": "red"}):
            assert "detail" in await api.get("/jobs", 400, **query)


async def test_dead_letters_are_grouped_searched_and_paged(client: Redis, jobs: RedisJobQueue) -> None:
    raw = RedisJobQueue.of(client, ROUTES[1], 60.0)
    denied = [f"i/{number}" for number in range(25)]
    await dead_letter(jobs, *denied)
    await dead_letter(raw, "r/1", "r/2", reason="after 8 attempts: tape: 413: too large")
    async with calling(client) as api:
        groups = await api.get("/dead-letters/groups")
        assert [(each["destination"], each["reason"], each["count"]) for each in groups["groups"]] == [
            ("swift", "403 AccessDenied", 25), ("tape", "413: too large", 2),
        ]  # fmt: skip
        assert groups["total"] == 27
        found: list[str] = []
        page = await api.get("/dead-letters", limit=10)
        for _ in range(20):
            found += [item["key"] for item in page["items"]]
            if not page["cursor"]:
                break
            page = await api.get("/dead-letters", limit=10, cursor=page["cursor"])
        assert sorted(found) == sorted([*denied, "r/1", "r/2"])
        some = await api.get("/dead-letters", search="i/24")
        assert [item["key"] for item in some["items"]] == ["i/24"]
        some = await api.get("/dead-letters", route="images", reason="403 AccessDenied", limit=500)
        assert len(some["items"]) == 25
        assert "detail" in await api.get("/dead-letters", 404, destination="x")
        assert "detail" in await api.get("/dead-letters", 400, cursor="x")


async def test_a_key_is_explained_although_no_store_answers(client: Redis, jobs: RedisJobQueue) -> None:
    await dead_letter(jobs, "i/k")
    async with calling(client) as api:
        found = await api.get("/explain", key="i/k")
    images, raw = found["routes"]
    assert images["destinations"][0]["dead_letter"]["reason"] == "swift: 403 AccessDenied"
    assert "nothing listens" in images["source"]["error"]
    assert raw["mismatch"] == "it does not begin with prefix = 'r/'"


# -- actions


@pytest.mark.long
async def test_dead_letters_are_retried_or_dropped_by_key_by_reason_and_all(
    client: Redis, jobs: RedisJobQueue, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "s3s3")
    await dead_letter(jobs, "a", "b", "c")
    await dead_letter(jobs, *(f"s{number}" for number in range(600)), reason="after 3 attempts: swift: HTTP 500")
    async with calling(client) as api:
        assert await api.post("/dead-letters/retry", {"keys": ["a", "unknown"]}) == {"count": 1}
        assert await api.post("/dead-letters/drop", {"route": "images", "keys": ["b"]}) == {"count": 1}
        assert await api.post("/dead-letters/retry", {"reason": "HTTP 500"}) == {"count": 600}
        assert await left(jobs) == {"c"}
        assert await api.post("/dead-letters/drop", {"route": "raw", "all": True}) == {"count": 0}
        assert await left(jobs) == {"c"}
        assert await api.post("/dead-letters/drop", {"destination": "swift", "all": True}) == {"count": 1}
        bodies: list[Any] = [
            {},
            {"all": True, "reason": "x"},
            {"keys": "a"},
            {"everything": True},
            [],
            "x",
            {"keys": [""]},
        ]
        for body in bodies:
            assert "detail" in await api.post("/dead-letters/drop", body, 400)
        for body in ({"all": True, "route": "x"}, {"all": True, "destination": "x"}):
            assert "detail" in await api.post("/dead-letters/drop", body, 404)
    audit = [getattr(record, "fields", {}) | {"text": record.getMessage()} for record in caplog.records
             if getattr(record, "event", "") == "operator action"]  # fmt: skip
    assert [(each["text"], each["destination"], each["count"], each["operator"]) for each in audit] == [
        ("operator action: retry", "swift", 1, "127.0.0.1"), ("operator action: drop", "swift", 1, "127.0.0.1"),
        ("operator action: retry", "swift", 600, "127.0.0.1"), ("operator action: drop", "swift", 1, "127.0.0.1"),
    ]  # fmt: skip
    assert audit[2]["group"] == "HTTP 500"


async def test_routes_and_destinations_are_paused_and_resumed(client: Redis, jobs: RedisJobQueue) -> None:
    async with calling(client) as api:
        await api.post("/pause", {"route": "images", "destination": "swift"})
        await api.post("/pause", {"route": "images"})
        stats = await jobs.stats()
        assert (stats.paused, stats.circuits) == (True, {"swift": "paused"})
        await api.post("/resume", {"route": "images"})
        await api.post("/resume", {"route": "images", "destination": "swift"})
        stats = await jobs.stats()
        assert (stats.paused, stats.circuits) == (False, {})
        await api.post("/pause", {"route": "x"}, 404)
        await api.post("/pause", {"route": "images", "destination": "source"}, 404)


async def test_keys_are_enqueued_where_a_route_matches(client: Redis, jobs: RedisJobQueue) -> None:
    async with calling(client) as api:
        answer = await api.post("/enqueue", {"keys": ["i/1", "r/1", "x/1"]})
        assert answer == {"count": 2, "unmatched": ["x/1"]}
        assert (await api.post("/enqueue", {"keys": ["r/1"], "route": "images"}))["unmatched"] == ["r/1"]
        await api.post("/enqueue", {"keys": []}, 400)
        await api.post("/enqueue", {"keys": ["k" * 1025]}, 400)
        await api.post("/enqueue", {"keys": ["\ud800"]}, 400)
        await api.post("/enqueue", {"keys": ["i/1"], "route": "x"}, 404)
    (job,) = (await jobs.claim(5, 0, 0, 0)).jobs
    assert (job.key, job.unconditional) == ("i/1", True)


async def test_a_reconcile_is_started_once_and_its_progress_is_shown(
    client: Redis, jobs: RedisJobQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("s3s3.reconcile.lock.PROGRESS_INTERVAL_S", 0.02)
    go_on = asyncio.Event()
    progress = {"compared": 7, "outcomes": {"copied": 3}}

    async def reconcile() -> None:
        async def run() -> None:
            await go_on.wait()
            raise StoreUnavailable("gone", store="swift")

        await run_exclusive("images", jobs, run, progress=lambda: progress)

    async with calling(client, reconcile={"images": reconcile}) as api:
        assert "started" in (await api.post("/reconcile", {"route": "images"}))["message"]

        async def running() -> Any:
            return (await api.get("/status"))["routes"][0]["current_reconcile"]

        async def is_compared() -> bool:
            found = await running()
            return found is not None and found["compared"] == 7

        await until(is_compared)
        assert (await running())["outcomes"] == {"copied": 3}
        assert "is being reconciled" in (await api.post("/reconcile", {"route": "images"}, 409))["detail"]
        go_on.set()

        async def has_failed() -> bool:
            return any(
                "an operator started failed: swift: gone" in line for line in (await api.get("/status"))["problems"]
            )

        await until(has_failed)
        assert await running() is None
        async with api.session.get("/") as page:
            assert "an operator started failed: swift: gone" in await page.text()
        await jobs.pause()
        assert "paused" in (await api.post("/reconcile", {"route": "images"}, 409))["detail"]
        assert "s3s3 listen" in (await api.post("/reconcile", {"route": "raw"}, 404))["detail"]


async def test_a_process_that_was_killed_is_dismissed_and_a_running_one_is_not(
    client: Redis, jobs: RedisJobQueue
) -> None:
    registry = ProcessRegistry(client, jobs.prefix)
    for name in ("killed", "runs"):
        await registry.register(ProcessInfo(name, "host", 7, "1", "listen", 0))
    await client.zincrby(f"{jobs.prefix}processes", -60_000, "killed")
    async with calling(client) as api:
        await api.post("/processes/dismiss", {"process": "runs"}, 404)
        await api.post("/processes/dismiss", {"process": "killed"})
    assert [process.id for process in await registry.processes()] == ["runs"]


# -- protection


CHANGES = {
    "/dead-letters/retry": {"all": True}, "/dead-letters/drop": {"all": True}, "/pause": {"route": "images"},
    "/resume": {"route": "images"}, "/reconcile": {"route": "images"}, "/enqueue": {"keys": ["i/k"]},
    "/processes/dismiss": {"process": "x"},
}  # fmt: skip


def test_every_change_is_in_the_list() -> None:
    assert set(CHANGES) == {each.path for each in ENDPOINTS if each.method == "POST"}
    assert all(each.needs_token for each in ENDPOINTS if each.method == "POST")


@pytest.mark.parametrize("path", CHANGES)
async def test_a_change_needs_the_token_a_json_body_and_the_own_site(
    client: Redis, jobs: RedisJobQueue, path: str
) -> None:
    await dead_letter(jobs, "k")
    right = {"Authorization": f"Bearer {TOKEN}"}
    async with calling(client) as api:
        for wrong in ({}, {"Authorization": "Bearer the tokem"}, {"Authorization": f"Basic {TOKEN}"},
                      {"Authorization": TOKEN}, {"Cookie": f"token={TOKEN}"}):  # fmt: skip
            await api.post(path, CHANGES[path], 401, headers=wrong)
        await api.post(path, CHANGES[path], 403, headers={**right, "Sec-Fetch-Site": "cross-site"})
        for content_type in ("text/plain", "application/x-www-form-urlencoded"):
            headers = {**right, "Content-Type": content_type}
            body = json.dumps(CHANGES[path])
            async with api.session.post(PREFIX + path, data=body, headers=headers) as response:
                assert response.status == 415
        async with api.session.post(
            PREFIX + path, data=b" " * 100_000, headers={**right, "Content-Type": "application/json"}
        ) as response:
            assert response.status == 413
        async with api.session.get(PREFIX + path, headers=right) as response:
            assert response.status == 405
        async with api.session.options(PREFIX + path, headers={"Origin": "http://evil"}) as response:
            assert "Access-Control-Allow-Origin" not in response.headers
    async with calling(client, token=None) as api:
        assert "no [http] token" in (await api.post(path, CHANGES[path], 403))["detail"]
    stats = await jobs.stats()
    assert (stats.paused, stats.dead_letters["swift"], stats.fresh, stats.bulk) == (False, 1, 0, 0)


async def test_explain_needs_the_token_too(client: Redis) -> None:
    async with calling(client) as api, api.session.get(f"{PREFIX}/explain", params={"key": "i/k"}) as response:
        assert response.status == 401
        assert response.headers["WWW-Authenticate"] == "Bearer"


async def test_without_redis_the_last_known_state_is_marked_as_such(
    client: Redis, jobs: RedisJobQueue, redis_server: RedisServer
) -> None:
    await dead_letter(jobs, "k")
    async with calling(client) as api:
        before = await api.get("/status")
        redis_server.stop()
        status = await api.get("/status")
        assert status["is_current"] is False
        assert status["at_ms"] == before["at_ms"]
        assert status["routes"][0]["destinations"][0]["dead_letters"] == 1
        assert "the last known state" in status["problems"][0]
        assert "Redis cannot be reached" in (await api.get("/dead-letters", 503))["detail"]
        assert "unknown" in (await api.post("/pause", {"route": "images"}, 503))["detail"]


def test_the_responses_are_plain_data() -> None:
    assert all(dataclasses.is_dataclass(each.response) for each in ENDPOINTS)
