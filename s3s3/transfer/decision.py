"""Decide whether a copy is needed, and why."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

from ..model import Entry, Proof, md5_of_etag
from ..s3 import ObjectInfo


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
    UNPROVEN = "unproven"
    SOURCE_MISSING = "source_missing"
    EXTRANEOUS = "extraneous"


@dataclass(frozen=True, slots=True)
class Decision:
    """Result of `decide`; `proof` is set for SAME only."""

    action: Action
    reason: Reason
    proof: Proof | None = None


class NotRequested(Enum):
    """Stands for a recorded ETag that needs a HEAD: listings do not contain metadata."""

    NOT_REQUESTED = "not requested"


NOT_REQUESTED: Final = NotRequested.NOT_REQUESTED

ABSENT = Decision(Action.SAME, Reason.SOURCE_MISSING)
SAME_ETAG = Decision(Action.SAME, Reason.SAME, Proof.ETAG)
SAME_RECORDED_ETAG = Decision(Action.SAME, Reason.SAME, Proof.RECORDED_ETAG)
SAME_CONTENT = Decision(Action.SAME, Reason.SAME, Proof.CONTENT)
COPY_MISSING = Decision(Action.COPY, Reason.MISSING)
COPY_SIZE = Decision(Action.COPY, Reason.SIZE)
COPY_ETAG = Decision(Action.COPY, Reason.ETAG)
COPY_RECORDED_ETAG = Decision(Action.COPY, Reason.RECORDED_ETAG)
COPY_CONTENT = Decision(Action.COPY, Reason.CONTENT)
COPY_UNPROVEN = Decision(Action.COPY, Reason.UNPROVEN)
DELETE = Decision(Action.DELETE, Reason.SOURCE_MISSING)
LEAVE = Decision(Action.LEAVE, Reason.EXTRANEOUS)
NEEDS_HEAD = Decision(Action.NEEDS_HEAD, Reason.UNPROVEN)
NEEDS_CONTENT = Decision(Action.NEEDS_CONTENT, Reason.UNPROVEN)


def decide(
    source: ObjectInfo | Entry | None,
    destination: ObjectInfo | Entry | None,
    *,
    recorded_etag: str | NotRequested | None = NOT_REQUESTED,
    source_encrypted: bool = False,
    destination_encrypted: bool = False,
    verify_md5: bool = False,
    contents_equal: bool | None = None,
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
    same ETag, neither encrypted nor empty                                           SAME, proof etag
    both ETags MD5s                                 record is the source's ETag      SAME, proof recorded_etag
    both ETags MD5s                                                                  COPY, etag
    an ETag is not an MD5                           record not requested             NEEDS_HEAD
    an ETag is not an MD5                           record is the source's ETag      SAME, proof recorded_etag
    an ETag is not an MD5                           another record                   COPY, recorded_etag
    an ETag is not an MD5, no record                not `verify_md5`                 COPY, unproven
    an ETag is not an MD5, no record                contents not compared yet        NEEDS_CONTENT
    an ETag is not an MD5, no record                contents equal                   SAME, proof content
    an ETag is not an MD5, no record                contents differ                  COPY, content
    ==============================================  ===============================  ==============================

    An ETag is an MD5 if it looks like one and the object is not encrypted. Listings do not show encryption, so a COPY
    decided from listings means: compare by HEAD. A recorded ETag outweighs two different ETags that look like MD5s,
    because it is recorded only where one side's ETag turned out not to be an MD5.

    Args:
        recorded_etag: the source's ETag in the copy's metadata; None or "" if nothing is recorded.
        source_encrypted: the source's ETag is not an MD5 although it may look like one.
        destination_encrypted: likewise.
        verify_md5: compare contents if nothing else proves equality.
        contents_equal: whether the contents have the same MD5; None if they were not read.
        delete: deletions are propagated to this destination.
    """
    if source is None:
        extraneous = DELETE if delete else LEAVE
        return ABSENT if destination is None else extraneous
    if destination is None:
        return COPY_MISSING
    if source.size_bytes != destination.size_bytes:
        return COPY_SIZE
    comparable = not (source_encrypted or destination_encrypted)
    if comparable and source.etag == destination.etag and source.etag:
        return SAME_ETAG
    if comparable and md5_of_etag(source.etag) and md5_of_etag(destination.etag):
        return SAME_RECORDED_ETAG if recorded_etag == source.etag else COPY_ETAG
    return _decide_without_md5(source.etag, recorded_etag, verify_md5, contents_equal)


def _decide_without_md5(
    source_etag: str, recorded_etag: str | NotRequested | None, verify_md5: bool, contents_equal: bool | None
) -> Decision:
    if recorded_etag is NOT_REQUESTED:
        return NEEDS_HEAD
    if recorded_etag:
        return SAME_RECORDED_ETAG if recorded_etag == source_etag else COPY_RECORDED_ETAG
    if not verify_md5:
        return COPY_UNPROVEN
    if contents_equal is None:
        return NEEDS_CONTENT
    return SAME_CONTENT if contents_equal else COPY_CONTENT
