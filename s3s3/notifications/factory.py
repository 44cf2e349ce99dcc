"""The sources of notices that a configuration turns on."""

from __future__ import annotations

from collections.abc import Callable

from redis.asyncio import Redis

from ..config import Config
from .redis_stream import RedisStreamSource
from .source import Deliver, NotificationSource


def sources_of(
    config: Config, client: Redis, consumer: str, routing: Deliver, count: Callable[[str], None]
) -> list[NotificationSource]:
    """Return the sources whose tables are there; none of them has begun.

    Args:
        client: one that does not decode.
        consumer: this process's name; no two have the same.
        count: called with the kind of what was wrong with a message.
    """
    found: list[NotificationSource] = []
    if config.stream is not None:
        name, group = config.stream.name, config.stream.group
        found.append(
            RedisStreamSource(client, name, group, consumer, routing, lease_s=config.worker.lease_s, count=count)
        )
    if config.sqs is not None:
        from .sqs import SqsSource  # noqa: PLC0415  boto3, which takes its time, is for who uses it

        url, region, endpoint_url = config.sqs.url, config.sqs.region, config.sqs.endpoint_url
        found.append(SqsSource(url, routing, region=region, endpoint_url=endpoint_url, count=count))
    if config.webhook is not None:
        from .webhook import WebhookSource  # noqa: PLC0415  the same of aiohttp

        host, port, token = config.webhook.host, config.webhook.port, config.webhook.token
        found.append(WebhookSource(host, port, token, routing, count=count))
    return found
