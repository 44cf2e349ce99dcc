"""TODO."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from ..errors import RedisUnavailable
from ..tasks import wait_with_timeout

log = logging.getLogger(__name__)


Answer = TypeVar("Answer")


INITIAL_BACKOFF_S = 0.1


MAX_BACKOFF_S = 5.0


class RedisRetry:
    """Asks Redis until it answers, for ever: a daemon outlives its Redis.

    Whatever asks at the same time shares one, so that people are told once that it is away, and once that it is back.
    """

    def __init__(self) -> None:
        self._is_away = False

    async def run(self, ask: Callable[[], Awaitable[Answer]], stop: asyncio.Event | None = None) -> Answer:
        """Ask until Redis answers.

        Raises:
            RedisUnavailable: it does not answer, and `stop` is set.
        """
        pause_s = INITIAL_BACKOFF_S
        while True:
            try:
                answer = await ask()
            except RedisUnavailable as error:
                self._say_away(error)
                if await self._pause(pause_s, stop):
                    raise
                pause_s = min(pause_s * 2, MAX_BACKOFF_S)
            else:
                self._say_back()
                return answer

    async def _pause(self, longest_s: float, stop: asyncio.Event | None) -> bool:
        """Wait before asking again; return whether a stop came."""
        pause_s = random.uniform(longest_s / 2, longest_s)
        if stop is not None:
            return await wait_with_timeout(stop, pause_s)
        await asyncio.sleep(pause_s)
        return False

    def _say_away(self, error: RedisUnavailable) -> None:
        if not self._is_away:
            log.warning("%s; trying again until it answers", error)
        self._is_away = True

    def _say_back(self) -> None:
        if self._is_away:
            log.warning("Redis answers again")
        self._is_away = False


async def retry_until_available(ask: Callable[[], Awaitable[Answer]], stop: asyncio.Event | None = None) -> Answer:
    """Ask with a patience of one's own. Raises what `RedisRetry.answered` raises."""
    return await RedisRetry().run(ask, stop)
