"""What is stored with a copy beside the object's own headers: where it came from."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from email.utils import formatdate

from ...errors import UpstreamRefused
from .origin import Fetched

PREFIX = "x-amz-meta-cloud-mirror-"
"""That of the predecessor: whoever reads these headers goes on reading them."""

_HOPS_LIMIT_BYTES = 700
"""All metadata of an object together may take 2 KB (S3 user guide, "User-defined object metadata")."""


def of_proxy(_key: str, fetched: Fetched) -> Mapping[str, str]:
    """Return what the copy-proxy stores."""
    return {"x-amz-meta-source": fetched.hops[0].url}


def of_redirect(key: str, fetched: Fetched) -> Mapping[str, str]:
    """Return what the redirect front stores. Raises UpstreamRefused without a Content-Type."""
    if not fetched.headers.get("content-type"):
        raise UpstreamRefused("it says no Content-Type", key=key, status=200)
    return {
        f"{PREFIX}upstream-etag": _ascii(fetched.headers.get("etag", "<unknown>")),
        f"{PREFIX}upstream-content-length": _ascii(fetched.headers.get("content-length", "<unknown>")),
        f"{PREFIX}upstream-url": fetched.hops[0].url,
        f"{PREFIX}stored": formatdate(time.time(), usegmt=True),
        f"{PREFIX}addresses": _hops(fetched),
    }


def _hops(fetched: Fetched) -> str:
    """Return the hops as JSON; of too many, those in the middle are left out."""
    hops = [{"code": hop.status, "url": hop.url, "address": hop.address} for hop in fetched.hops]
    while len(json.dumps(hops)) > _HOPS_LIMIT_BYTES and len(hops) > 1:
        del hops[len(hops) // 2]
    text = json.dumps(hops)
    return text if len(text) <= _HOPS_LIMIT_BYTES else json.dumps([{**hops[0], "url": ""}])


def _ascii(text: str) -> str:
    """Return a header's value as text that every store takes."""
    return text.encode("ascii", "backslashreplace").decode()[:200]
