"""Choose single PUT or multipart by object size, and the memory and disk needed."""

from __future__ import annotations

from collections.abc import Sequence

from ..model import MIN_PART_BYTES, SINGLE_PUT_LIMIT_BYTES, Endpoint
from .budget import BudgetRequest
from .fanout import LAG_BYTES

#: Objects of up to this size are read with the GET itself and are not counted against the budget.
MAX_SMALL_BYTES = 256 * 1024

#: Objects of up to this size are held in memory as a whole, within the budget.
MAX_IN_MEMORY_BYTES = 4 * 1024 * 1024

#: Memory for a streamed object of any size: the lag of the slowest consumer, hashing, buffers.
STREAM_BYTES = LAG_BYTES + 4 * 1024 * 1024

#: S3 user guide, "Multipart upload limits".
MAX_PARTS = 10_000

PART_BYTES = 64 * 1024**2
_MIB = 1024**2


def accepts_size(destination: Endpoint, size_bytes: int) -> bool:
    """Return whether objects of this size can be written to the destination."""
    return destination.multipart or size_bytes <= SINGLE_PUT_LIMIT_BYTES


def needs_multipart(destination: Endpoint, size_bytes: int) -> bool:
    """Return whether an object of this size is written there by a multipart upload."""
    return destination.multipart and size_bytes > destination.multipart_threshold_bytes


def part_bytes_of(destination: Endpoint, size_bytes: int) -> int:
    """Return the size of all parts but the last: 64 MiB, less with a lower threshold, more for very large objects."""
    min_bytes = -(-size_bytes // (MAX_PARTS * _MIB)) * _MIB
    return max(MIN_PART_BYTES, min(PART_BYTES, destination.multipart_threshold_bytes), min_bytes)


def required_budget(size_bytes: int, destinations: Sequence[Endpoint], *, md5_is_known: bool) -> BudgetRequest:
    """Return the memory and disk for copying an object over MAX_SMALL_BYTES.

    An object whose MD5 is not known before it is read has to be spooled for a single PUT. Each multipart upload
    spools one part at a time.
    """
    if size_bytes <= MAX_IN_MEMORY_BYTES:
        return BudgetRequest(size_bytes)
    accepting = [destination for destination in destinations if accepts_size(destination, size_bytes)]
    if not accepting:
        return BudgetRequest()
    by_parts = [destination for destination in accepting if needs_multipart(destination, size_bytes)]
    disk_bytes = sum(part_bytes_of(destination, size_bytes) for destination in by_parts)
    if len(by_parts) < len(accepting) and not md5_is_known:
        disk_bytes += size_bytes
    return BudgetRequest(STREAM_BYTES, disk_bytes)
