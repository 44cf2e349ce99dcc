"""The path of a small object from its message to its copy stays short enough to be followed by a reader."""

from __future__ import annotations

import pytest

from bench.path_length import PathLength, measure

#: Measured: 176 calls and 92 moves, more where a response of Redis arrives in two pieces.
MAX_CALLS = 190
MAX_FILES = 19
MAX_MOVES = 104


@pytest.fixture
def path(redis_url: str) -> PathLength:
    return measure(redis_url)


@pytest.mark.real
def test_the_path_of_a_small_object_is_short(path: PathLength) -> None:
    assert path.calls <= MAX_CALLS, path.trace
    assert path.files <= MAX_FILES, sorted({file for file, _ in path.trace})
    assert path.moves <= MAX_MOVES, path.trace


@pytest.mark.real
def test_the_path_leads_from_the_message_to_the_logged_job(path: PathLength) -> None:
    files = [file for file, _ in path.trace]
    assert files[0] == "notifications/subscription.py"
    assert files.index("worker/worker.py") < files.index("transfer/copier.py") < files.index("s3/client.py")
    assert any(name.endswith("on_job_end") for _, name in path.trace)
