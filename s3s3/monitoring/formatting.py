"""Figures as people read them. What is not known is a dash."""

from __future__ import annotations

from datetime import datetime, timezone

NOT_KNOWN = "–"
NO_BREAK = "\N{NO-BREAK SPACE}"


def span_text(seconds: float | None) -> str:
    """Return a time span: 3 ms, 1.2 s, 5 min, 3 h, 2 d. No line breaks within it."""
    if seconds is None:
        return NOT_KNOWN
    if seconds < 1:
        return f"{seconds * 1000:.0f}{NO_BREAK}ms"
    for longest, unit, unit_s in ((60, "s", 1), (3600, "min", 60), (86_400, "h", 3600)):
        if seconds < longest:
            number = seconds / unit_s
            return f"{number:.1f}{NO_BREAK}{unit}" if number < 10 and unit != "min" else f"{number:.0f}{NO_BREAK}{unit}"
    return f"{seconds / 86_400:.0f}{NO_BREAK}d"


def rate_text(per_s: float) -> str:
    """Return a rate of objects: by the second where that is a number, else by the minute."""
    if per_s >= 1 or per_s == 0:
        return f"{per_s:,.0f}/s" if per_s >= 10 or per_s == 0 else f"{per_s:.1f}/s"
    return f"{per_s * 60:.0f}/min" if per_s * 60 >= 10 else f"{per_s * 60:.1f}/min"


def size_text(size_bytes: float) -> str:
    """Return a size: 12 B, 3.4 MiB."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size_bytes < 1024:
            return f"{size_bytes:.0f} {unit}" if size_bytes >= 10 or unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1024
    return f"{size_bytes:.1f} TiB"


def time_text(at_ms: float) -> str:
    """Return a time (Unix time in ms), in UTC."""
    return f"{datetime.fromtimestamp(at_ms / 1000, timezone.utc):%Y-%m-%d %H:%M:%S}"


def count_text(number: int, one: str, several: str) -> str:
    """Return "1 try", "2 tries"."""
    return f"{number:,} {one if number == 1 else several}"
