"""A store's place is taken by something that is not a store: nothing is believed, destroyed, lost, or held up.

One listener copies from one source to two destinations, which propagate deletions. One side lies for a few seconds, in
which a key could use up `max_attempts`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from s3s3.scripts.demo.servers import Server, StoreServer
from tests.conftest import running
from tests.faults.fleet import Bucket, Fleet, FleetListener, new_redis
from tests.faults.kinds import Fault, getting, putting
from tests.faults.lies import (
    BODY_LIMIT,
    EMPTY_PAGE,
    MAINTENANCE,
    PAGE,
    PAGE_IN_CHUNKS,
    PAGE_WITH_ETAG,
    Drip,
    ForeignEncoding,
    IndexGhost,
    LostFile,
    Maintenance,
    Page,
    RespondAny,
    TwoLengths,
    WrongLength,
    error_in,
)
from tests.faults.messages import Part
from tests.faults.results import report
from tests.integration.commands import bucket_started, eventually, report_lines

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

HONEST, LYING = "dest-honest", "dest-lying"
LIES_FOR_S = 6.0
"""Two attempts end within 2.5 to 5 s."""

WELL_WITHIN_S = 20.0
MAX_ATTEMPTS = 2
LIMIT, GHOSTS, MIDWAY, CUT = "a proxy's limit", "index ghosts", "pages for a GET", "too long lengths"
LOST = "lost files"
COUNTED = (LIMIT, GHOSTS, LOST, MIDWAY, CUT)
"""These are the object's failures, not the store's: they use up attempts, and the key becomes a dead letter."""

LIES: dict[str, tuple[Fault, ...]] = {
    "all sorts": (Page(share=1 / 3), ForeignEncoding(share=1 / 3), Maintenance()),
    "pages": (Page(PAGE),),
    "pages with an ETag": (Page(PAGE_WITH_ETAG),),
    "pages in chunks": (Page(PAGE_IN_CHUNKS),),
    "empty pages": (Page(EMPTY_PAGE),),
    "pages with 201": (Page(PAGE.replace(b" 200 ", b" 201 ")),),
    "maintenance": (Maintenance(),),
    **{f"maintenance: {name}": (Maintenance(answers=(MAINTENANCE[name],)),) for name in ("307", "400", "404")},
    LIMIT: (RespondAny(answers=(BODY_LIMIT,)),),
    "errors in other encodings": (ForeignEncoding(),),
    "the same with 200": (ForeignEncoding(answers=(error_in("GBK", 200),)),),
    "heads drip": (Drip(Part.HEAD, every_s=10),),
    "bodies drip": (Drip(Part.BODY, every_s=20),),
    "two lengths": (TwoLengths(),),
    "too short lengths": (WrongLength(by_bytes=-5),),
    CUT: (WrongLength(by_bytes=5),),
}
LIES_TO_WRITERS = {**LIES, "pages for a PUT": (Page(of=putting),)}
LIES_TO_READERS = {**LIES, MIDWAY: (Page(of=getting),), GHOSTS: (IndexGhost(),), LOST: (LostFile(),)}


def lies(lies: dict[str, tuple[Fault, ...]], brief: str = "") -> pytest.MarkDecorator:
    cases = [
        pytest.param(name, faults, id=name, marks=() if name == brief else pytest.mark.long)
        for name, faults in lies.items()
    ]
    return pytest.mark.parametrize(("lie", "faults"), cases)


@dataclass
class Scene:
    """A fleet, and every content that the source had."""

    fleet: Fleet
    ever: dict[str, list[bytes]] = field(default_factory=dict)

    @property
    def listener(self) -> FleetListener:
        return self.fleet.members[0]

    def notify(self, *keys: str) -> None:
        self.write(*keys)
        self.fleet.publish(*keys)

    def write(self, *keys: str) -> None:
        for key in keys:
            content = f"{key} {time.monotonic_ns()} ".encode() * (20_000 if key.endswith("large") else 20)
            self.ever.setdefault(key, []).append(content)
            self.fleet.source.put(key, content)

    def arrived(self, *destinations: str) -> bool:
        return all(self.fleet.destinations[name].content(key) == contents[-1]
                   for name in destinations for key, contents in self.ever.items())  # fmt: skip

    def dead_letters(self) -> list[str]:
        return [f"{name}: {letter.reason}" for name in self.fleet.destinations
                for key, letter in self.fleet.dead_letters(name).items() if key in self.ever]  # fmt: skip

    def deleted(self) -> list[str]:
        """Return the DELETE requests for copies of the objects."""
        return [target for proxy in self.fleet.proxies.values() for target in proxy.deleted
                if any(target.endswith(key) for key in self.ever)]  # fmt: skip

    def wrong(self, *keys: str) -> list[str]:
        """Return where a destination holds nothing, or what the source never held; everything had been copied."""
        return [f"{name}: {key!r} holds {(bucket.content(key) or b'nothing')[:40]!r}"
                for name, bucket in self.fleet.destinations.items() for key in keys
                if bucket.content(key) not in self.ever[key]]  # fmt: skip


@pytest.fixture(scope="module")
def fleet(
    started_servers: list[Server], tmp_path_factory: pytest.TempPathFactory, gateway: StoreServer
) -> Iterator[Fleet]:
    destinations = {name: Bucket.new(gateway) for name in (HONEST, LYING)}
    with (
        running(new_redis, started_servers) as redis,
        Fleet(
            tmp_path_factory.mktemp("lies"),
            redis.url,
            Bucket.new(gateway),
            destinations,
            size=1,
            worker={"lease_s": 5, "max_attempts": MAX_ATTEMPTS},
            pubsub={"backfill": False},
            deleting=destinations,
        ) as fleet,
    ):
        yield fleet


@pytest.fixture
def scene(fleet: Fleet, request: pytest.FixtureRequest) -> Scene:
    """Some keys that are everywhere already."""
    fleet.gather()
    scene = Scene(fleet)
    scene.notify(*(f"{time.monotonic_ns():x} {name}" for name in ("old", "older", "large")))
    eventually(lambda: scene.arrived(HONEST, LYING), "before the lies", every_s=0.1)
    return scene


@lies(LIES_TO_WRITERS, brief="all sorts")
def test_a_destination_that_lies_harms_no_other_and_gets_everything_in_the_end(
    scene: Scene, lie: str, faults: tuple[Fault, ...]
) -> None:
    fleet, old = scene.fleet, list(scene.ever)
    with fleet.proxies[LYING].injecting(*faults):
        until_s = time.monotonic() + LIES_FOR_S
        scene.notify(*old, *(f"new {key}" for key in old))
        began_s = time.monotonic()
        eventually(lambda: scene.arrived(HONEST), "all at the honest one", WELL_WITHIN_S, every_s=0.1)
        honest_s = time.monotonic() - began_s
        eventually(lambda: time.monotonic() > until_s, "the lies go on for long enough", every_s=0.1)
        assert not scene.wrong(*old)
        assert scene.listener.running
    began_s = time.monotonic()
    settled(scene, lie)
    report(
        "a lying destination",
        lie=lie,
        injected=dict(fleet.proxies[LYING].injected),
        honest_after_s=round(honest_s, 1),
        all_after_s=round(time.monotonic() - began_s, 1),
    )
    assert not scene.deleted()


@lies(LIES_TO_READERS)
def test_a_source_that_lies_destroys_and_falsifies_nothing(scene: Scene, lie: str, faults: tuple[Fault, ...]) -> None:
    fleet, old = scene.fleet, list(scene.ever)
    with fleet.to_source.injecting(*faults):
        until_s = time.monotonic() + LIES_FOR_S
        scene.notify(*old)
        fleet.publish(*old)
        eventually(lambda: time.monotonic() > until_s, "the lies go on for long enough", every_s=0.1)
        assert not scene.wrong(*old)
        assert scene.listener.running
    settled(scene, lie)
    assert not scene.deleted()


@pytest.mark.long
@pytest.mark.parametrize("lie", ["all sorts", "pages", "pages with an ETag", "maintenance", "two lengths"])
@pytest.mark.parametrize("side", ["source", "destination"])
def test_a_report_names_no_copy_that_is_not_there(scene: Scene, tmp_path: Path, lie: str, side: str) -> None:
    fleet, old = scene.fleet, list(scene.ever)
    proxy = fleet.to_source if side == "source" else fleet.proxies[LYING]
    scene.write(*old, *(f"new {key}" for key in old))
    report_path = tmp_path / "report.jsonl"
    with proxy.injecting(*LIES[lie]), bucket_started(fleet.config, "--report", report_path) as run:
        injected = proxy.injected.total()
        eventually(lambda: run.poll() is not None or proxy.injected.total() > injected + 5, "some lies", every_s=0.1)
        assert not scene.wrong(*old)
        proxy.inject()
        output, _ = run.communicate(timeout=200)
    lines, summary = report_lines(report_path)
    for line in lines:
        if line["key"] in scene.ever and line["outcome"] in ("copied", "same") and line["proof"]:
            assert fleet.destinations[line["destination"]].content(line["key"]) == scene.ever[line["key"]][-1]
    out_of_reach = summary["error"] or summary["errors"]  # a listing that lied
    assert run.returncode == (0 if summary["proven"] else 3 if out_of_reach else 1), output
    assert scene.arrived(HONEST, LYING) or not summary["proven"]
    assert not scene.deleted()


def settled(scene: Scene, lie: str) -> None:
    """Wait until everything has arrived, without an operator where the failure was a store's."""
    if lie in COUNTED:
        scene.fleet.publish(*scene.ever)
    else:
        assert not scene.dead_letters()
    eventually(lambda: scene.arrived(HONEST, LYING), "all at both destinations", 60, every_s=0.2)
    eventually(lambda: not scene.fleet.counts().pending, "the queue drains", 60, every_s=0.1)
    assert lie in COUNTED or not scene.dead_letters()
