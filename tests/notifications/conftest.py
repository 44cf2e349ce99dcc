"""The sender fixture: one test run for each kind of source."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from s3s3.notifications import leader_election, subscription
from tests.notifications.senders import ChannelSender, Sender, SqsSender, StreamSender, WebhookSender


@pytest.fixture(params=["stream", "sqs", "webhook", "pubsub"])
async def sender(
    request: pytest.FixtureRequest, redis_url: str, own_keys: None, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Sender]:
    monkeypatch.setattr(subscription, "PING_INTERVAL_S", 0.2)
    monkeypatch.setattr(leader_election, "LEASE_S", 0.8)
    sender: Sender
    if request.param == "stream":
        sender = StreamSender(redis_url)
    elif request.param == "sqs":
        sender = SqsSender(request.getfixturevalue("sqs_url"))
    elif request.param == "webhook":
        sender = WebhookSender()
    else:
        sender = ChannelSender(redis_url)
    yield sender
    await sender.close()
