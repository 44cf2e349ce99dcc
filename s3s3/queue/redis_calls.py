"""Call Redis: run Lua scripts, translate errors to RedisUnavailable, retry until Redis is available."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import resources
from typing import Any, NoReturn, TypeVar

from redis import exceptions
from redis.asyncio import Redis

from ..errors import RedisUnavailable
from ..events import REDIS_AVAILABLE, REDIS_UNAVAILABLE, log_event
from ..tasks import backoff_s, wait_with_timeout

log = logging.getLogger(__name__)

Response = TypeVar("Response")

INITIAL_BACKOFF_S = 0.1
MAX_BACKOFF_S = 5.0

_UNREACHABLE = (
    exceptions.ConnectionError,
    exceptions.TimeoutError,
    exceptions.ReadOnlyError,
    OSError,
    # What a cluster client raises after following moved slots too often. NoScriptError: it loads a script on the
    # masters that it knows, and the call that follows may be redirected to another one.
    exceptions.RedisClusterException,
    exceptions.ClusterError,
    exceptions.AskError,
    exceptions.TryAgainError,
    exceptions.NoScriptError,
)
_OUT_OF_MEMORY = "Redis is out of memory (maxmemory): give it more, or drop dead letters"

#: Exceptions, a pattern in their text, and the message of RedisUnavailable ("{}" is the text); the first match counts.
#: In a script's error the code is in the middle of the text (Redis 6.2).
_MESSAGES = (
    (exceptions.AuthenticationError, "", "Redis refuses the password, check [pubsub] url: {}"),
    (
        exceptions.ConnectionError,
        "No master found.*(Authentication|NOAUTH|WRONGPASS|invalid username-password)",
        "the sentinels refuse the password: set ?sentinel_password=... in [pubsub] url: {}",
    ),
    (exceptions.OutOfMemoryError, "", _OUT_OF_MEMORY),
    (exceptions.ResponseError, r"\bOOM\b", _OUT_OF_MEMORY),
    (_UNREACHABLE, "connecting to", "Redis cannot be reached, check [pubsub] url: {}"),
    (_UNREACHABLE, "", "Redis cannot be reached: {}"),
    # uvloop (`UVHandle._ensure_alive`), for a write on a connection that was reset just before. asyncio's own loop
    # raises ConnectionResetError.
    (RuntimeError, "the handler is closed", "Redis cannot be reached: connection lost"),
    (exceptions.InvalidResponse, "", "not a Redis server, check [pubsub] url: {}"),
    # The server is loading, failing over (UNBLOCKED: to blocking reads) or cannot write to its disk.
    (
        exceptions.ResponseError,
        r"\b(LOADING|READONLY|MASTERDOWN|CLUSTERDOWN|TRYAGAIN|BUSY|MISCONF|NOREPLICAS|UNBLOCKED|UNKILLABLE)\b",
        "Redis temporarily refuses requests: {}",
    ),
    # What a user's ACL forbids, directly and in a script (Redis 6.2 and 7.0).
    (
        exceptions.ResponseError,
        r"\b(NOPERM|ACL failure|no permissions to|can't (run|access) )",
        "the Redis user lacks permissions, check its ACL and the user in [pubsub] url: {}",
    ),
    (
        exceptions.ResponseError,
        "DB index|SELECT is not allowed",
        "Redis does not have this database, check [pubsub] url: {}",
    ),
)


def keyspace(namespace: str, route_name: str) -> str:
    """Return the prefix of every Redis key of a route: `NAMESPACE:{ROUTE}:`.

    The braces are a hash tag: a cluster keeps all keys of a route in one slot, where one script can use them together.
    """
    return f"{namespace}:{{{route_name}}}:"


def is_no_group(error: Exception) -> bool:
    """Return whether a stream or its consumer group is missing, also in a script's error.

    UNBLOCKED: the stream was deleted during a blocking read (Redis 7.0; 6.2: NOGROUP).
    """
    return isinstance(error, exceptions.ResponseError) and any(code in str(error) for code in ("NOGROUP", "UNBLOCKED"))


@contextmanager
def translate_errors() -> Iterator[None]:
    """Raise RedisUnavailable for redis-py errors that a retry, or a change of Redis or the settings, can fix.

    Others (a broken script, a key of the wrong type) are defects and pass unchanged.
    """
    try:
        yield
    except Exception as error:  # noqa: BLE001  translated, or raised again
        raise_translated(error)


def raise_translated(error: Exception) -> NoReturn:
    """Raise what `translate_errors` makes of an error; call it in an `except` block."""
    text = str(error).removesuffix(".")
    for types, pattern, message in _MESSAGES:
        if isinstance(error, types) and re.search(pattern, text):
            raise RedisUnavailable(message.format(text)) from error
    raise error


class RedisRetry:
    """Retries calls while Redis is unavailable, without a limit: a daemon must survive an outage of Redis.

    Callers that share an instance log each outage once, and its end once.
    """

    def __init__(self) -> None:
        self._is_available = True

    async def run(self, call: Callable[[], Awaitable[Response]], stop: asyncio.Event | None = None) -> Response:
        """Call until Redis responds; return the result. Raises RedisUnavailable only while `stop` is set."""
        failures = 0
        while True:
            try:
                response = await call()
            except RedisUnavailable as error:
                if self._is_available:
                    log_event(log, REDIS_UNAVAILABLE, str(error))
                self._is_available = False
                failures += 1
                delay_s = backoff_s(failures, INITIAL_BACKOFF_S, MAX_BACKOFF_S)
                if stop is None:
                    await asyncio.sleep(delay_s)
                elif await wait_with_timeout(stop, delay_s):
                    raise
            else:
                if not self._is_available:
                    log_event(log, REDIS_AVAILABLE)
                self._is_available = True
                return response


class LuaScripts:
    """The Lua scripts of one package, run by name (`NAME.lua`). Redis receives the source when it does not know it.

    Args:
        package: contains the files: `__package__` of the caller.
        key: KEYS[1] of each script: the key it uses, or the prefix of all its keys. In a cluster it selects the node.
        folder: subfolder of the package.
        prelude: name of a script to prepend to each of the others.
        args: first arguments of each call.
        on_no_group: creates the consumer groups, before a second try, if a script did not find its group.
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
        self._keys = [key]
        # All are read now: a process that runs out of file descriptors must still be able to use its queue.
        files = {path.name: path.read_text() for path in resources.files(package).joinpath(folder).iterdir()
                 if path.name.endswith(".lua")}  # fmt: skip
        common = files[f"{prelude}.lua"] if prelude else ""
        self._scripts = {
            name.removesuffix(".lua"): client.register_script(common + text) for name, text in files.items()
        }
        self._args = tuple(args)
        self._on_no_group = on_no_group

    async def run(self, name: str, *args: str | bytes | int) -> Any:
        """Run a script and return its result.

        Raises:
            RedisUnavailable: Redis did not respond; the script may have run.
            ResponseError: the script failed.
        """
        script = self._scripts[name]
        try:
            return await script(keys=self._keys, args=(*self._args, *args))
        except Exception as error:  # noqa: BLE001  translated, or raised again
            if self._on_no_group is None or not is_no_group(error):
                raise_translated(error)
        with translate_errors():
            await self._on_no_group()
            return await script(keys=self._keys, args=(*self._args, *args))
