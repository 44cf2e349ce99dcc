"""Create the sources enabled in the configuration."""

from __future__ import annotations

from collections.abc import Callable

from redis.asyncio import Redis

from ..config import Config
from .redis_stream import RedisStreamSource
from .source import Deliver, NotificationSource


def create_sources(
    config: Config, client: Redis, consumer: str, routing: Deliver, count: Callable[[str], None]
) -> list[NotificationSource]:
    """Return the sources that the configuration has a table for, not running yet.

    Args:
        client: one that returns bytes.
        consumer: unique name of this process.
        count: called with the label of each unusable message.
    """
    sources: list[NotificationSource] = []
    if config.stream is not None:
        name, group = config.stream.name, config.stream.group
        sources.append(
            RedisStreamSource(client, name, group, consumer, routing, lease_s=config.worker.lease_s, count=count)
        )
    if config.sqs is not None:
        from .sqs import SqsSource  # noqa: PLC0415  boto3 is slow to import

        url, region, endpoint_url = config.sqs.url, config.sqs.region, config.sqs.endpoint_url
        sources.append(SqsSource(url, routing, region=region, endpoint_url=endpoint_url, count=count))
    if config.webhook is not None:
        from .webhook import WebhookSource  # noqa: PLC0415  aiohttp is slow to import

        host, port, token = config.webhook.host, config.webhook.port, config.webhook.token
        sources.append(WebhookSource(host, port, token, routing, count=count))
    return sources
