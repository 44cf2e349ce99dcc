"""Send request statistics to InfluxDB as line protocol, in batches. Failures do not affect the mirrors."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections import deque

import aiohttp
from yarl import URL

from ..tasks import cancel

log = logging.getLogger(__name__)

#: Interval between batches (s).
SEND_INTERVAL_S = 5.0
#: Lines kept until the next batch; older ones are dropped.
MAX_LINES = 20_000

_REQUEST_TIMEOUT_S = 5.0


def write_url(text: str) -> URL:
    """Return the URL to POST lines to, with user and password. Raises ValueError for an invalid URL.

    `http://user:password@host:8086/database` becomes the database's `/write` (InfluxDB 1.8 API reference); a path that
    ends in `/write` is kept.
    """
    url = URL(text)
    if url.scheme not in ("http", "https") or not url.host:
        raise ValueError("not an http:// or https:// URL")
    if url.path.endswith("/write"):
        return url
    return url.with_path("/write").with_query([("db", url.path.strip("/") or "s3s3"), *url.query.items()])


class InfluxDBSender:
    """Sends recorded events in the background; an async context manager."""

    def __init__(self, url: str, *, interval_s: float = SEND_INTERVAL_S) -> None:
        self._url = write_url(url)
        self._interval_s = interval_s
        self._lines: deque[str] = deque(maxlen=MAX_LINES)
        self._host = _escape(socket.gethostname())
        self._is_failing = False

    def record(self, event: str, mirror: str, took_s: float) -> None:
        """Add a line for one event to the next batch."""
        tags = f"mirror={_escape(mirror)},host={self._host},pid={os.getpid()}"
        self._lines.append(f"{event},{tags} seconds={took_s:.6f} {time.time_ns()}")

    async def __aenter__(self) -> InfluxDBSender:
        timeout = aiohttp.ClientTimeout(total=_REQUEST_TIMEOUT_S)
        self._http = aiohttp.ClientSession(timeout=timeout)
        self._sending = asyncio.create_task(self._send_batches())
        return self

    async def __aexit__(self, *_error: object) -> None:
        await cancel([self._sending])
        await self._send()
        await self._http.close()

    async def _send_batches(self) -> None:
        while True:
            await asyncio.sleep(self._interval_s)
            await self._send()

    async def _send(self) -> None:
        if not self._lines:
            return
        body = "\n".join(self._lines)
        self._lines.clear()
        try:
            async with self._http.post(self._url, data=body.encode()) as response:
                problem = "" if response.status < 300 else f"status {response.status}"
        except (aiohttp.ClientError, OSError, asyncio.TimeoutError) as error:
            problem = str(error) or type(error).__name__
        if problem and not self._is_failing:
            log.warning("INFLUXDB_URL: %s does not accept statistics, dropping them until it does: %s",
                        self._url.host_port_subcomponent, problem)  # fmt: skip
        self._is_failing = bool(problem)


def _escape(text: str) -> str:
    """Escape a tag value (InfluxDB line protocol reference, "Special characters")."""
    return "".join(f"\\{character}" if character in ",= \\" else character for character in text)
