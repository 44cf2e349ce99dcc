"""Format durations, sizes, rates, times and counts for people, in the same style in commands, log, page and demo."""

from __future__ import annotations

from datetime import datetime, timezone


def duration_text(seconds: float | None) -> str:
    """Return a duration in its largest one or two units: "3.4 ms", "1.2 s", "42 s", "5 min", "3 h 20 min", "2 d 4 h".

    None is a dash.
    """
    if seconds is None:
        return "–"
    if seconds < 59.5:
        import humanize  # noqa: PLC0415 - most commands never need it

        return humanize.metric(seconds, "s", precision=2)
    # humanize has no symbols for minutes, hours and days.
    hours, minutes = divmod(round(seconds / 60), 60)
    days, hours = divmod(hours, 24)
    parts = [(days, "d"), (hours, "h"), (0 if days else minutes, "min")]
    return " ".join(f"{number} {unit}" for number, unit in parts if number)


def rate_text(per_s: float) -> str:
    """Return a rate of objects: "1,200/s", "1.5/s" or, below one a second, "30/min"."""
    number, unit = (per_s, "s") if per_s >= 1 or not per_s else (per_s * 60, "min")
    return f"{number:,.0f}/{unit}" if number >= 10 or not number else f"{number:.1f}/{unit}"


def size_text(size_bytes: float) -> str:
    """Return a size: "12 B", "3.4 MiB"."""
    import humanize  # noqa: PLC0415 - most commands never need it

    return humanize.naturalsize(size_bytes, binary=True).replace(" Bytes", " B").replace(" Byte", " B")


def time_text(at_ms: float) -> str:
    """Return a Unix time in ms: "2026-01-31 12:00:00 UTC"."""
    return f"{datetime.fromtimestamp(at_ms / 1000, timezone.utc):%Y-%m-%d %H:%M:%S} UTC"


def iso_time(at_s: float) -> str:
    """Return a Unix time for a log field: "2026-01-31T12:00:00Z"."""
    return f"{datetime.fromtimestamp(at_s, timezone.utc):%Y-%m-%dT%H:%M:%SZ}"


def count_noun(count: int, noun: str, plural: str = "") -> str:
    """Return "1 key", "2,000 keys"; `plural` is for words that do not just end in "s"."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def escaped(text: str) -> str:
    """Return a text with each character escaped that is not printable, such as ESC, or changes the direction."""
    if text.isprintable():
        return text
    text = text.encode("utf-8", "backslashreplace").decode()
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
