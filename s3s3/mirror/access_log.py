"""Access log: one JSON object for each response."""

from __future__ import annotations

import json
import logging
import sys
import time

from aiohttp import web
from aiohttp.abc import AbstractAccessLogger

from ..http_server import ACCESS_LOGGER

#: Response header with the outcome: hit, miss, waited and so on.
OUTCOME = "X-Cache"


class JsonAccessLog(AbstractAccessLogger):
    """Access log: one JSON object for each response."""

    def log(self, request: web.BaseRequest, response: web.StreamResponse, took_s: float) -> None:
        now_s = time.time()
        fields = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now_s)) + f".{int(now_s * 1000) % 1000:03}Z",
            "client": request.remote,
            "method": request.method,
            "path": self.safe_path(request),
            "status": response.status,
            "outcome": response.headers.get(OUTCOME),
            "seconds": round(took_s, 6),
            "bytes": response.body_length,
            "user_agent": request.headers.get("User-Agent"),
            "forwarded_for": request.headers.get("X-Forwarded-For"),
        }
        self.logger.info("%s", json.dumps(fields))

    def safe_path(self, request: web.BaseRequest) -> str:
        """Return the path without its query, which may contain a signature."""
        return request.raw_path.partition("?")[0]


def start_access_log() -> None:
    """Write the access log to standard output."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger(ACCESS_LOGGER)
    logger.handlers[:] = [handler]
    logger.propagate = False
    logger.setLevel(logging.INFO)
