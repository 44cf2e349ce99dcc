"""Times as stores write them, to Unix milliseconds."""

from __future__ import annotations

from calendar import timegm
from datetime import datetime
from functools import lru_cache

_EPOCH = datetime(1970, 1, 1)  # times are UTC, and not aware of it: that is twice as quick
_MONTHS = ("", "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


@lru_cache(1024)
def _day_ms(year: str, month: str, day: str) -> int:
    return timegm((int(year), _MONTHS.index(month), int(day), 0, 0, 0)) * 1000  # strptime's %b follows the locale


def http_date_ms(text: str) -> int | None:
    """Return the time of an HTTP date ("Tue, 06 Oct 2026 03:09:27 GMT", RFC 9110 5.6.7), None where it is none."""
    try:
        day_ms = _day_ms(text[12:16], text[8:11], text[5:7])
        return day_ms + (int(text[17:19]) * 3600 + int(text[20:22]) * 60 + int(text[23:25])) * 1000
    except ValueError:
        return None


def iso_time_ms(text: str) -> int:
    """Return the time of a listing's LastModified ("2026-10-06T03:09:27.123Z"). Raises ValueError."""
    if text[-1:] != "Z":
        raise ValueError(f"{text!r} is no UTC time")
    since = datetime.fromisoformat(text[:19]) - _EPOCH
    fraction = text[20:-1]
    return (since.days * 86_400 + since.seconds) * 1000 + (int(fraction[:3].ljust(3, "0")) if fraction else 0)
