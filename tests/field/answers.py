"""Answers of gateways, proxies and portals, for `tests.faults.kinds.Respond`."""

from __future__ import annotations

from collections.abc import Callable

from tests.faults.messages import Message
from tests.s3.raw_server import error_response, response

PAGE = b"<html><head><title>Sorry</title></head><body><h1>Down for maintenance</h1></body></html>"

#: What is seen during a maintenance: redirects, an ingress's and a proxy's pages, a captive portal.
MAINTENANCE_STATUSES = (301, 302, 303, 307, 308, 400, 401, 403, 404, 405, 411, 418, 421, 425, 451, 501, 505, 511, 503)


def page(status: int) -> bytes:
    """Return a page with this status; a redirect has a Location."""
    location = {"location": "https://status.example.org/"} if 300 <= status < 400 else {}
    return response(status, PAGE, content_type="text/html", **location)


def denied() -> bytes:
    return error_response(403, "AccessDenied", "Access Denied")


def about(name: str, *methods: str) -> Callable[[Message], bool]:
    """Match requests of objects with this in their name, with these methods or any."""
    return lambda message: name in message.target and (not methods or message.method in methods)
