"""Decide where the MD5 of a copy is computed: by s3s3, or by the two stores.

object                                          how the copy is verified
up to MAX_SMALL_BYTES                           MD5 here
larger, its ETag is an MD5; every destination   by the stores: Content-MD5 = the source's ETag. The destination refuses
is known to enforce Content-MD5                 other bytes, and its ETag must be equal. Nothing is hashed here
larger, its ETag is an MD5                      MD5 here; the end of a stream is held back until it is right
larger, its ETag is not an MD5                  MD5 here, from a spool file

A store-verified PUT that is refused with BadDigest, or that returns another ETag, is repeated once with an MD5 that is
computed here. So damage is told from an ETag that only looks like an MD5.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import dataclass, field

from ..model import Endpoint
from .budget import MAX_SMALL_BYTES, needs_multipart

log = logging.getLogger(__name__)


@dataclass
class ChecksumKnowledge:
    """What this process knows about the checksums of a route's stores, by their names.

    Attributes:
        enforcing: destinations that refuse a wrong Content-MD5, as `s3s3 check` has recorded.
        non_md5: destinations whose ETags are not MD5s.
        refuted: stores for which a copy has shown that they do not verify: a destination that accepted other bytes, a
            source whose ETags look like MD5s and are not. Until the process ends, MD5s are computed here.
    """

    enforcing: set[str] = field(default_factory=set)
    non_md5: set[str] = field(default_factory=set)
    refuted: set[str] = field(default_factory=set)

    def refute(self, store: str, message: str) -> None:
        """Compute MD5s here from now on, because this store does not verify; log it once."""
        if store not in self.refuted:
            self.refuted.add(store)
            log.warning("%s: %s; s3s3 computes the MD5 of its objects from now on", store, message)


def is_store_verified(
    size_bytes: int, source_md5: str | None, source: str, destinations: Collection[Endpoint], known: ChecksumKnowledge
) -> bool:
    """Return whether the stores verify a copy to all these destinations, so that no MD5 is computed here.

    `source_md5`: the source's ETag, if it is an MD5; `source`: the source's name.
    """
    if size_bytes <= MAX_SMALL_BYTES or source_md5 is None or source in known.refuted or not destinations:
        return False
    return all(
        destination.checksum == "store" or (destination.checksum == "auto" and destination.name in known.enforcing)
        for destination in destinations
    ) and not any(
        destination.name in known.refuted | known.non_md5 or needs_multipart(destination, size_bytes)
        for destination in destinations
    )
