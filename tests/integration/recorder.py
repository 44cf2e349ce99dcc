"""A TCP relay that writes down every request that passes, as the server sees it."""

from __future__ import annotations

import re
import socket
import threading
from contextlib import suppress
from dataclasses import dataclass


@dataclass(frozen=True)
class Request:
    """The head of a request, and how its body began."""

    method: str
    target: str
    headers: dict[str, str]


class Recorder:
    """Records the requests between s3s3 and a store; a context manager. Read `requests` after all connections ended."""

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._streams: list[bytearray] = []

    def __enter__(self) -> Recorder:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listening.close()

    def _accept(self) -> None:
        with suppress(OSError):  # it is closed: the test is over
            while True:
                client, _ = self._listening.accept()
                server = socket.create_connection(("127.0.0.1", self._target_port))
                recorded = bytearray()
                self._streams.append(recorded)
                threading.Thread(target=_relay, args=(client, server, recorded), daemon=True).start()
                threading.Thread(target=_relay, args=(server, client, None), daemon=True).start()

    @property
    def requests(self) -> list[Request]:
        return [request for stream in self._streams for request in _requests(bytes(stream))]


def _relay(here: socket.socket, there: socket.socket, recorded: bytearray | None) -> None:
    with suppress(OSError):
        while chunk := here.recv(1 << 18):
            if recorded is not None:
                recorded += chunk
            there.sendall(chunk)
    for end in (here, there):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


def _requests(stream: bytes) -> list[Request]:
    """Take a connection's bytes apart. Every body has a length, or the test is to fail here."""
    found = []
    while stream:
        head, _, rest = stream.partition(b"\r\n\r\n")
        line, *lines = head.decode("latin-1").split("\r\n")
        matched = re.fullmatch(r"(\w+) (\S+) HTTP/1\.1", line)
        assert matched, f"no request begins with {line[:80]!r}"
        headers = {name.lower(): value.strip() for name, _, value in (text.partition(":") for text in lines)}
        assert "transfer-encoding" not in headers
        stream = rest[int(headers.get("content-length", 0)) :]
        found.append(Request(matched[1], matched[2], headers))
    return found
