"""Durations as Go writes them ("1m30s"), for clients that were written for the predecessor."""

from __future__ import annotations

import re

_PART = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(ns|us|\u00b5s|\u03bcs|ms|s|m|h)")
_UNIT_S = {"ns": 1e-9, "us": 1e-6, "\u00b5s": 1e-6, "\u03bcs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


def wait_s_of(text: str | None, longest_s: float) -> float:
    """Return the seconds that a duration says; `longest_s` for none, a longer one, and what is no duration.

    The syntax is that of time.ParseDuration in Go's standard library, without a sign.
    """
    if text is None or len(text) > 64:
        return longest_s
    parts = list(_PART.finditer(text))
    if "".join(part[0] for part in parts) != text:
        return 0.0 if text == "0" else longest_s
    return min(sum(float(part[1]) * _UNIT_S[part[2]] for part in parts), longest_s) if parts else longest_s
