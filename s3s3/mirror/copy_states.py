"""Cache copy states (present, pending, error) in Redis.

Keys, each beginning with `NAMESPACE:{ROUTE}:`, where ROUTE is a destination of the redirect front end:

    state:KEY       string: the state of one copy, JSON; expires, and a HEAD restores what is lost
        name            present | pending | error
        reason          of an error, for the client
        status          HTTP status of an error; null: the client is redirected to the URL itself
        err             name of an error in the response body
        is_final        true: another attempt would fail in the same way

KEY is the percent-encoded URL. Present expires half an hour before the copy does, pending after 10 minutes, error
after 1 minute.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis

from ..errors import RedisUnavailable, UpstreamRefused, UrlForbidden
from ..model import Outcome, Result, Route
from ..monitoring.log import log_fields
from ..queue.redis_calls import keyspace, translate_errors

log = logging.getLogger(__name__)

#: Expiry of the state "pending" (s).
PENDING_S = 600
#: Expiry of the state "error" (s).
ERROR_S = 60
#: The state "present" expires this long before the copy (s): a client may follow its redirect some time later.
PRESENT_MARGIN_S = 30 * 60
DAY_S = 86_400


@dataclass(frozen=True, slots=True)
class CopyState:
    """State of a copy. The attributes are the fields of `state:KEY`."""

    name: str
    reason: str = ""
    status: int | None = None
    err: str = ""
    is_final: bool = False


class CopyStates:
    """The states of one destination's copies. Without Redis all methods but `delete` log a warning and go on."""

    def __init__(self, client: Redis, route: Route, lifespan_days: int) -> None:
        self._client = client
        self._route = route.name
        self._prefix = keyspace(route.namespace, route.name) + "state:"
        self._lifespan_s = lifespan_days * DAY_S

    async def read(self, key: str) -> CopyState | None:
        """Return the state of a copy; None if it is unknown."""
        text: Any = None
        with self._optional(key):
            text = await self._client.get(self._prefix + key)
        return CopyState(**json.loads(text)) if text else None

    async def set_pending(self, key: str) -> None:
        """Record that a client waits for the copy, unless a state is recorded."""
        await self._set(key, CopyState("pending"), PENDING_S, only_new=True)

    async def record_outcome(self, key: str, outcome: Outcome) -> None:
        """Record the outcome of a copy job."""
        if outcome.result is Result.COPIED:
            await self.set_present(key, None)
        elif outcome.result is Result.SAME:
            with self._optional(key):
                await self.delete(key)
        else:
            error = outcome.error
            state = CopyState("error", outcome.reason, is_final=not getattr(error, "retriable", False))
            if outcome.result is Result.SOURCE_MISSING:
                state = CopyState("error", "not found upstream", 404, "BadHTTPStatus", is_final=True)
            elif isinstance(error, UrlForbidden):
                state = CopyState("error", error.message, 403, "InvalidUrl", is_final=True)
            elif isinstance(error, UpstreamRefused) and error.status is not None and error.status >= 400:
                reason = f"upstream answered {error.status}"
                state = CopyState("error", reason, error.status, "BadHTTPStatus", is_final=True)
            await self._set(key, state, ERROR_S)

    async def set_present(self, key: str, expires_ms: int | None) -> None:
        """Record that the copy exists; `expires_ms`: when the store deletes it (Unix, ms), None: it was copied now."""
        left_s = self._lifespan_s if expires_ms is None else expires_ms / 1000 - time.time()
        if left_s > PRESENT_MARGIN_S:
            await self._set(key, CopyState("present"), int(left_s - PRESENT_MARGIN_S))

    async def delete(self, key: str) -> None:
        """Delete the state of a copy. Raises RedisUnavailable."""
        with translate_errors():
            await self._client.delete(self._prefix + key)

    async def _set(self, key: str, state: CopyState, expiry_s: int, *, only_new: bool = False) -> None:
        text = json.dumps({name: getattr(state, name) for name in CopyState.__slots__})
        with self._optional(key):
            await self._client.set(self._prefix + key, text, ex=max(expiry_s, 1), nx=only_new)

    @contextmanager
    def _optional(self, key: str) -> Iterator[None]:
        try:
            with translate_errors():
                yield
        except RedisUnavailable as error:
            log.warning("%s: cannot access the copy state of %r: %s", self._route, key, error,
                        extra=log_fields(self._route, key))  # fmt: skip
