"""Contents of objects, the same in each run."""

from __future__ import annotations

import random


def random_bytes(size_bytes: int, number: int = 0) -> bytes:
    """Return bytes that no compression shortens; another size or number gives other ones."""
    return random.Random(f"{size_bytes} {number}").randbytes(size_bytes)
