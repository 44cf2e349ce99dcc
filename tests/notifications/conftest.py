"""The senders under test, each with a server of its own where it needs one."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from s3s3.notifications import pubsub, subscription
from tests.notifications.senders import ChannelSender, Sender, SqsSender, StreamSender, WebhookSender


@pytest.fixture(params=["stream", "sqs", "webhook", "pubsub"])
async def sender(
    request: pytest.FixtureRequest, redis_url: str, own_keys: None, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Sender]:
    monkeypatch.setattr(subscription, "PING_EVERY_S", 0.2)
    monkeypatch.setattr(pubsub, "LEASE_S", 0.8)
    made: Sender
    if request.param == "stream":
        made = StreamSender(redis_url)
    elif request.param == "sqs":
        made = SqsSender(request.getfixturevalue("sqs_url"))
    elif request.param == "webhook":
        made = WebhookSender()
    else:
        made = ChannelSender(redis_url)
    yield made
    await made.close()
