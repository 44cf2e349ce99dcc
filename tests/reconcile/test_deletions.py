"""Deletion candidates and the max_delete guard."""

from __future__ import annotations

import tracemalloc
from contextlib import closing
from pathlib import Path

import pytest

from s3s3.errors import SpoolTooSmall, SpoolUnavailable
from s3s3.model import Endpoint, Entry
from s3s3.reconcile.deletions import DeletionCandidates, refusal

ODD = ["plain", "new\nline", "\U0001f4f7", 'quote"\\', " ", "\x01"]


def refused(
    count: int, entries: int, *, source_entries: int = 1000, max_delete: float = 0.1, allow_empty: bool = False
) -> str:
    return refusal(
        Endpoint("swift", "bucket", delete=True, max_delete=max_delete), count,
        entries=entries, source_entries=source_entries, allow_empty=allow_empty,
    )  # fmt: skip


def test_candidates_are_returned_unchanged_and_in_order(tmp_path: Path) -> None:
    added = [(name, Entry(key, size, "e")) for size, key in enumerate(ODD) for name in ("a", "b")]
    with closing(DeletionCandidates(str(tmp_path), 10**6)) as candidates:
        for candidate in added:
            candidates.add(*candidate)
        assert candidates.counts == {"a": len(ODD), "b": len(ODD)}
        assert list(candidates) == added
        assert list(candidates) == added


@pytest.mark.long
def test_many_candidates_are_kept_on_disk_and_leave_no_file(tmp_path: Path) -> None:
    peak_bytes = 10**9
    for _ in range(3):  # what threads of earlier tests allocate counts, too
        tracemalloc.start()
        with closing(DeletionCandidates(str(tmp_path), 10**9)) as candidates:
            for number in range(20_000):
                candidates.add("swift", Entry(f"{number}{'k' * 500}", 1, "e" * 32))
            assert sum(1 for _ in candidates) == 20_000
        peak_bytes = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        if peak_bytes < 5_000_000:
            break
    assert peak_bytes < 5_000_000
    assert list(tmp_path.iterdir()) == []


def test_candidates_beyond_spool_bytes_are_refused(tmp_path: Path) -> None:
    with (
        closing(DeletionCandidates(str(tmp_path), 1000)) as candidates,
        pytest.raises(SpoolTooSmall, match="spool_bytes"),
    ):
        for number in range(1000):
            candidates.add("swift", Entry(str(number), 1, "e"))


def test_a_missing_directory_is_an_error_that_names_the_setting(tmp_path: Path) -> None:
    with (
        closing(DeletionCandidates(str(tmp_path / "none"), 10**9)) as candidates,
        pytest.raises(SpoolUnavailable, match="spool_dir"),
    ):
        for number in range(20_000):
            candidates.add("swift", Entry(f"{number}{'k' * 200}", 1, "e"))


@pytest.mark.parametrize(("count", "entries", "max_delete"), [(10, 100, 0.1), (29, 100, 0.29), (5, 5, 1), (0, 0, 0)])
def test_deletions_within_max_delete_are_allowed(count: int, entries: int, max_delete: float) -> None:
    assert refused(count, entries, max_delete=max_delete) == ""


@pytest.mark.parametrize(
    ("count", "entries", "max_delete"), [(11, 100, 0.1), (1, 9, 0.1), (1, 1000, 0), (99, 100, 0.98)]
)
def test_deletions_beyond_max_delete_are_refused_and_the_setting_is_named(
    count: int, entries: int, max_delete: float
) -> None:
    reason = refused(count, entries, max_delete=max_delete)
    assert f"{count} of its {entries} objects" in reason
    assert f"max_delete = {max_delete:g}" in reason
    assert "[swift]" in reason


def test_an_empty_source_deletes_nothing_without_allow_empty() -> None:
    assert "--allow-empty" in refused(1, 1000, source_entries=0, max_delete=1)
    assert refused(1000, 1000, source_entries=0, allow_empty=True) == ""
    assert refused(0, 0, source_entries=0) == ""
    assert refused(200, 1000, allow_empty=True) != "", "allow_empty does not override max_delete"
