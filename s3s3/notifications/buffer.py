"""Messages received on the channel and not yet enqueued."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import NamedTuple

from ..queue.lease import boottime_s

log = logging.getLogger(__name__)

#: Messages kept while Redis accepts no jobs. More are discarded, which leaves a gap to backfill.
MAX_MESSAGES = 500_000

#: Two listeners of a Redis Cluster may receive a checkpoint and a message in different orders if they were published
#: less than this apart, in s.
MAX_REORDERING_S = 0.5


class BufferedMessage(NamedTuple):
    """A message (`text`), a checkpoint, or, with neither, a returned ping.

    Attributes:
        at_s: when it was received; for a ping, when it was sent. On the clock of `boottime_s`.
        subscribed_s: when the subscription that received it began. It has received every message since then.
    """

    at_s: float
    subscribed_s: float
    text: bytes | None = None
    checkpoint: bytes | None = None


class MessageBuffer:
    """What a subscription received, in order. The `on_` methods are the subscription's callbacks.

    Attributes:
        subscribed_s: when the current subscription began, on the clock of `boottime_s`.
        changed: set when messages were received, or may be enqueued now.
    """

    def __init__(self, channel: str) -> None:
        self._channel = channel
        self._messages: deque[BufferedMessage] = deque()
        self.subscribed_s = self._discarded_to_s = boottime_s()
        self.changed = asyncio.Event()

    def __len__(self) -> int:
        return len(self._messages)

    def pop(self) -> BufferedMessage:
        """Remove and return the oldest. Raises IndexError if there is none."""
        return self._messages.popleft()

    @property
    def oldest_age_s(self) -> float:
        """How long ago the oldest was received; 0 if there is none."""
        return boottime_s() - self._messages[0].at_s if self._messages else 0.0

    def complete_from_s(self, subscribed_s: float) -> float:
        """Return when this listener's messages of a subscription begin to be complete: none was discarded since."""
        return max(subscribed_s, self._discarded_to_s)

    def on_subscribed(self) -> None:
        self.subscribed_s = boottime_s()

    def on_message(self, text: bytes) -> None:
        if len(self._messages) >= MAX_MESSAGES:
            log.error("channel %s: Redis accepts no jobs and the buffer is full: %d messages discarded; they will be "
                      "backfilled", self._channel, len(self._messages))  # fmt: skip
            self._messages.clear()
            self._discarded_to_s = boottime_s()
        self._append(BufferedMessage(boottime_s(), self.subscribed_s, text))

    def on_ping(self, sent_s: float) -> None:
        # The ping may have been sent a moment before the subscription began.
        self._append(BufferedMessage(max(sent_s, self.subscribed_s), self.subscribed_s))

    def on_checkpoint(self, checkpoint: bytes) -> None:
        self._append(BufferedMessage(boottime_s(), self.subscribed_s, checkpoint=checkpoint))

    def _append(self, message: BufferedMessage) -> None:
        self._messages.append(message)
        self.changed.set()

    def discard_older_than(self, age_s: float) -> None:
        """Discard what was received longer ago than that."""
        oldest_s = boottime_s() - age_s
        while self._messages and self._messages[0].at_s < oldest_s:
            self._messages.popleft()
        self._discarded_to_s = max(self._discarded_to_s, oldest_s)

    def skip_to(self, checkpoint: bytes) -> None:
        """Drop what precedes a checkpoint, if it is here: the previous leader has enqueued it."""
        at_s = next((message.at_s for message in self._messages if message.checkpoint == checkpoint), None)
        while at_s is not None and self._messages[0].at_s < at_s - MAX_REORDERING_S:
            self._messages.popleft()
        self.changed.set()
