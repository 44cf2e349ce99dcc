"""From the bytes of a message to the key that it names."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from ..model import KEY_LIMIT_BYTES
from ..monitoring.log import log_fields

log = logging.getLogger(__name__)


class BadMessage(ValueError):
    """A message that names no possible key. `kind` is one word for it, for counting."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind


def parse_message(message: bytes) -> str:
    """Return the key that a message names: the message is the key, in UTF-8.

    Raises:
        BadMessage: it is empty, too long for a key, or not UTF-8.
    """
    if not message:
        raise BadMessage("empty", "an empty message names no object")
    if len(message) > KEY_LIMIT_BYTES:
        raise BadMessage("too long", f"{len(message):,} bytes are more than a key may have ({KEY_LIMIT_BYTES:,})")
    try:
        return message.decode()
    except UnicodeDecodeError as error:
        raise BadMessage("no UTF-8", f"no UTF-8: {error}") from error


def checked_key(text: str) -> str:
    """Return a text if it may be a key.

    Raises:
        BadMessage: it is empty, too long for a key, or has no form in UTF-8 (JSON may hold halves of characters).
    """
    try:
        parse_message(text.encode())
    except UnicodeEncodeError as error:
        raise BadMessage("no UTF-8", f"no UTF-8: {error.reason}") from error
    return text


def printable_message(message: bytes) -> str:
    """Return a message as people may be shown it, whatever it holds; long ones are cut."""
    text = message[:KEY_LIMIT_BYTES].decode("utf-8", "backslashreplace")
    return text if len(message) <= KEY_LIMIT_BYTES else f"{text}... ({len(message):,} bytes)"


def tell_noticed(route: str, keys: Iterable[str], by: str) -> None:
    """Log what was put on the queue, where every object is to be told of."""
    if log.isEnabledFor(logging.DEBUG):
        for key in keys:
            log.debug("%s: notice of %r by %s", route, key, by, extra=log_fields(route, key))
