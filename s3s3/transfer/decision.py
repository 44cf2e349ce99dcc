"""Decide whether a copy is needed, and why."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from ..model import Entry, Proof, md5_of_etag
from ..s3 import ObjectInfo
from .metadata import has_same_headers

#: A notification of a larger object is compared first; up to here a PUT costs less than a HEAD and perhaps a PUT.
MAX_UNCOMPARED_BYTES = 1024 * 1024


class Action(str, Enum):
    """What to do with one destination's copy."""

    SAME = "same"
    COPY = "copy"
    DELETE = "delete"
    LEAVE = "leave"
    NEEDS_HEAD = "needs head"
    NEEDS_CONTENT = "needs content"


class Reason(str, Enum):
    """The reason of a decision, as reports show it."""

    SAME = "same"
    MISSING = "missing"
    SIZE = "size"
    ETAG = "etag"
    RECORDED_ETAG = "recorded_etag"
    CONTENT = "content"
    METADATA = "metadata"
    UNPROVEN = "unproven"
    SOURCE_MISSING = "source_missing"
    EXTRANEOUS = "extraneous"


@dataclass(frozen=True, slots=True)
class Decision:
    """Result of `decide`; `proof` is set for SAME only."""

    action: Action
    reason: Reason
    proof: Proof | None = None


ABSENT = Decision(Action.SAME, Reason.SOURCE_MISSING)
SAME_ETAG = Decision(Action.SAME, Reason.SAME, Proof.ETAG)
SAME_RECORDED_ETAG = Decision(Action.SAME, Reason.SAME, Proof.RECORDED_ETAG)
SAME_CONTENT = Decision(Action.SAME, Reason.SAME, Proof.CONTENT)
COPY_MISSING = Decision(Action.COPY, Reason.MISSING)
COPY_SIZE = Decision(Action.COPY, Reason.SIZE)
COPY_ETAG = Decision(Action.COPY, Reason.ETAG)
COPY_RECORDED_ETAG = Decision(Action.COPY, Reason.RECORDED_ETAG)
COPY_CONTENT = Decision(Action.COPY, Reason.CONTENT)
COPY_METADATA = Decision(Action.COPY, Reason.METADATA)
COPY_UNPROVEN = Decision(Action.COPY, Reason.UNPROVEN)
DELETE = Decision(Action.DELETE, Reason.SOURCE_MISSING)
LEAVE = Decision(Action.LEAVE, Reason.EXTRANEOUS)
NEEDS_HEAD = Decision(Action.NEEDS_HEAD, Reason.UNPROVEN)
NEEDS_CONTENT = Decision(Action.NEEDS_CONTENT, Reason.UNPROVEN)

#: What a decision means, for people.
_TEXTS = {
    ABSENT: "neither the source nor the destination has it: nothing to do",
    SAME_ETAG: "equal: both have the same ETag",
    SAME_RECORDED_ETAG: "equal: the copy records the source's ETag",
    SAME_CONTENT: "equal: both contents have the same MD5",
    COPY_MISSING: "to be copied: the destination does not have it",
    COPY_SIZE: "to be copied: the sizes differ",
    COPY_ETAG: "to be copied: the ETags differ",
    COPY_RECORDED_ETAG: "to be copied: the copy records another ETag of the source",
    COPY_CONTENT: "to be copied: the contents differ",
    COPY_METADATA: "to be copied: the contents are equal, the headers differ",
    COPY_UNPROVEN: "to be copied: an ETag is not an MD5 and the copy records none, so nothing proves them equal",
    DELETE: "to be deleted: the source does not have it, and delete = true",
    LEAVE: "extraneous: the source does not have it, and without delete = true it is kept",
    NEEDS_HEAD: "undecided: a HEAD of the destination is needed",
    NEEDS_CONTENT: "undecided: nothing but reading both contents shows whether they are equal (verify_md5)",
}


def describe(decision: Decision) -> str:
    """Return what a decision means, in words."""
    return _TEXTS[decision]


def decide(
    source: ObjectInfo | Entry | None,
    destination: ObjectInfo | Entry | None,
    *,
    verify_md5: bool = False,
    contents_equal: bool | None = None,
    ignore_headers: bool = False,
    delete: bool = False,
) -> Decision:
    """Decide what to do with `destination`'s copy of `source`. The first matching row counts.

    ==============================================  ===============================  ==============================
    entries                                         what else is known               decision, reason
    ==============================================  ===============================  ==============================
    both absent                                                                      SAME, source_missing
    source absent                                   `delete`                         DELETE, source_missing
    source absent                                                                    LEAVE, extraneous
    destination absent                                                               COPY, missing
    sizes differ                                                                     COPY, size
    same ETag, neither encrypted nor empty          headers differ                   COPY, metadata
    same ETag, neither encrypted nor empty                                           SAME, proof etag
    both ETags MD5s                                 another record, or none          COPY, etag
    an ETag is not an MD5                           destination from a listing       NEEDS_HEAD
    an ETag is not an MD5                           another record                   COPY, recorded_etag
    an ETag is not an MD5, no record                not `verify_md5`                 COPY, unproven
    an ETag is not an MD5, no record                contents differ                  COPY, content
    any other                                       headers differ                   COPY, metadata
    record is the source's ETag                                                      SAME, proof recorded_etag
    no record                                       contents not compared yet        NEEDS_CONTENT
    no record                                       contents equal                   SAME, proof content
    ==============================================  ===============================  ==============================

    An `Entry` is from a listing, which shows neither headers nor records nor encryption, so a COPY decided from
    listings means: compare by HEAD. An `ObjectInfo` is from a HEAD or GET. An ETag is an MD5 if it looks like one and
    the object is not encrypted. The record is the source's ETag at the time of the copy. It outweighs two different
    ETags that look like MD5s, because it is written only where one side's ETag turned out not to be an MD5.

    Headers are those of `ObjectInfo.headers`; `metadata.has_same_headers` compares them. Storage class, ACL and tags
    are not compared: the first is the destination's own, and no HEAD shows the others.

    Args:
        verify_md5: compare contents if nothing else proves equality.
        contents_equal: whether the contents have the same MD5; None if they were not read.
        ignore_headers: compare the contents only.
        delete: deletions are propagated to this destination.
    """
    if source is None:
        extraneous = DELETE if delete else LEAVE
        return ABSENT if destination is None else extraneous
    if destination is None:
        return COPY_MISSING
    if source.size_bytes != destination.size_bytes:
        return COPY_SIZE
    decision = _compare_etags(source, destination, verify_md5, contents_equal)
    if (
        decision.action in (Action.SAME, Action.NEEDS_CONTENT)
        and isinstance(source, ObjectInfo)
        and isinstance(destination, ObjectInfo)
        and not (ignore_headers or has_same_headers(source, destination))
    ):
        return COPY_METADATA
    return decision


def _compare_etags(
    source: ObjectInfo | Entry, destination: ObjectInfo | Entry, verify_md5: bool, contents_equal: bool | None
) -> Decision:
    copy = destination if isinstance(destination, ObjectInfo) else None
    comparable = not (isinstance(source, ObjectInfo) and source.encrypted) and (copy is None or not copy.encrypted)
    if comparable and source.etag == destination.etag and source.etag:
        return SAME_ETAG
    recorded_etag = None if copy is None else copy.recorded_etag
    if comparable and md5_of_etag(source.etag) and md5_of_etag(destination.etag):
        return SAME_RECORDED_ETAG if recorded_etag == source.etag else COPY_ETAG
    if copy is None:
        return NEEDS_HEAD
    if recorded_etag:
        return SAME_RECORDED_ETAG if recorded_etag == source.etag else COPY_RECORDED_ETAG
    if contents_equal is None or not verify_md5:
        return NEEDS_CONTENT if verify_md5 else COPY_UNPROVEN
    return SAME_CONTENT if contents_equal else COPY_CONTENT
