"""Group dead letters by reason, for the commands, the API and the status page."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import AsyncIterable
from dataclasses import dataclass, field

from .base import DeadLetter

#: Reasons that are told apart for each destination; the letters of all others are counted together.
MAX_REASONS = 100

#: The reason of the letters beyond `MAX_REASONS`.
OTHER_REASONS = "(other reasons)"

#: Keys that a group names as examples.
MAX_EXAMPLES = 3

#: What `retry_policy` puts in front of a reason.
_ATTEMPTS = re.compile(r"^after \d+ attempts?: ")

#: Parts of a reason that differ from object to object, and what replaces them: digests, request ids, sizes, times and
#: numbers of parts.
_VARYING = (
    (re.compile(r"\b[0-9a-f]{32}(-\d+)?\b"), "…"),
    (re.compile(r"\b(?=[\w-]*\d)[\w-]{20,}\b"), "…"),
    (re.compile(r"\b\d[\d,.]*(?= (?:bytes|[KMGT]iB|s|ms|min)\b)"), "N"),
    (re.compile(r"\bpart \d+"), "part N"),
)


@dataclass
class DeadLetterGroup:
    """The dead letters of one destination that have the same reason.

    Attributes:
        reason: without what differs from object to object, as `common_reason` returns it.
        oldest_ms: when the first of them became one (Unix time); `newest_ms`: the last.
        keys: up to `MAX_EXAMPLES` of them.
    """

    destination: str
    reason: str
    count: int = 0
    oldest_ms: int = 0
    newest_ms: int = 0
    keys: list[str] = field(default_factory=list)

    def add(self, letter: DeadLetter) -> None:
        """Count a letter."""
        at_ms = letter.dead_lettered_ms
        self.oldest_ms = min(self.oldest_ms, at_ms) if self.count else at_ms
        self.newest_ms = max(self.newest_ms, at_ms)
        self.count += 1
        if len(self.keys) < MAX_EXAMPLES:
            self.keys.append(letter.key)


def common_reason(letter: DeadLetter) -> str:
    """Return a dead letter's reason without what differs from object to object: the same for each with this problem."""
    text = _ATTEMPTS.sub("", letter.reason)
    text = text.removeprefix(f"{letter.destination}: ").replace(repr(letter.key), "an object")
    for pattern, replacement in _VARYING:
        text = pattern.sub(replacement, text)
    return text


async def read_groups(letters: AsyncIterable[DeadLetter], limit: int = 0) -> list[DeadLetterGroup]:
    """Return dead letters grouped by destination and reason, the largest group first.

    Memory is bounded, for any number of letters.

    Args:
        letters: for example `QueueAdmin.dead_letters`.
        limit: group only so many of them (0: all).
    """
    groups: dict[tuple[str, str], DeadLetterGroup] = {}
    reasons: Counter[str] = Counter()
    number = 0
    async for letter in letters:
        name, reason = letter.destination, common_reason(letter)
        if (name, reason) not in groups:
            if reasons[name] >= MAX_REASONS:
                reason = OTHER_REASONS
            else:
                reasons[name] += 1
        groups.setdefault((name, reason), DeadLetterGroup(name, reason)).add(letter)
        number += 1
        if number == limit:
            break
    return sorted(groups.values(), key=lambda group: (-group.count, group.destination, group.reason))
