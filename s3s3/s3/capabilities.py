"""What a probe found out about a store."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

#: A third of what S3 allows: RequestTimeTooSkewed comes at 15 minutes (S3 API reference, "Error responses").
MAX_CLOCK_SKEW_S = 300


@dataclass
class StoreCapabilities:
    """What a probe found out about one store. None: not tried, or the result was unclear.

    Attributes:
        errors: what must be fixed, with the setting that fixes it.
        notes: other information.
    """

    name: str
    address: str
    bucket_name: str
    reachable: bool = False
    signature_v2: bool | None = None
    signature_v4: bool | None = None
    content_md5_enforced: bool | None = None
    etag_is_md5: bool | None = None
    list_version: Literal[1, 2] | None = None
    list_in_order: bool | None = None
    clock_skew_s: int | None = None
    may_read: bool | None = None
    may_write: bool | None = None
    errors: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add_conclusions(self) -> None:
        """Add the problems and notes that follow from the other attributes."""
        name, skew_s = self.name, self.clock_skew_s
        if skew_s is not None and abs(skew_s) > MAX_CLOCK_SKEW_S:
            ahead = "ahead of" if skew_s > 0 else "behind"
            self.errors.append(
                f"{name}: its clock is {abs(skew_s):,} s {ahead} this machine's; stores refuse requests "
                "that are 15 minutes off: correct the wrong clock (NTP)"
            )
        if self.content_md5_enforced is False and self.etag_is_md5 is False:
            self.errors.append(
                f"{name}: it neither enforces Content-MD5 nor returns the MD5 of what it stored, so damage in transit "
                "would not be detected"
            )
        elif self.content_md5_enforced is False:
            self.notes.append(f"{name}: it does not enforce Content-MD5; s3s3 compares the ETag that it returns")
        elif self.etag_is_md5 is False:
            self.notes.append(f"{name}: its ETags are not MD5s; s3s3 records the source's ETag with each copy")
