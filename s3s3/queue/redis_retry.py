"""Retry a Redis call until Redis is available again."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from ..errors import RedisUnavailable
from ..tasks import wait_with_timeout

log = logging.getLogger(__name__)

Response = TypeVar("Response")

INITIAL_BACKOFF_S = 0.1
MAX_BACKOFF_S = 5.0


class RedisRetry:
    """Retries calls while Redis is unavailable, without a limit: a daemon outlives its Redis.

    Callers that share an instance log one outage once, and its end once.
    """

    def __init__(self) -> None:
        self._is_available = True

    async def run(self, call: Callable[[], Awaitable[Response]], stop: asyncio.Event | None = None) -> Response:
        """Call until Redis responds; return the result.

        Raises:
            RedisUnavailable: Redis does not respond, and `stop` is set.
        """
        backoff_s = INITIAL_BACKOFF_S
        while True:
            try:
                response = await call()
            except RedisUnavailable as error:
                if self._is_available:
                    log.warning("retrying until Redis is available: %s", error)
                self._is_available = False
                delay_s = random.uniform(backoff_s / 2, backoff_s)
                if stop is None:
                    await asyncio.sleep(delay_s)
                elif await wait_with_timeout(stop, delay_s):
                    raise
                backoff_s = min(backoff_s * 2, MAX_BACKOFF_S)
            else:
                if not self._is_available:
                    log.warning("Redis is available again")
                self._is_available = True
                return response
