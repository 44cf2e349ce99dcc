"""Figures for InfluxDB as line protocol, in batches. Without it, or without an answer of it, nothing is different."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections import deque
from types import TracebackType
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit, urlunsplit

import aiohttp

from ..tasks import cancel

log = logging.getLogger(__name__)

SENT_EVERY_S = 5.0
MAX_LINES = 20_000
"""That wait to be sent; the oldest go first."""

_ANSWER_TIMEOUT_S = 5.0


def write_url(url: str) -> tuple[str, aiohttp.BasicAuth | None]:
    """Return where lines are POSTed to, and who posts them. Raises ValueError for what is no URL.

    `http://user:password@host:8086/database` is the database's `/write` (InfluxDB 1.8 API reference); a path that
    ends in `/write` is taken as it is.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("no URL")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    netloc = f"{host}:{parts.port}" if parts.port else host
    path, query = parts.path, parts.query
    if not path.endswith("/write"):
        query = urlencode([("db", path.strip("/") or "s3s3"), *parse_qsl(query)])
        path = "/write"
    user, password = (unquote(text or "") for text in (parts.username, parts.password))
    return urlunsplit((parts.scheme, netloc, path, query, "")), aiohttp.BasicAuth(user, password) if user else None


class InfluxDBSender:
    """Sends lines beside everything else; an async context manager."""

    def __init__(self, url: str, *, sent_every_s: float = SENT_EVERY_S) -> None:
        self._url, self._auth = write_url(url)
        self._sent_every_s = sent_every_s
        self._lines: deque[str] = deque(maxlen=MAX_LINES)
        self._host = _escaped(socket.gethostname())
        self._is_away = False

    def line(self, event: str, mirror: str, took_s: float) -> None:
        """Keep a line for one event."""
        self._lines.append(
            f"{event},mirror={_escaped(mirror)},host={self._host},pid={os.getpid()} seconds={took_s:.6f} "
            f"{time.time_ns()}"
        )

    async def __aenter__(self) -> InfluxDBSender:
        timeout = aiohttp.ClientTimeout(total=_ANSWER_TIMEOUT_S)
        self._http = aiohttp.ClientSession(timeout=timeout, auth=self._auth)
        self._sending = asyncio.create_task(self._keep_sending())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await cancel([self._sending])
        await self._send()
        await self._http.close()

    async def _keep_sending(self) -> None:
        while True:
            await asyncio.sleep(self._sent_every_s)
            await self._send()

    async def _send(self) -> None:
        if not self._lines:
            return
        body = "\n".join(self._lines)
        self._lines.clear()
        try:
            async with self._http.post(self._url, data=body.encode()) as answer:
                wrong = "" if answer.status < 300 else f"it answered {answer.status}"
        except (aiohttp.ClientError, OSError, asyncio.TimeoutError) as error:
            wrong = str(error) or type(error).__name__
        if wrong and not self._is_away:
            log.warning("INFLUXDB_URL: %s: %s; figures for it are dropped until it takes them",
                        urlsplit(self._url).netloc, wrong)  # fmt: skip
        self._is_away = bool(wrong)


def _escaped(text: str) -> str:
    """Escape a tag's value (InfluxDB line protocol reference, "Special characters")."""
    return "".join(f"\\{character}" if character in ",= \\" else character for character in text)
