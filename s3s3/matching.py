"""Which keys a route is about."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from fnmatch import translate

from .model import Route


def matcher(route: Route) -> Callable[[str], bool]:
    """Return whether a key is one of the route's: under its prefix, included, and not excluded.

    The globs are held against what comes after the prefix; `*` matches `/` too, as S3 knows no folders.
    """
    prefix = route.source.prefix
    included, excluded = _any_of(route.include), _any_of(route.exclude)
    if not (prefix or included or excluded):
        return lambda key: True

    def matches(key: str) -> bool:
        if not key.startswith(prefix):
            return False
        rest = key[len(prefix) :]
        return not ((included and not included(rest)) or (excluded and excluded(rest)))

    return matches


def _any_of(globs: Sequence[str]) -> Callable[[str], object] | None:
    return re.compile("|".join(f"(?:{translate(glob)})" for glob in globs)).match if globs else None
