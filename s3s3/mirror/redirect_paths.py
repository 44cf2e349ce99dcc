"""Parse paths of the redirect front end: a service, a region, and a URL in one segment."""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from urllib.parse import quote, unquote, urlsplit

_WHITESPACE = re.compile(r"\s+")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


@dataclass(frozen=True, slots=True)
class RedirectRequest:
    """A parsed `/v1/VERB/SERVICE/REGION/URL`. `rest` holds the decoded segments after the verb."""

    verb: str
    rest: tuple[str, ...]

    @property
    def url(self) -> str:
        """The URL; "" if the path has none."""
        return decode_url(self.rest[2]) if len(self.rest) == 3 else ""


def parse_target(target: str) -> RedirectRequest:
    """Parse a request target; the verb is "" if the path does not begin with `/v1/`."""
    path = target.partition("?")[0]
    if not path.startswith("/"):
        path = urlsplit(path).path
    segments = [unquote(segment, errors="replace") for segment in path.split("/")[1:]]
    if len(segments) < 2 or segments[0] != "v1":
        return RedirectRequest("", ())
    return RedirectRequest(segments[1], tuple(segments[2:]))


def decode_url(segment: str) -> str:
    """Return the URL in a percent-decoded segment: plain, or base64.

    Accepts both base64 alphabets, with or without padding and line breaks. Returns other text unchanged; it is not a
    URL and is rejected later.
    """
    if _SCHEME.match(segment):
        return segment
    text = _WHITESPACE.sub("", segment).translate(str.maketrans("-_", "+/")).rstrip("=")
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError, ValueError):
        return segment


def url_to_key(url: str) -> str:
    """Return the key of a URL's copy: the URL, percent-encoded, because only its server can interpret its path."""
    return quote(url, safe="")


def key_to_url(key: str) -> str:
    """Return the URL of a copy's key."""
    return unquote(key)
