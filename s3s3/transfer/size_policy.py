"""How an object goes by its size: what a destination takes, in how many pieces, and the room that takes here. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from ..model import PART_AT_LEAST_BYTES, SINGLE_PUT_LIMIT_BYTES, Endpoint
from .budget import BudgetRequest
from .fanout import LAG_BYTES

AT_ONCE_BYTES = 256 * 1024
"""What comes with the GET, and goes out from memory without asking for room."""

SMALL_BYTES = 4 * 1024 * 1024
"""What goes through memory, within the room."""

STREAM_BYTES = LAG_BYTES + 4 * 1024 * 1024
"""Memory that a streamed object takes, however large it is: the lag, what is being hashed, buffers."""

MAX_PARTS = 10_000
"""S3 user guide, "Multipart upload limits"."""

PART_BYTES = 64 * 1024**2
_MIB = 1024**2


def accepts_size(destination: Endpoint, size_bytes: int) -> bool:
    """Whether the destination may take an object of this size at all."""
    return destination.multipart or size_bytes <= SINGLE_PUT_LIMIT_BYTES


def needs_multipart(destination: Endpoint, size_bytes: int) -> bool:
    """Whether an object of this size is written there in parts."""
    return destination.multipart and size_bytes > destination.multipart_threshold_bytes


def part_bytes_of(destination: Endpoint, size_bytes: int) -> int:
    """Return the size of all parts but the last: 64 MiB, less with a lower threshold, more for very large objects."""
    fewest_bytes = -(-size_bytes // (MAX_PARTS * _MIB)) * _MIB
    return max(PART_AT_LEAST_BYTES, min(PART_BYTES, destination.multipart_threshold_bytes), fewest_bytes)


def required_budget(size_bytes: int, destinations: Sequence[Endpoint], *, md5_is_known: bool) -> BudgetRequest:
    """Return the room that copying an object takes that did not come with the GET.

    `md5_is_known`: else one PUT has to wait until all of it has been read, and lies on disk meanwhile.
    """
    if size_bytes <= SMALL_BYTES:
        return BudgetRequest(size_bytes)
    takers = [destination for destination in destinations if accepts_size(destination, size_bytes)]
    if not takers:
        return BudgetRequest()
    in_parts = [destination for destination in takers if needs_multipart(destination, size_bytes)]
    disk_bytes = sum(part_bytes_of(destination, size_bytes) for destination in in_parts)
    if len(in_parts) < len(takers) and not md5_is_known:
        disk_bytes += size_bytes
    return BudgetRequest(STREAM_BYTES, disk_bytes)
