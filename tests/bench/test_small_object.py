"""The measurement of a small object does the whole work."""

from __future__ import annotations

import pytest

from bench.fake_servers import REDIS_PORT, STORE_PORT, run
from bench.small_object import CONTENT, CopyPart, Handle, Part, QueuePart, WholePart
from s3s3.tasks import timeout


@pytest.mark.parametrize(("part", "puts"), [(CopyPart, 70), (QueuePart, 0), (WholePart, 70)])
def test_each_object_passes_through_every_part(part: type[Part], puts: int) -> None:
    measured = part()

    async def rounds(handle: Handle) -> None:
        async with timeout(60):
            await handle(70)

    run(measured.run(rounds), {STORE_PORT: measured.store, REDIS_PORT: measured.redis})
    assert measured.store.puts == puts
    assert measured.redis.finished == (0 if part is CopyPart else 70)
    assert len(CONTENT) == 4096
