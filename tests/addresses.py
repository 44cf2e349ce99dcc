"""Host names with several addresses, some of which do not answer."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

#: The host that `resolve_to` gives addresses.
NAME = "several.example.org"


@contextmanager
def silent_address(host: str = "127.0.0.1") -> Iterator[tuple[str, int]]:
    """An address that does not answer: the kernel drops SYNs while the queue of a listener is full."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as listener, socket.socket(family) as first, socket.socket(family) as second:
        listener.bind((host, 0))
        listener.listen(0)
        for waiting in (first, second):
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        yield listener.getsockname()[:2]


def resolve_to(monkeypatch: pytest.MonkeyPatch, *addresses: tuple[str, int]) -> None:
    """Give the host NAME these addresses, with any port. Other hosts keep theirs."""

    async def resolve(host: str, port: int) -> list[Any]:
        found = addresses if host == NAME else [(host, port)]
        infos: list[Any] = []
        for address in found:
            infos += socket.getaddrinfo(*address, type=socket.SOCK_STREAM)
        return infos

    monkeypatch.setattr("s3s3.tasks._resolve", resolve)
