"""The decision table: what is done with a destination's copy, and why."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3s3.model import Entry, Proof
from s3s3.s3 import ObjectInfo
from s3s3.transfer.decision import Action, Reason, decide

MD5, OTHER_MD5 = "900150983cd24fb0d6963f7d28e17f72", "d41d8cd98f00b204e9800998ecf8427e"
PARTS, OTHER_PARTS = f"{MD5}-3", f"{OTHER_MD5}-2"
SAME, COPY = (Action.SAME, Reason.SAME), Action.COPY


def entry(etag: str = MD5, size_bytes: int = 3) -> Entry:
    """Return an object as a listing shows it."""
    return Entry("key", size_bytes, etag)


def info(etag: str = MD5, recorded_etag: str | None = None, **about: Any) -> ObjectInfo:
    """Return an object as a HEAD shows it."""
    return ObjectInfo("key", 3, etag, recorded_etag=recorded_etag, **about)


FITS, TEXT = {"content-type": "image/fits"}, {"content-type": "text/plain"}


@pytest.mark.parametrize(
    ("source", "destination", "known", "expected"),
    [
        (None, None, {}, (Action.SAME, Reason.SOURCE_MISSING, None)),
        (None, entry(), {"delete": True}, (Action.DELETE, Reason.SOURCE_MISSING, None)),
        (None, info(), {}, (Action.LEAVE, Reason.EXTRANEOUS, None)),
        (entry(), None, {}, (COPY, Reason.MISSING, None)),
        (info(), None, {"delete": True}, (COPY, Reason.MISSING, None)),
        (entry(), entry(size_bytes=4), {}, (COPY, Reason.SIZE, None)),
        (info(), entry(size_bytes=4), {}, (COPY, Reason.SIZE, None)),
        (entry(), entry(), {}, (*SAME, Proof.ETAG)),
        (entry(PARTS), entry(PARTS), {}, (*SAME, Proof.ETAG)),
        (entry(), entry(OTHER_MD5), {}, (COPY, Reason.ETAG, None)),
        (info(), info(OTHER_MD5), {"verify_md5": True}, (COPY, Reason.ETAG, None)),
        (info(), info(OTHER_MD5, OTHER_MD5), {}, (COPY, Reason.ETAG, None)),
        (info(), info(OTHER_MD5, MD5), {}, (*SAME, Proof.RECORDED_ETAG)),
        (entry(PARTS), entry(), {}, (Action.NEEDS_HEAD, Reason.UNPROVEN, None)),
        (entry(), entry(f"{MD5[:15]}z{MD5[16:]}"), {}, (Action.NEEDS_HEAD, Reason.UNPROVEN, None)),
        (entry(), entry(OTHER_MD5.upper()), {}, (Action.NEEDS_HEAD, Reason.UNPROVEN, None)),
        (entry(), entry(PARTS), {"verify_md5": True}, (Action.NEEDS_HEAD, Reason.UNPROVEN, None)),
        (info(PARTS), info(MD5, PARTS), {}, (*SAME, Proof.RECORDED_ETAG)),
        (info(), info(PARTS, MD5), {}, (*SAME, Proof.RECORDED_ETAG)),
        (info(PARTS), info(MD5, OTHER_PARTS), {}, (COPY, Reason.RECORDED_ETAG, None)),
        (info(PARTS), info(), {}, (COPY, Reason.UNPROVEN, None)),
        (info(PARTS), info(OTHER_PARTS), {}, (COPY, Reason.UNPROVEN, None)),
        (info(PARTS), info(), {"verify_md5": True}, (Action.NEEDS_CONTENT, Reason.UNPROVEN, None)),
        (info(PARTS), info(), {"verify_md5": True, "contents_equal": True}, (*SAME, Proof.CONTENT)),
        (info(PARTS), info(), {"verify_md5": True, "contents_equal": False}, (COPY, Reason.CONTENT, None)),
        (
            info(PARTS),
            info(MD5, OTHER_PARTS),
            {"verify_md5": True, "contents_equal": True},
            (COPY, Reason.RECORDED_ETAG, None),
        ),
        # ETags of encrypted objects and empty ETags are never compared.
        (info(encrypted=True), info(), {}, (COPY, Reason.UNPROVEN, None)),
        (info(), info(OTHER_MD5, MD5, encrypted=True), {}, (*SAME, Proof.RECORDED_ETAG)),
        (info(""), info(""), {}, (COPY, Reason.UNPROVEN, None)),
        (info(""), info(MD5, ""), {}, (COPY, Reason.UNPROVEN, None)),
        # Headers are compared where both objects have them.
        (info(headers=FITS), info(headers=TEXT), {}, (COPY, Reason.METADATA, None)),
        (info(headers=FITS), info(), {}, (COPY, Reason.METADATA, None)),
        (info(headers=FITS), info(headers=FITS), {}, (*SAME, Proof.ETAG)),
        (info(headers=FITS), info(headers=TEXT), {"ignore_headers": True}, (*SAME, Proof.ETAG)),
        (info(headers=FITS), entry(), {}, (*SAME, Proof.ETAG)),
        (info(headers=FITS), info(OTHER_MD5, headers=TEXT), {}, (COPY, Reason.ETAG, None)),
        (info(PARTS, headers=FITS), info(MD5, PARTS, headers=TEXT), {}, (COPY, Reason.METADATA, None)),
        (info(PARTS, headers=FITS), info(headers=TEXT), {"verify_md5": True}, (COPY, Reason.METADATA, None)),
        (
            info(PARTS, headers=FITS),
            info(headers=TEXT),
            {"verify_md5": True, "contents_equal": True},
            (COPY, Reason.METADATA, None),
        ),
    ],
)
def test_each_row_of_the_table_gives_its_decision(
    source: ObjectInfo | Entry | None,
    destination: ObjectInfo | Entry | None,
    known: dict[str, Any],
    expected: tuple[Action, Reason, Proof | None],
) -> None:
    decision = decide(source, destination, **known)

    assert (decision.action, decision.reason, decision.proof) == expected


ETAGS = st.sampled_from([MD5, OTHER_MD5, PARTS, OTHER_PARTS, ""])
SIZES = st.sampled_from([0, 3])
INFOS = st.builds(
    ObjectInfo, st.just("key"), SIZES, ETAGS, headers=st.sampled_from([FITS, TEXT]), encrypted=st.booleans(),
    recorded_etag=st.none() | ETAGS,
)  # fmt: skip
OBJECTS = st.none() | st.builds(Entry, st.just("key"), SIZES, ETAGS) | INFOS
KNOWN = st.fixed_dictionaries(
    {
        "verify_md5": st.booleans(),
        "contents_equal": st.sampled_from([None, False, True]),
        "ignore_headers": st.booleans(),
        "delete": st.booleans(),
    }
)


@given(OBJECTS, OBJECTS, KNOWN)
def test_every_decision_is_justified_by_its_facts(
    source: ObjectInfo | Entry | None, destination: ObjectInfo | Entry | None, known: dict[str, Any]
) -> None:
    decision = decide(source, destination, **known)

    infos = [each for each in (source, destination) if isinstance(each, ObjectInfo)]
    if decision.action is Action.SAME and source is not None:
        assert destination is not None and source.size_bytes == destination.size_bytes
        recorded = destination.recorded_etag if isinstance(destination, ObjectInfo) else None
        proofs = {
            Proof.ETAG: source.etag == destination.etag != "" and not any(each.encrypted for each in infos),
            Proof.RECORDED_ETAG: recorded == source.etag != "",
            Proof.CONTENT: known["verify_md5"] and known["contents_equal"] is True,
        }
        assert decision.proof is not None and proofs[decision.proof]
        assert known["ignore_headers"] or len(infos) < 2 or infos[0].headers == infos[1].headers
    else:
        assert decision.proof is None
    assert (decision.action is Action.DELETE) <= (source is None and known["delete"])
    assert (decision.action is Action.NEEDS_HEAD) <= isinstance(destination, Entry)
    assert (decision.action is Action.NEEDS_CONTENT) <= (known["contents_equal"] is None and known["verify_md5"])


@given(OBJECTS, OBJECTS, KNOWN)
def test_a_decision_is_final_once_head_and_content_are_known(
    source: ObjectInfo | Entry | None, destination: ObjectInfo | Entry | None, known: dict[str, Any]
) -> None:
    if decide(source, destination, **known).action is Action.NEEDS_HEAD:
        assert destination is not None
        destination = ObjectInfo(*destination[:4])
    if decide(source, destination, **known).action is Action.NEEDS_CONTENT:
        known = {**known, "contents_equal": True}

    assert decide(source, destination, **known).action not in {Action.NEEDS_HEAD, Action.NEEDS_CONTENT}
