"""Extract the key from a message."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from ..model import MAX_KEY_BYTES
from ..monitoring.log import log_fields

log = logging.getLogger(__name__)


class BadMessage(ValueError):
    """A message without a usable key. `kind` is its label in `s3s3_notifications_total`."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind


def parse_message(message: bytes, size_bytes: int | None = None) -> str:
    """Return the key in a message; the message is the key, in UTF-8.

    Args:
        size_bytes: of the whole message, if this is only its beginning.

    Raises:
        BadMessage: it is empty, longer than a key can be, or not valid UTF-8.
    """
    if not message:
        raise BadMessage("empty", "empty message")
    size_bytes = size_bytes or len(message)
    if size_bytes > MAX_KEY_BYTES:
        raise BadMessage("too_long", f"{size_bytes:,} bytes; a key has at most {MAX_KEY_BYTES:,}")
    try:
        return message.decode()
    except UnicodeDecodeError as error:
        raise BadMessage("not_utf8", f"not valid UTF-8: {error}") from error


def check_key(text: str) -> str:
    """Return a text that is a valid key.

    Raises:
        BadMessage: it is empty, longer than a key can be, or has an unpaired surrogate, as JSON allows.
    """
    try:
        parse_message(text.encode())
    except UnicodeEncodeError as error:
        raise BadMessage("not_utf8", f"not valid UTF-8: {error.reason}") from error
    return text


def printable_message(message: bytes, size_bytes: int | None = None) -> str:
    """Return a message as printable text, with invalid UTF-8 escaped; long ones are cut. Args: see `parse_message`."""
    size_bytes = size_bytes or len(message)
    text = message[:MAX_KEY_BYTES].decode("utf-8", "backslashreplace")
    return text if size_bytes <= MAX_KEY_BYTES else f"{text}... ({size_bytes:,} bytes)"


def log_enqueued(route: str, keys: Iterable[str], source: str) -> None:
    """Log each enqueued key, at the level DEBUG."""
    if log.isEnabledFor(logging.DEBUG):
        for key in keys:
            log.debug("%s: notification from %s enqueued: %r", route, source, key, extra=log_fields(route, key))
