"""Run Lua scripts in Redis, each an atomic step."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from importlib import resources
from typing import Any

from redis.asyncio import Redis

from .redis_errors import is_no_group, raise_translated, translate_errors


class LuaScripts:
    """The Lua scripts of one package, run by name (`NAME.lua`). Redis receives the source when it does not know it.

    Args:
        package: contains the files: `__package__` of the caller.
        key: KEYS[1] of each script: the key it uses, or the prefix of all its keys. In a cluster it selects the node.
        folder: subfolder of the package.
        prelude: name of a script to prepend to each of the others.
        args: first arguments of each call.
        on_no_group: creates the consumer groups, before a second try, where a script did not find its group.
    """

    def __init__(
        self,
        client: Redis,
        package: str,
        key: str,
        *,
        folder: str = "",
        prelude: str = "",
        args: Sequence[str | int] = (),
        on_no_group: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._client = client
        self._keys = [key]
        self._folder = resources.files(package).joinpath(folder)
        self._prelude = self._read(prelude) if prelude else ""
        self._args = tuple(args)
        self._on_no_group = on_no_group
        self._scripts: dict[str, Any] = {}

    async def run(self, name: str, *args: str | bytes | int) -> Any:
        """Run a script and return its result.

        Raises:
            RedisUnavailable: Redis did not respond; the script may have run.
            ResponseError: the script failed.
        """
        script = self._scripts.get(name)
        if script is None:
            script = self._scripts[name] = self._client.register_script(self._prelude + self._read(name))
        try:
            return await script(keys=self._keys, args=(*self._args, *args))
        except Exception as error:  # noqa: BLE001  translated, or raised again
            if self._on_no_group is None or not is_no_group(error):
                raise_translated(error)
        with translate_errors():
            await self._on_no_group()
            return await script(keys=self._keys, args=(*self._args, *args))

    def _read(self, name: str) -> str:
        return self._folder.joinpath(f"{name}.lua").read_text()
