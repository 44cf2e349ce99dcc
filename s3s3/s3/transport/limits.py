"""Limits on the time of requests, and on the rate of their bodies."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ...model import Endpoint


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Limits on the time of one store's requests, in seconds, and on its speed.

    Each part of an exchange has a limit on the whole part, because a store that sends a byte now and then is never
    silent.

    Attributes:
        connect_s: for a connection, including TLS and name resolution.
        read_s: for the head of a response to a GET, and for a whole response that is a result or an error; while no
            byte of a body is received or sent.
        list_s: for a whole page of a listing. Ceph needs more than a minute where many objects were deleted.
        write_s: for a whole PUT of a body in memory, for the response to a streamed one after its last chunk, and for
            a DELETE: after its lease has expired, a write can be in flight this long.
        keep_s: how long an idle connection is kept. Less than servers allow (Ceph 65 s, Swift 60 s), so that a request
            is rarely sent on a connection that the server is about to close.
        min_bytes_per_s: what the store has to send or take of streamed bodies, on average over `rate_window_s`. All its
            requests in progress share it, as they share the line.
        rate_window_s: only time in which s3s3 waits for the store counts, not time in which it waits for another
            store, a rate limit or a disk.
    """

    connect_s: float = 10
    read_s: float = 60
    list_s: float = 300
    write_s: float = 60
    keep_s: float = 15
    min_bytes_per_s: float = 16 * 1024
    rate_window_s: float = 60

    def for_endpoint(self, endpoint: Endpoint) -> Timeouts:
        """Return these limits with those that the endpoint's table sets.

        Without a `list_timeout`, a page of a listing may take at least as long as a read.
        """
        read_s = endpoint.read_timeout_s or self.read_s
        return replace(
            self,
            connect_s=endpoint.connect_timeout_s or self.connect_s,
            read_s=read_s,
            list_s=endpoint.list_timeout_s or max(self.list_s, read_s),
        )


#: For HEAD requests of the mirror: its clients wait for the result.
LOOKUP_TIMEOUTS = Timeouts(connect_s=3, read_s=5, write_s=5)

LOOKUP_CONNECTIONS = 64

#: How long a lookup may take, with all its attempts.
MAX_LOOKUP_S = 8.0

#: Most of the time between two checks that counts; a longer time means that this process was stopped.
_MAX_STEP_S = 3.0


class RateWindow:
    """Measures how much of a body a store sends or takes, window by window.

    Args:
        waited_s: how long the request has waited for the store so far.
        moved_bytes: how much of the body was received or sent so far.

    Attributes:
        window_bytes: in the last window that ended.
    """

    __slots__ = ("_began_bytes", "_owed_bytes", "_waited_s", "_window_s", "window_bytes")

    def __init__(self, waited_s: float, moved_bytes: int) -> None:
        self._waited_s = waited_s
        self._began_bytes = moved_bytes
        self._window_s = self._owed_bytes = 0.0
        self.window_bytes = 0

    def is_too_slow(self, waited_s: float, moved_bytes: int, window_s: float, min_bytes_per_s: float) -> bool:
        """Return whether a window has ended in which fewer bytes were moved than its time required."""
        step_s, self._waited_s = min(waited_s - self._waited_s, _MAX_STEP_S), waited_s
        self._window_s += step_s
        self._owed_bytes += step_s * min_bytes_per_s
        if self._window_s < window_s:
            return False
        self.window_bytes, self._began_bytes = moved_bytes - self._began_bytes, moved_bytes
        owed_bytes = self._owed_bytes
        self._window_s = self._owed_bytes = 0.0
        return self.window_bytes < owed_bytes
