"""Track up to when every published message is queued; record gaps."""

from __future__ import annotations

import logging
from collections.abc import Callable

from ..events import FIRST_START, GAP_DETECTED, log_event
from ..queue.base import boottime_s
from ..queue.redis_calls import LuaScripts
from .seen_data import SeenData

log = logging.getLogger(__name__)


class Watermark:
    """The watermark of a channel in Redis, by Redis's clock, and the gap before it.

    Redis's clock is read once for each subscription; other times are counted from there on `boottime_s`, which also
    runs while the machine sleeps. So a correction of either wall clock does not look like a gap.

    Args:
        route_token: returns the token of the route's fingerprint; "" is not checked.
        route: its name, for the log.

    Attributes:
        seen: what Redis had; if it has an earlier watermark later, or none, or other data, Redis has lost data.
    """

    def __init__(
        self, scripts: LuaScripts, channel: str, listener: str, route_token: Callable[[], str] = str, *, route: str = ""
    ) -> None:
        self._route = route
        self._route_token = route_token
        self._scripts = scripts
        self._channel = channel
        self._listener = listener
        self._subscribed_s, self._subscribed_ms = 0.0, 0  # the same moment on this process's clock and on Redis's
        self.seen = SeenData(scripts)

    async def redis_time_ms(self, at_s: float, subscribed_s: float) -> int:
        """Return what Redis's clock shows at `at_s`, counted from the beginning of a subscription."""
        if self._subscribed_s != subscribed_s:
            now_ms = int(await self._scripts.run("redis_time"))
            self._subscribed_ms = now_ms - round(1000 * (boottime_s() - subscribed_s))
            self._subscribed_s = subscribed_s
        return self._subscribed_ms + round(1000 * (at_s - subscribed_s))

    async def advance(
        self, complete_from_s: float, enqueued_to_s: float, subscribed_s: float, checkpoint: bytes
    ) -> None:
        """Record that all messages before these are on the queue, and the gap, if there was one.

        Without effect if another listener leads.

        Args:
            complete_from_s: since when this listener has received, or enqueued, every message.
            enqueued_to_s: everything published before is on the queue.
            checkpoint: everything received before this checkpoint is on the queue.
        """
        complete_from_ms = await self.redis_time_ms(complete_from_s, subscribed_s)
        enqueued_to_ms = await self.redis_time_ms(enqueued_to_s, subscribed_s)
        result, gap_ms, watermark_ms, data_id = await self._scripts.run(
            "advance",
            self._listener,
            complete_from_ms,
            enqueued_to_ms,
            checkpoint,
            self.seen.watermark_ms,
            self._route_token(),
            self.seen.data_id,
        )
        await self.seen.see(str(data_id), int(watermark_ms))
        if result == "first":
            text = "earlier messages were missed. Run `s3s3 bucket` once now, even if you ran it before"
            log_event(log, FIRST_START, text, route=self._route, channel=self._channel)
        elif result == "gap":
            text = "no listener was subscribed for a time"
            duration_s = round(gap_ms / 1000, 1)
            log_event(log, GAP_DETECTED, text, route=self._route, channel=self._channel, duration_s=duration_s)
        elif result == "data_loss":
            self._log_data_loss()

    async def see(self, data_id: str, watermark_ms: int) -> None:
        """Take note of the data that Redis has, and record the loss of those seen before. Raises RedisUnavailable."""
        if await self.seen.see(data_id, watermark_ms):
            self._log_data_loss()

    def _log_data_loss(self) -> None:
        log_event(log, GAP_DETECTED, "Redis has lost data", route=self._route, channel=self._channel)
