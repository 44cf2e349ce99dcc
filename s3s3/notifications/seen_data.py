"""What a listener has seen of a route's data in Redis, which shows it whether Redis has lost them."""

from __future__ import annotations

from ..queue.redis_calls import LuaScripts


class SeenData:
    """The data of a route in Redis, as this listener has seen them.

    The first listener after a loss may be one that never saw the lost data, and takes the route for a new one. The
    others find out by the id of the data.

    Attributes:
        data_id: id of the data; "" before the first.
        watermark_ms: the latest watermark of these data; 0 before the first.
    """

    def __init__(self, scripts: LuaScripts) -> None:
        self._scripts = scripts
        self.data_id = ""
        self.watermark_ms = 0

    async def see(self, data_id: str, watermark_ms: int) -> bool:
        """Take note of the data that Redis has; return whether this has recorded the loss of those seen before.

        Raises RedisUnavailable.
        """
        has_recorded = False
        if data_id and self.data_id not in ("", data_id):
            has_recorded = bool(await self._scripts.run("record_loss", self.data_id))
            self.watermark_ms = 0
        self.data_id = data_id or self.data_id
        self.watermark_ms = max(self.watermark_ms, watermark_ms)
        return has_recorded
