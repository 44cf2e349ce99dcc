"""Translate redis-py exceptions to RedisUnavailable."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from redis.exceptions import (
    AskError,
    AuthenticationError,
    ClusterError,
    ConnectionError,
    InvalidResponse,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisClusterException,
    ResponseError,
    TimeoutError,
    TryAgainError,
)

from ..errors import RedisUnavailable

#: Error codes of a server that is loading, failing over (UNBLOCKED: to blocking reads) or cannot write to its disk.
#: In a script's error they are in the middle of the text (Redis 6.2).
_TEMPORARY = re.compile(
    r"\b(LOADING|READONLY|MASTERDOWN|CLUSTERDOWN|TRYAGAIN|BUSY|MISCONF|NOREPLICAS|UNBLOCKED|UNKILLABLE)\b"
)

#: uvloop's RuntimeError (`UVHandle._ensure_alive`) for a write on a connection that was reset just before. asyncio's
#: own loop raises ConnectionResetError.
_UVLOOP_CONNECTION_LOST = "the handler is closed"

#: What a cluster client raises after following moved slots too often. NoScriptError: it loads a script on the masters
#: that it knows, and the call that follows may be redirected to another one.
_CLUSTER_ERRORS = (RedisClusterException, ClusterError, AskError, TryAgainError, NoScriptError)

#: Out of memory, in a script's error. For a plain command, redis-py raises OutOfMemoryError.
_OUT_OF_MEMORY = re.compile(r"\bOOM\b")

#: What a user's ACL forbids, directly and in a script (Redis 6.2 and 7.0).
_FORBIDDEN = re.compile(r"\b(NOPERM|ACL failure|no permissions to|can't (run|access) )")

_NO_DATABASE = re.compile(r"DB index|SELECT is not allowed")


def is_no_group(error: ResponseError) -> bool:
    """Return whether a stream or its consumer group is missing, also in a script's error.

    UNBLOCKED is the response to a blocking read whose stream is deleted meanwhile (Redis 7.0; 6.2: NOGROUP).
    """
    return any(code in str(error) for code in ("NOGROUP", "UNBLOCKED"))


@contextmanager
def translate_errors() -> Iterator[None]:
    """Raise RedisUnavailable for redis-py errors that a retry, or a change of Redis or the settings, can cure.

    Others (a broken script, a key of the wrong type) are defects and pass unchanged.
    """
    try:
        yield
    except AuthenticationError as error:
        raise RedisUnavailable(f"Redis refuses the password, check [pubsub] url: {error}") from error
    except OutOfMemoryError as error:
        raise _out_of_memory() from error
    except (ConnectionError, TimeoutError, ReadOnlyError, *_CLUSTER_ERRORS, OSError) as error:
        where = ", check [pubsub] url" if "connecting to" in str(error) else ""
        raise RedisUnavailable(f"Redis cannot be reached{where}: {str(error).removesuffix('.')}") from error
    except InvalidResponse as error:
        raise RedisUnavailable(f"the server is not a Redis, check [pubsub] url: {error}") from error
    except RuntimeError as error:
        if _UVLOOP_CONNECTION_LOST not in str(error):
            raise
        raise RedisUnavailable("Redis cannot be reached: connection lost") from error
    except ResponseError as error:
        if _OUT_OF_MEMORY.search(str(error)):
            raise _out_of_memory() from error
        if _TEMPORARY.search(str(error)):
            raise RedisUnavailable(f"Redis temporarily refuses requests: {error}") from error
        if _FORBIDDEN.search(str(error)):
            raise RedisUnavailable(
                f"the Redis user lacks permissions, check its ACL and the user in [pubsub] url: {error}"
            ) from error
        if _NO_DATABASE.search(str(error)):
            raise RedisUnavailable(f"Redis does not have this database, check [pubsub] url: {error}") from error
        raise


def _out_of_memory() -> RedisUnavailable:
    return RedisUnavailable("Redis is out of memory (maxmemory): give it more, or drop dead letters")
