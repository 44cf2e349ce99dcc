"""Parse the dates of stores and clients, to milliseconds since 1970 (Unix time)."""

from __future__ import annotations

from datetime import datetime, timezone
from email.utils import parsedate_to_datetime

#: In UTC; naive datetimes are twice as fast as aware ones.
EPOCH = datetime(1970, 1, 1)

#: Longer texts are not dates.
_MAX_DATE_CHARACTERS = 64


def listed_date_ms(text: str) -> int:
    """Parse the LastModified of a listing ("2026-10-06T03:09:27.123Z"), or another date; 0 if it is not one."""
    if text[-1:] == "Z" and text[13:14] == ":":  # where fromisoformat would accept an offset
        try:
            since = datetime.fromisoformat(text[:19]) - EPOCH
            fraction = text[20:-1]
            milliseconds = int(fraction[:3].ljust(3, "0")) if fraction else 0
        except ValueError:
            return 0
        return (since.days * 86_400 + since.seconds) * 1000 + milliseconds
    return any_date_ms(text) or 0


def any_date_ms(text: str) -> int | None:
    """Parse an HTTP date in any of its forms (RFC 9110, 5.6.7) or an ISO 8601 time; None if it is neither.

    A time without a zone is in UTC.
    """
    text = text.strip()
    if not text or not text.isascii() or len(text) > _MAX_DATE_CHARACTERS:
        return None
    for parse in (parsedate_to_datetime, datetime.fromisoformat):
        try:
            time = parse(text.replace("Z", "+00:00"))
            return round((time if time.tzinfo else time.replace(tzinfo=timezone.utc)).timestamp() * 1000)
        except (ValueError, TypeError, IndexError, OverflowError):
            continue
    return None
