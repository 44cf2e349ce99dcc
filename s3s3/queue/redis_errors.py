"""Translate redis-py exceptions to RedisUnavailable."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

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


def is_no_group(error: Exception) -> bool:
    """Return whether a stream or its consumer group is missing, also in a script's error.

    UNBLOCKED: the stream was deleted during a blocking read (Redis 7.0; 6.2: NOGROUP).
    """
    return isinstance(error, ResponseError) and any(code in str(error) for code in ("NOGROUP", "UNBLOCKED"))


@contextmanager
def translate_errors() -> Iterator[None]:
    """Raise RedisUnavailable for redis-py errors that a retry, or a change of Redis or the settings, can cure.

    Others (a broken script, a key of the wrong type) are defects and pass unchanged.
    """
    try:
        yield
    except Exception as error:  # noqa: BLE001  translated, or raised again
        raise_translated(error)


def raise_translated(error: Exception) -> NoReturn:
    """Raise what `translate_errors` makes of an error; call it in an `except` block."""
    message = _message(error)
    if not message:
        raise error
    raise RedisUnavailable(message) from error


def _message(error: Exception) -> str:
    """Return the message of RedisUnavailable, or "" for a defect."""
    text = str(error)
    if isinstance(error, AuthenticationError):
        return f"Redis refuses the password, check [pubsub] url: {text}"
    if isinstance(error, OutOfMemoryError) or (isinstance(error, ResponseError) and _OUT_OF_MEMORY.search(text)):
        return "Redis is out of memory (maxmemory): give it more, or drop dead letters"
    if isinstance(error, (ConnectionError, TimeoutError, ReadOnlyError, *_CLUSTER_ERRORS, OSError)):
        where = ", check [pubsub] url" if "connecting to" in text else ""
        return f"Redis cannot be reached{where}: {text.removesuffix('.')}"
    if isinstance(error, InvalidResponse):
        return f"the server is not a Redis, check [pubsub] url: {text}"
    if isinstance(error, RuntimeError) and _UVLOOP_CONNECTION_LOST in text:
        return "Redis cannot be reached: connection lost"
    return _response_message(text) if isinstance(error, ResponseError) else ""


def _response_message(text: str) -> str:
    if _TEMPORARY.search(text):
        return f"Redis temporarily refuses requests: {text}"
    if _FORBIDDEN.search(text):
        return f"the Redis user lacks permissions, check its ACL and the user in [pubsub] url: {text}"
    if _NO_DATABASE.search(text):
        return f"Redis does not have this database, check [pubsub] url: {text}"
    return ""
