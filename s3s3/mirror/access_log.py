"""The access log: a JSON object a request, for a collector."""

from __future__ import annotations

import json
import logging
import sys
import time

from aiohttp import web
from aiohttp.abc import AbstractAccessLogger

LOGGER = "s3s3.access"
OUTCOME = "X-Cache"
"""The header in which an answer says how it came about."""


class JsonAccessLog(AbstractAccessLogger):
    """Writes a line for each answer."""

    def log(self, request: web.BaseRequest, response: web.StreamResponse, time: float) -> None:
        self.logger.info("%s", json.dumps({**_fields(request, response, time), "path": self.shown(request)}))

    def shown(self, request: web.BaseRequest) -> str:
        """Return the path as it may be told. A query may hold a signature."""
        return request.raw_path.partition("?")[0]


def _fields(request: web.BaseRequest, response: web.StreamResponse, took_s: float) -> dict[str, object]:
    now_s = time.time()
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now_s)) + f".{int(now_s * 1000) % 1000:03}Z",
        "client": request.remote,
        "method": request.method,
        "path": "",
        "status": response.status,
        "outcome": response.headers.get(OUTCOME),
        "seconds": round(took_s, 6),
        "bytes": response.body_length,
        "user_agent": request.headers.get("User-Agent"),
        "forwarded_for": request.headers.get("X-Forwarded-For"),
    }


def start() -> None:
    """Have the access log written to standard output."""
    output = logging.StreamHandler(sys.stdout)
    output.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger(LOGGER)
    logger.handlers[:] = [output]
    logger.propagate = False
    logger.setLevel(logging.INFO)
