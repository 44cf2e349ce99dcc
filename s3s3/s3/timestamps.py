"""Parse HTTP and ISO 8601 dates to Unix milliseconds."""

from __future__ import annotations

from datetime import datetime
from functools import lru_cache

_EPOCH = datetime(1970, 1, 1)  # UTC; naive datetimes are twice as fast as aware ones
_MONTHS = ("", "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


@lru_cache(1024)
def _day_ms(year: str, month: str, day: str) -> int:
    midnight = datetime(int(year), _MONTHS.index(month), int(day))  # strptime's %b follows the locale
    return (midnight - _EPOCH).days * 86_400_000


def http_date_ms(text: str) -> int | None:
    """Parse an HTTP date ("Tue, 06 Oct 2026 03:09:27 GMT", RFC 9110 5.6.7); None if it is not one."""
    try:
        day_ms = _day_ms(text[12:16], text[8:11], text[5:7])
        hours, minutes, seconds = int(text[17:19]), int(text[20:22]), int(text[23:25])
    except ValueError:
        return None
    if not (0 <= hours < 24 and 0 <= minutes < 60 and 0 <= seconds <= 60):  # 60: a leap second
        return None
    return day_ms + (hours * 3600 + minutes * 60 + seconds) * 1000


def iso_time_ms(text: str) -> int:
    """Parse a LastModified of a listing ("2026-10-06T03:09:27.123Z"). Raises ValueError."""
    if text[-1:] != "Z":
        raise ValueError(f"{text!r} is not a UTC time")
    since = datetime.fromisoformat(text[:19]) - _EPOCH
    fraction = text[20:-1]
    return (since.days * 86_400 + since.seconds) * 1000 + (int(fraction[:3].ljust(3, "0")) if fraction else 0)
