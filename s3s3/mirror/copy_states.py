"""What is known of each URL's copy, in Redis: present, pending or error. What is lost of it, a HEAD brings back."""

from __future__ import annotations

import json
import logging
import time
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis

from ..errors import RedisUnavailable, UpstreamRefused, UrlForbidden
from ..model import Outcome, Result
from ..monitoring.log import log_fields
from ..queue.keyspace import keyspace
from ..queue.redis_errors import translate_errors

log = logging.getLogger(__name__)

PENDING_S = 600
ERROR_S = 60
BEFORE_EXPIRY_S = 30 * 60
"""A client may follow a redirect a while after it got it."""
DAY_S = 86_400


@dataclass(frozen=True, slots=True)
class CopyState:
    """What is known of a copy.

    Attributes:
        name: present, pending or error.
        reason: of an error, in plain words.
        status: the HTTP status that a client gets for the error; None where it is sent to the URL itself.
        err: the error's name in the answer's body.
        is_final: to try again would bring the same.
    """

    name: str
    reason: str = ""
    status: int | None = None
    err: str = ""
    is_final: bool = False


class CopyStates:
    """The states of one destination's copies, under `s3s3:{ROUTE}:state:KEY`."""

    def __init__(self, client: Redis, route: str, lifespan_days: int) -> None:
        self._client = client
        self._route = route
        self._prefix = keyspace(route) + "state:"
        self._lifespan_s = lifespan_days * DAY_S

    async def read(self, key: str) -> CopyState | None:
        """Return what is known. Raises RedisUnavailable."""
        with translate_errors():
            text: Any = await self._client.get(self._prefix + key)
        return CopyState(**json.loads(text)) if text else None

    async def pend(self, key: str) -> None:
        """Say that somebody waits for the copy, unless something is known already. Raises RedisUnavailable."""
        await self._set(key, CopyState("pending"), PENDING_S, only_new=True)

    async def settle(self, key: str, outcome: Outcome) -> None:
        """Say what became of a copy. Without Redis it stays unsaid, and a HEAD finds it out."""
        try:
            if outcome.result is Result.COPIED:
                await self.is_present(key, None)
            elif outcome.result is Result.SAME:
                await self.forget(key)
            else:
                await self._set(key, _error_of(outcome), ERROR_S)
        except RedisUnavailable as error:
            log.warning("%s: the state of %r could not be kept: %s", self._route, key, error,
                        extra=log_fields(self._route, key))  # fmt: skip

    async def is_present(self, key: str, expires_ms: int | None) -> None:
        """Say that there is a copy.

        Args:
            expires_ms: when the store will delete it (Unix, ms); None: it has just been made.

        Raises:
            RedisUnavailable: it could not be said.
        """
        left_s = self._lifespan_s if expires_ms is None else expires_ms / 1000 - time.time()
        if left_s > BEFORE_EXPIRY_S:
            await self._set(key, CopyState("present"), int(left_s - BEFORE_EXPIRY_S))

    async def forget(self, key: str) -> None:
        """Say nothing any more. Raises RedisUnavailable."""
        with translate_errors():
            await self._client.delete(self._prefix + key)

    async def _set(self, key: str, state: CopyState, kept_s: int, *, only_new: bool = False) -> None:
        text = json.dumps({name: getattr(state, name) for name in CopyState.__slots__})
        with translate_errors():
            await self._client.set(self._prefix + key, text, ex=max(kept_s, 1), nx=only_new)


def _error_of(outcome: Outcome) -> CopyState:
    """Return the error that a client is told."""
    error = outcome.error
    if outcome.result is Result.SOURCE_MISSING:
        return CopyState("error", "not found upstream", 404, "BadHTTPStatus", is_final=True)
    if isinstance(error, UrlForbidden):
        return CopyState("error", error.message, 403, "InvalidUrl", is_final=True)
    if isinstance(error, UpstreamRefused) and error.status is not None and error.status >= 400:
        return CopyState("error", f"upstream answered {error.status}", error.status, "BadHTTPStatus", is_final=True)
    return CopyState("error", outcome.reason, is_final=not getattr(error, "retriable", False))
