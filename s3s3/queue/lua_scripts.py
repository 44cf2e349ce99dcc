"""The scripts that change a route's records, each in one atomic step."""

from __future__ import annotations

from importlib import resources
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from ..model import Lane
from .redis_errors import translate_errors

GROUP = "s3s3"

_NAMES = (
    "enqueue",
    "claim",
    "renew",
    "finish",
    "promote_due",
    "circuit",
    "redrive",
    "remove_consumer",
    "stats",
    "pending_by_destination",
)


class Scripts:
    """The scripts of one route, run by their names; each begins with the rule in record.lua.

    Args:
        prefix: what every key of the route begins with.
        look_ms: when a look is due that a script leaves.
    """

    def __init__(self, client: Redis, prefix: str, look_ms: int) -> None:
        self._client = client
        self._prefix = prefix
        self._look_ms = look_ms
        folder = resources.files(__package__) / "lua"
        rule = folder.joinpath("record.lua").read_text()
        self._scripts = {
            name: client.register_script(rule + folder.joinpath(f"{name}.lua").read_text()) for name in _NAMES
        }

    async def run(self, name: str, *args: str | int) -> Any:
        """Run a script; make the consumer groups first where a Redis that lost something has none.

        Raises:
            RedisUnavailable: it could not be reached, and nobody knows whether the script ran.
        """
        script = self._scripts[name]
        with translate_errors():
            try:
                return await script(keys=[self._prefix], args=(self._look_ms, *args))
            except ResponseError as error:
                if not is_no_group(error):
                    raise
            await self._make_groups()
            return await script(keys=[self._prefix], args=(self._look_ms, *args))

    async def _make_groups(self) -> None:
        """Make the consumer groups, from the start of their streams: what was put before is theirs, too."""
        for lane in Lane:
            try:
                await self._client.xgroup_create(self._prefix + lane.value, GROUP, id="0", mkstream=True)
            except ResponseError as error:
                if "BUSYGROUP" not in str(error):
                    raise


def is_no_group(error: ResponseError) -> bool:
    """Whether Redis says that a stream or its group is not there; in a script's error this stands in the middle.

    UNBLOCKED is what a blocking read gets whose stream is deleted meanwhile (Redis 7.0; 6.2 says NOGROUP).
    """
    return any(word in str(error) for word in ("NOGROUP", "UNBLOCKED"))


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
        with translate_errors():
            return await self._script(keys=[self._key], args=args)
