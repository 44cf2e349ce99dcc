"""How a front asks a store while a client waits for the answer."""

from __future__ import annotations

from ..store import Timeouts

ASKING = Timeouts(connect_s=3, read_s=5, write_s=5)
ASKING_CONNECTIONS = 64
ASKED_FOR_S = 8.0
"""How long the store may take to say whether, or as what, it has an object, however often it is asked."""
