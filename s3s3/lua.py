"""A Lua script beside the module that uses it: what it does in Redis is one atomic step."""

from __future__ import annotations

from importlib import resources
from typing import Any

from redis.asyncio import Redis

from .broker import translated


class Script:
    """A script, ready to be run; it is sent to Redis where Redis does not know it.

    Args:
        package: the one that its file is in (`__package__` of whoever uses it).
        key: what it works on, or what all keys begin with that it works on: by this a cluster knows where to run it.
    """

    def __init__(self, client: Redis, package: str, file_name: str, key: str) -> None:
        self._script = client.register_script(resources.files(package).joinpath(file_name).read_text())
        self._key = key

    async def __call__(self, *args: str | bytes | int) -> Any:
        """Run it and return its answer.

        Raises:
            RedisUnavailable: Redis could not be reached, and nobody knows whether it ran.
            ResponseError: it raised an error of its own.
        """
        with translated():
            return await self._script(keys=[self._key], args=args)
