"""Messages received and not yet enqueued."""

from __future__ import annotations

import tracemalloc

import pytest

from s3s3.notifications import subscription as subscription_module
from s3s3.notifications.subscription import BufferedMessage, MessageBuffer
from tests.clock import Clock


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(subscription_module, "boottime_s", clock)
    return clock


def contents(buffer: MessageBuffer) -> list[bytes | None]:
    return [message.text or message.checkpoint for message in buffer.messages]


async def test_messages_checkpoints_and_pings_are_kept_in_order(clock: Clock) -> None:
    buffer = MessageBuffer("backup")
    buffer.on_subscribed()
    clock.now_s = 1001
    buffer.on_message(b"key")
    buffer.on_checkpoint(b"c1")
    buffer.on_ping(1000.5)
    assert buffer.changed.is_set()
    assert list(buffer.messages) == [
        BufferedMessage(1001, 1000, text=b"key", size_bytes=3),
        BufferedMessage(1001, 1000, checkpoint=b"c1"),
        BufferedMessage(1000.5, 1000),
    ]


async def test_a_ping_sent_before_the_subscription_counts_from_its_beginning(clock: Clock) -> None:
    buffer = MessageBuffer("backup")
    buffer.on_subscribed()
    buffer.on_ping(999)
    assert buffer.messages[0].at_s == 1000


async def test_an_empty_message_is_a_message(clock: Clock) -> None:
    buffer = MessageBuffer("backup")
    buffer.on_message(b"")
    assert buffer.messages[0].text == b""


async def test_the_age_is_that_of_the_oldest_message(clock: Clock) -> None:
    buffer = MessageBuffer("backup")
    assert buffer.oldest_age_s == 0
    buffer.on_message(b"a")
    clock.now_s += 3
    buffer.on_message(b"b")
    assert buffer.oldest_age_s == 3


async def test_messages_are_complete_from_the_subscription_or_the_last_discard(clock: Clock) -> None:
    buffer = MessageBuffer("backup")
    clock.now_s = 1005
    buffer.on_subscribed()
    assert buffer.complete_from_s(buffer.subscribed_s) == 1005
    for text in (b"a", b"b", b"c"):
        buffer.on_message(text)
        clock.now_s += 1
    buffer.discard_older_than(1.5)  # at 1008
    assert buffer.complete_from_s(buffer.subscribed_s) == 1006.5
    assert contents(buffer) == [b"c"]


@pytest.mark.parametrize("is_leader", [True, False])
async def test_the_older_half_of_a_full_buffer_is_discarded(
    is_leader: bool, clock: Clock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(subscription_module, "MAX_BUFFER_BYTES", 4 * (subscription_module.MESSAGE_OVERHEAD_BYTES + 1))
    buffer = MessageBuffer("backup", is_leader=lambda: is_leader)
    for number in range(5):
        clock.now_s += 1
        buffer.on_message(b"%d" % number)
    assert contents(buffer) == [b"2", b"3", b"4"]
    assert buffer.complete_from_s(buffer.subscribed_s) == 1002
    assert ("2 messages discarded" in caplog.text) == is_leader


async def test_long_messages_and_many_are_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subscription_module, "MAX_BUFFER_BYTES", 1024 * 1024)
    buffer = MessageBuffer("backup")
    long = b"x" * 1024 * 1024
    tracemalloc.start()
    try:
        for _ in range(500):  # half a GiB
            buffer.on_message(long[:-1])
        for number in range(20_000):
            buffer.on_message(b"%040d" % number)
            buffer.on_checkpoint(b"%016d" % number)
        assert tracemalloc.get_traced_memory()[0] < 2 * 1024 * 1024
    finally:
        tracemalloc.stop()
    assert buffer.messages[-2].text == b"%040d" % 19_999


async def test_what_was_not_enqueued_is_put_back_in_order_and_counted_once(clock: Clock) -> None:
    buffer = MessageBuffer("backup")
    for text in (b"a", b"b", b"c"):
        buffer.on_message(text)
    size_bytes = buffer.size_bytes
    buffer.put_back([buffer.pop(), buffer.pop()])
    assert contents(buffer) == [b"a", b"b", b"c"]
    assert buffer.size_bytes == size_bytes
    buffer.discard_older_than(-1)
    assert buffer.size_bytes == 0


async def test_what_precedes_a_checkpoint_is_skipped_but_for_what_may_have_been_reordered(clock: Clock) -> None:
    buffer = MessageBuffer("backup")
    for name in (b"early", b"just before"):
        buffer.on_message(name)
        clock.now_s += 1
    clock.now_s += subscription_module.MAX_REORDERING_S - 1
    buffer.on_checkpoint(b"c1")
    buffer.on_message(b"after")
    buffer.skip_to(b"c1")
    assert contents(buffer) == [b"just before", b"c1", b"after"]


@pytest.mark.parametrize("checkpoint", [b"", b"unknown"])
async def test_nothing_is_skipped_to_an_unknown_checkpoint(checkpoint: bytes, clock: Clock) -> None:
    buffer = MessageBuffer("backup")
    buffer.on_message(b"a")
    clock.now_s += 10
    buffer.on_ping(clock.now_s)
    buffer.skip_to(checkpoint)
    assert len(buffer.messages) == 2
