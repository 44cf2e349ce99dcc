"""Cache verified presigned URLs for a minute: a client that reads ranges sends the same URL many times."""

from __future__ import annotations

import time
from collections import OrderedDict

from aiohttp import web

from .presigned import Authorization, Verifier

#: Number of verified requests kept in memory.
MAX_CACHED = 1024
#: How long a verified request is trusted (s). Credentials removed from boto3's chain work for no longer than this.
MAX_AGE_S = 60.0
#: Headers that can change the result of a verification, besides x-amz-*.
_RELEVANT_HEADERS = ("content-type", "content-md5", "authorization")


class AuthorizationCache:
    """Verifies requests and caches the accepted ones. Rejected requests are verified every time."""

    def __init__(self, verifier: Verifier) -> None:
        self._verifier = verifier
        self._cached: OrderedDict[tuple[str, str, str], tuple[float, Authorization]] = OrderedDict()

    async def authorize(self, request: web.BaseRequest) -> Authorization:
        """Return what the request's signature authorizes. Raises SignatureRejected and InvalidCredentials."""
        headers = {name.lower(): value for name, value in request.headers.items()}
        identity = (request.method, request.raw_path, headers.get("host", ""))
        is_cacheable = not any(name.startswith("x-amz-") or name in _RELEVANT_HEADERS for name in headers)
        verified_s, authorization = self._cached.get(identity, (0.0, None))
        now_s = time.time()
        is_recent = is_cacheable and now_s - verified_s < MAX_AGE_S
        if authorization is not None and is_recent and now_s < authorization.expires_s:
            self._cached.move_to_end(identity)
            return authorization
        authorization = await self._verifier.verify(request.method, request.raw_path, headers)
        if authorization.signs_only_url and is_cacheable:
            self._cached[identity] = now_s, authorization
            if len(self._cached) > MAX_CACHED:
                self._cached.popitem(last=False)
        return authorization
