"""Who may have what, remembered for a while: whoever reads an object in ranges comes with one URL many times."""

from __future__ import annotations

import time
from collections import OrderedDict

from aiohttp import web

from .presigned import Authorization, Verifier

MAX_REMEMBERED = 1024
REMEMBERED_S = 60.0
"""So long keys that were taken out of boto3's chain go on being good."""
_MAY_MATTER = ("content-type", "content-md5", "authorization")


class AuthorizationCache:
    """Asks the verifier; once in a while where the same URL comes again. What is refused is not remembered."""

    def __init__(self, verifier: Verifier) -> None:
        self._verifier = verifier
        self._remembered: OrderedDict[tuple[str, str, str], tuple[float, Authorization]] = OrderedDict()

    async def grant(self, request: web.BaseRequest) -> Authorization:
        """Return what a request has the right to. Raises Denied and AccessDenied."""
        headers = {name.lower(): value for name, value in request.headers.items()}
        asked = (request.method, request.raw_path, headers.get("host", ""))
        says_more = any(name.startswith("x-amz-") or name in _MAY_MATTER for name in headers)
        verified_s, grant = self._remembered.get(asked, (0.0, None))
        now_s = time.time()
        if grant is not None and not says_more and now_s - verified_s < REMEMBERED_S and now_s < grant.expires_s:
            self._remembered.move_to_end(asked)
            return grant
        grant = await self._verifier.grant(request.method, request.raw_path, headers)
        if grant.by_url_alone and not says_more:
            self._remembered[asked] = now_s, grant
            if len(self._remembered) > MAX_REMEMBERED:
                self._remembered.popitem(last=False)
        return grant
