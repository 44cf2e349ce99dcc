"""Leader election among listeners, on a real Redis."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import cast

import pytest
from redis.asyncio import Redis

from s3s3.notifications import leader_election
from s3s3.notifications.leader_election import LeaderElection
from s3s3.notifications.subscription import MessageBuffer
from s3s3.notifications.watermark import Watermark
from s3s3.queue import connection
from s3s3.queue.redis_calls import LuaScripts
from tests.waiting import running, until

pytestmark = pytest.mark.real

PREFIX = "s3s3:{default}:"
LEASE_S = 0.4


@pytest.fixture(autouse=True)
def short_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leader_election, "LEASE_S", LEASE_S)


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[Redis]:
    client = connection.connect(redis_url)
    yield client
    await client.aclose()


class Candidate:
    """A candidate that receives the checkpoint channel, as `PubSubSource` does."""

    def __init__(self, client: Redis, name: str, complete_from_s: float = 0.0) -> None:
        self.client = client
        self.elected_with: list[bytes] = []
        self.seen_ms = 0
        self.checkpoints: list[bytes] = []
        self._complete_from_ms = int((time.time() + complete_from_s) * 1000)
        self.subscribed_s = 0.0
        self.leader_resigned = asyncio.Event()
        self.election = LeaderElection(
            LuaScripts(client, "s3s3.notifications", PREFIX, folder="lua"), "backup", name,
            cast("MessageBuffer", self), cast("Watermark", self), lambda: "token", route="default",
        )  # fmt: skip

    # Methods and attributes of the buffer and of the watermark.

    def complete_from_s(self, subscribed_s: float) -> float:
        return subscribed_s

    def skip_to(self, checkpoint: bytes) -> None:
        self.elected_with.append(checkpoint)

    async def redis_time_ms(self, _at_s: float, _subscribed_s: float) -> int:
        return self._complete_from_ms

    async def see(self, _data_id: str, watermark_ms: int) -> None:
        self.seen_ms = watermark_ms

    async def receive(self) -> None:
        async with self.client.pubsub() as channel:
            await channel.subscribe(f"{PREFIX}checkpoint")
            async for message in channel.listen():
                if message["type"] == "message":
                    if message["data"]:
                        self.checkpoints.append(message["data"].encode())
                    else:
                        self.leader_resigned.set()

    async def enter(self, stack: AsyncExitStack) -> Candidate:
        await stack.enter_async_context(running(self.receive()))
        await asyncio.sleep(0.05)
        await stack.enter_async_context(running(self.election.run()))
        return self


def leads(*candidates: Candidate) -> Callable[[], bool]:
    return lambda: any(candidate.election.is_leader for candidate in candidates)


async def test_one_of_several_candidates_leads_until_it_dies(client: Redis) -> None:
    async with AsyncExitStack() as others, AsyncExitStack() as first:
        leader = await Candidate(client, "a").enter(first)
        await until(leads(leader))
        followers = [await Candidate(client, name).enter(others) for name in "bc"]
        await asyncio.sleep(2 * LEASE_S)
        assert leader.election.is_leader and not leads(*followers)()
        assert await client.get(f"{PREFIX}leader") == "a"
        await first.aclose()
        await until(leads(*followers))
        await asyncio.sleep(LEASE_S)
        assert sum(candidate.election.is_leader for candidate in followers) == 1


async def test_each_renewal_publishes_a_new_checkpoint_to_all(client: Redis) -> None:
    async with AsyncExitStack() as stack:
        leader, follower = [await Candidate(client, name).enter(stack) for name in "ab"]
        await until(lambda: len(follower.checkpoints) >= 3)
        assert leader.election.is_leader
        assert len(set(follower.checkpoints)) == len(follower.checkpoints)


async def test_the_elected_listener_gets_the_recorded_checkpoint(client: Redis) -> None:
    await client.set(f"{PREFIX}checkpoint", "c1")
    async with AsyncExitStack() as stack:
        leader = await Candidate(client, "a").enter(stack)
        await until(leads(leader))
        await asyncio.sleep(LEASE_S)
        assert leader.elected_with == [b"c1"]


async def test_a_resignation_elects_another_listener_before_the_lease_expires(
    client: Redis, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr(leader_election, "LEASE_S", 60.0)
    async with AsyncExitStack() as stack:
        leader = await Candidate(client, "a").enter(stack)
        await until(leads(leader))
        follower = await Candidate(client, "b").enter(stack)
        last = await leader.election.publish_last_checkpoint()
        await until(lambda: last in follower.checkpoints)
        await leader.election.resign()
        await until(leads(follower))
    elected = [vars(record)["fields"] for record in caplog.records if record.message == "elected leader"]
    assert [(fields["channel"], fields["route"]) for fields in elected] == [("backup", "default")] * 2


async def test_a_leader_that_lost_its_lease_follows(client: Redis, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    async with AsyncExitStack() as stack:
        leader = await Candidate(client, "a").enter(stack)
        await until(leads(leader))
        await client.set(f"{PREFIX}leader", "b")
        await until(lambda: not leader.election.is_leader)
    assert "lost leadership" in caplog.text


async def test_only_the_leader_resigns(client: Redis) -> None:
    await client.set(f"{PREFIX}leader", "b")
    await Candidate(client, "a").election.resign()
    assert await client.get(f"{PREFIX}leader") == "b"


async def test_a_candidate_that_would_leave_a_gap_defers_to_another(client: Redis) -> None:
    await client.set(f"{PREFIX}watermark", int((time.time() - 5) * 1000))
    async with AsyncExitStack() as stack:
        newcomer = Candidate(client, "a", complete_from_s=0)
        complete = Candidate(client, "b", complete_from_s=-10)
        await stack.enter_async_context(running(complete.receive()))
        await asyncio.sleep(0.05)
        await newcomer.enter(stack)
        await stack.enter_async_context(running(complete.election.run()))
        await until(leads(newcomer, complete))
        assert complete.election.is_leader
        assert newcomer.seen_ms


async def test_a_candidate_that_would_leave_a_gap_leads_if_no_other_does(client: Redis) -> None:
    await client.set(f"{PREFIX}watermark", int((time.time() - 5) * 1000))
    async with AsyncExitStack() as stack:
        other = Candidate(client, "b")
        await stack.enter_async_context(running(other.receive()))
        await asyncio.sleep(0.05)
        newcomer = await Candidate(client, "a").enter(stack)
        await until(leads(newcomer))


async def test_an_only_candidate_does_not_defer(client: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leader_election, "LEASE_S", 60.0)
    await client.set(f"{PREFIX}watermark", int((time.time() - 5) * 1000))
    async with AsyncExitStack() as stack:
        await until(leads(await Candidate(client, "a").enter(stack)))


async def test_a_listener_whose_route_was_taken_over_does_not_lead(client: Redis) -> None:
    await client.hset(f"{PREFIX}fingerprint", "token", "token")
    async with AsyncExitStack() as stack:
        leader = await Candidate(client, "a").enter(stack)
        await until(leads(leader))
        await client.hset(f"{PREFIX}fingerprint", "token", "of another process")
        await until(lambda: not leader.election.is_leader)
        await client.hset(f"{PREFIX}fingerprint", "token", "token")
        await until(leads(leader))
