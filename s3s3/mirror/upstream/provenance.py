"""Metadata that records where a copy came from."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from email.utils import formatdate

from ...errors import UpstreamRefused
from .origin import Fetched

#: Prefix of the predecessor, so that existing readers of these headers keep working.
PREFIX = "x-amz-meta-cloud-mirror-"

#: Size limit of the recorded hops (bytes); those in the middle are dropped. All metadata of an object may take 2 KB
#: (S3 user guide, "User-defined object metadata").
_MAX_HOPS_BYTES = 700


def proxy_headers(_key: str, fetched: Fetched) -> Mapping[str, str]:
    """Return the metadata that the copy-proxy adds."""
    return {"x-amz-meta-source": fetched.hops[0].url}


def redirect_headers(key: str, fetched: Fetched) -> Mapping[str, str]:
    """Return the metadata that the redirect front end adds. Raises UpstreamRefused without a Content-Type."""
    if not fetched.headers.get("content-type"):
        raise UpstreamRefused("the response has no Content-Type", key=key, status=200)
    hops: list[dict[str, object]] = [
        {"code": hop.status, "url": hop.url, "address": hop.address} for hop in fetched.hops
    ]
    while len(json.dumps(hops)) > _MAX_HOPS_BYTES and len(hops) > 1:
        del hops[len(hops) // 2]
    if len(json.dumps(hops)) > _MAX_HOPS_BYTES:
        hops[0]["url"] = ""
    return {
        f"{PREFIX}upstream-etag": _ascii(fetched.headers.get("etag", "<unknown>")),
        f"{PREFIX}upstream-content-length": _ascii(fetched.headers.get("content-length", "<unknown>")),
        f"{PREFIX}upstream-url": fetched.hops[0].url,
        f"{PREFIX}stored": formatdate(time.time(), usegmt=True),
        f"{PREFIX}addresses": json.dumps(hops),
    }


def _ascii(text: str) -> str:
    """Return a header value that every store accepts."""
    return text.encode("ascii", "backslashreplace").decode()[:200]
