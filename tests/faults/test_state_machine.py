"""After any events in any order, every destination equals the source in the end."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import get_state_machine_test

from s3s3.scripts.demo.redis_server import RedisServer
from s3s3.scripts.demo.servers import StoreServer
from s3s3.scripts.demo.swift_server import SwiftServer
from tests.faults.duration import first_seed, minutes, rounds
from tests.faults.fleet import Bucket, Fleet
from tests.faults.results import report
from tests.faults.state_machine import AcceptedNotifications, Disorder, PublishedNotifications

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]


@pytest.fixture(autouse=True)
def logged_steps(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "tests.faults.state_machine")


def attacked(
    machine: type[Disorder],
    tmp_path: Path,
    server: RedisServer,
    gateway: StoreServer,
    swift: SwiftServer,
    examples: int,
) -> None:
    destinations = {"dest-near": Bucket.new(gateway), "dest-far": Bucket.new(swift)}
    deleting = ["dest-far"]
    backfills = machine is PublishedNotifications
    size = 3 if minutes() else 2
    made = 0
    with Fleet(
        tmp_path,
        server.url,
        Bucket.new(gateway),
        destinations,
        size=size,
        pubsub={"backfill": backfills},
        deleting=deleting,
    ) as fleet:

        def example() -> Disorder:
            nonlocal made
            made += 1
            return machine(fleet, server, deleting)

        for number in rounds(share=1 / 10):
            print(f"{machine.__name__}: FAULT_SEED={first_seed() + number} repeats these examples")  # noqa: T201
            attack = get_state_machine_test(
                example,  # type: ignore[arg-type]
                settings=settings(
                    max_examples=examples,
                    stateful_step_count=30 if minutes() else 12,
                    deadline=None,
                    # Real time cannot be shrunk: what fails is printed step by step.
                    phases=[Phase.generate],
                    suppress_health_check=list(HealthCheck),
                    database=None,
                ),
            )
            seed(first_seed() + number)(attack)()
        report(
            "disorder",
            notifications="published" if backfills else "accepted",
            listeners=size,
            examples=made,
            injected={
                name: dict(proxy.injected) for name, proxy in {**fleet.proxies, "source": fleet.to_source}.items()
            },
        )


def test_no_accepted_notification_is_lost_and_nothing_is_stale(
    tmp_path: Path, own_redis: RedisServer, gateway: StoreServer, swift: SwiftServer
) -> None:
    attacked(AcceptedNotifications, tmp_path, own_redis, gateway, swift, examples=2)


def test_published_keys_are_copied_without_help(
    tmp_path: Path, own_redis: RedisServer, gateway: StoreServer, swift: SwiftServer
) -> None:
    attacked(PublishedNotifications, tmp_path, own_redis, gateway, swift, examples=1)
