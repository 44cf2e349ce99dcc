"""TODO."""

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

_NOT_NOW = re.compile(
    r"\b(LOADING|READONLY|MASTERDOWN|CLUSTERDOWN|TRYAGAIN|BUSY|MISCONF|NOREPLICAS|UNBLOCKED|UNKILLABLE)\b"
)
"""Said by a server that is loading, failing over (UNBLOCKED: to blocking reads), or cannot write to its disk; in
the middle of the text where a script met it (Redis 6.2)."""


_LOST_IN_UVLOOP = "the handler is closed"
"""Said by uvloop (`UVHandle._ensure_alive`) to whoever writes on a connection that was reset a moment before; asyncio's
own loop has a ConnectionResetError for it."""


_CLUSTER_MOVES = (RedisClusterException, ClusterError, AskError, TryAgainError, NoScriptError)
"""What is left to say when a cluster's client has followed slots for as often as it does. It loads a script at the
masters that it knows of, and the call that follows may be led to another one."""


_FULL = re.compile(r"\bOOM\b")
"""How a script's error says it; of a plain command, redis-py makes an OutOfMemoryError."""


_MAY_NOT = re.compile(r"\b(NOPERM|ACL failure|no permissions to|can't (run|access) )")
"""What an ACL says to a user, by itself and from within a script (Redis 6.2 and 7.0)."""


_NO_DATABASE = re.compile(r"DB index|SELECT is not allowed")


@contextmanager
def translate_errors() -> Iterator[None]:
    """Turn what redis-py raises into RedisUnavailable where another try, or somebody who looks after Redis, can help.

    An error of another kind (a script that is wrong, a key of the wrong type) passes: it is a defect.
    """
    try:
        yield
    except AuthenticationError as error:
        raise RedisUnavailable(f"Redis refuses the password ({error}): look at [pubsub] url") from error
    except OutOfMemoryError as error:
        raise _full() from error
    except (ConnectionError, TimeoutError, ReadOnlyError, *_CLUSTER_MOVES, OSError) as error:
        where = "; look at [pubsub] url" if "connecting to" in str(error) else ""
        raise RedisUnavailable(f"Redis cannot be reached: {str(error).removesuffix('.')}{where}") from error
    except InvalidResponse as error:
        raise RedisUnavailable(f"what answers is no Redis ({error}): look at [pubsub] url") from error
    except RuntimeError as error:
        if _LOST_IN_UVLOOP not in str(error):
            raise
        raise RedisUnavailable("Redis cannot be reached: the connection was lost") from error
    except ResponseError as error:
        if _FULL.search(str(error)):
            raise _full() from error
        if _NOT_NOW.search(str(error)):
            raise RedisUnavailable(f"Redis refuses work for now: {error}") from error
        if _MAY_NOT.search(str(error)):
            raise RedisUnavailable(
                f"Redis says that its user may not do what s3s3 needs ({error}): look at the user in [pubsub] url, and "
                "at its ACL"
            ) from error
        if _NO_DATABASE.search(str(error)):
            raise RedisUnavailable(f"Redis has no such database ({error}): look at [pubsub] url") from error
        raise


def _full() -> RedisUnavailable:
    return RedisUnavailable("Redis is full (maxmemory): give it more memory, or drop dead letters")
