"""What was found out of a store by trying, and what follows from it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

CLOCK_SKEW_LIMIT_S = 300
"""A third of what S3 lets pass: RequestTimeTooSkewed comes at 15 minutes (S3 API reference, "Error responses")."""


@dataclass
class StoreCapabilities:
    """What was found out of one store. None is what could not be found out, or was not tried.

    Attributes:
        errors: what has to be cured, with the setting that cures it.
        notes: what is worth knowing.
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


def judge(findings: StoreCapabilities) -> None:
    """Add what follows from the findings."""
    name, skew_s = findings.name, findings.clock_skew_s
    if skew_s is not None and abs(skew_s) > CLOCK_SKEW_LIMIT_S:
        ahead = "ahead of" if skew_s > 0 else "behind"
        findings.errors.append(
            f"{name}: its clock is {abs(skew_s):,} s {ahead} this machine's; stores refuse requests "
            "that are 15 minutes off: set the wrong one of them right (NTP)"
        )
    if findings.content_md5_enforced is False and findings.etag_is_md5 is False:
        findings.errors.append(
            f"{name}: it neither enforces Content-MD5 nor answers with the MD5 of what it got, so damage on the way to "
            "it could not be noticed"
        )
    elif findings.content_md5_enforced is False:
        findings.notes.append(f"{name}: it does not enforce Content-MD5; s3s3 relies on the ETag that it answers with")
    elif findings.etag_is_md5 is False:
        findings.notes.append(f"{name}: its ETags are no MD5s; s3s3 records the source's ETag with each copy")
