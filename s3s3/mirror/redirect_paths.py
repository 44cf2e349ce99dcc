"""The paths of the redirect front: service, region, and a URL within one segment."""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from urllib.parse import quote, unquote, urlsplit

_WHITE = re.compile(r"\s+")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


@dataclass(frozen=True, slots=True)
class RedirectRequest:
    """A path taken apart: `/v1/VERB/SERVICE/REGION/URL`. `rest` are the decoded segments after the verb."""

    verb: str
    rest: tuple[str, ...]

    @property
    def url(self) -> str:
        """The URL, "" where the path is none that has one."""
        return url_in(self.rest[2]) if len(self.rest) == 3 else ""


def asked(target: str) -> RedirectRequest:
    """Take a request's target apart."""
    path = target.partition("?")[0]
    if not path.startswith("/"):
        path = urlsplit(path).path
    segments = [unquote(segment, errors="replace") for segment in path.split("/")[1:]]
    if len(segments) < 2 or segments[0] != "v1":
        return RedirectRequest("", ())
    return RedirectRequest(segments[1], tuple(segments[2:]))


def url_in(segment: str) -> str:
    """Return the URL that a decoded segment gives: itself, or as base64.

    Both of base64's alphabets are taken, with and without padding and line breaks. What is neither is returned as it
    is: it is no URL, and is refused as one.
    """
    if _SCHEME.match(segment):
        return segment
    text = _WHITE.sub("", segment).translate(str.maketrans("-_", "+/")).rstrip("=")
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError, ValueError):
        return segment


def path_to_key(url: str) -> str:
    """Return the key that a URL's copy has: percent-encoded, since what a path means is its server's business."""
    return quote(url, safe="")


def key_to_url(key: str) -> str:
    """Return the URL whose copy a key is."""
    return unquote(key)
