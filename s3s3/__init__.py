"""Replicates objects from one S3-compatible store to others, and verifies every copy.

For programs: `Copier`, `Queue` and their twins without asyncio, `SyncCopier` and `SyncQueue`; the modules `s3s3.api`,
`s3s3.client` and `s3s3.config`.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .programs import Copier, Queue, SyncCopier, SyncQueue

__all__ = ["Copier", "Queue", "SyncCopier", "SyncQueue", "__version__"]

__version__ = "1.0.0"


def __getattr__(name: str) -> Any:
    if name in __all__:  # imported with the first use: commands do not need them
        from . import programs  # noqa: PLC0415

        return getattr(programs, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
