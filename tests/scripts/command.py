"""Run commands in the test process and capture their output and exit status."""

from __future__ import annotations

import io
import json
import logging
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

from s3s3.model import Endpoint

Main = Callable[["list[str] | None"], int]


@dataclass(frozen=True)
class Done:
    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def run(main: Main, *arguments: str | Path, stdin: bytes | IO[bytes] = b"") -> Done:
    """Run a command's main function; SystemExit of argparse counts as its exit status."""
    out, err = io.StringIO(), io.StringIO()
    with _unchanged_log(), _unchanged_signals(), _stdin(stdin), redirect_stdout(out), redirect_stderr(err):
        try:
            status = main([str(argument) for argument in arguments])
        except SystemExit as exit_:
            status = int(exit_.code or 0)
    return Done(status, out.getvalue(), err.getvalue())


@contextmanager
def _unchanged_log() -> Iterator[None]:
    root, ours = logging.getLogger(), logging.getLogger("s3s3")
    before = list(root.handlers), root.level, ours.level
    try:
        yield
    finally:
        root.handlers[:], root.level = before[0], before[1]
        ours.setLevel(before[2])


@contextmanager
def _unchanged_signals() -> Iterator[None]:
    """Restore the signal handlers, which uvloop does not."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _stdin(content: bytes | IO[bytes]) -> Iterator[None]:
    before = sys.stdin
    with TemporaryFile() as file:
        if isinstance(content, bytes):
            file.write(content)
            file.seek(0)
            content = file
        sys.stdin = content  # commands use only its descriptor
        try:
            yield
        finally:
            sys.stdin = before


def config_file(
    folder: Path, redis_url: str, source: Endpoint | None = None, destinations: Sequence[Endpoint] = (), more: str = ""
) -> Path:
    """Write a configuration; without endpoints it has two unreachable destinations."""
    source = source or Endpoint("source", "images", host="127.0.0.1", port=9, is_secure=False)
    destinations = destinations or [
        Endpoint(name, name, host="127.0.0.1", port=9, is_secure=False) for name in ("ceph", "swift")
    ]
    tables = [_table("source", source), *(_table(f"dest-{each.name}", each) for each in destinations)]
    path = folder / "s3s3.toml"
    path.write_text("\n".join([*tables, f'[pubsub]\nurl = "{redis_url}"\n[http]\nbind = ""\n', more]))
    return path


def _table(name: str, endpoint: Endpoint) -> str:
    keys = {
        "host": endpoint.host,
        "port": endpoint.port,
        "is_secure": endpoint.is_secure,
        "aws_access_key_id": endpoint.access_key_id,
        "aws_secret_access_key": endpoint.secret_access_key.get_secret_value() if endpoint.secret_access_key else None,
        "bucket_name": endpoint.bucket_name,
        "prefix": endpoint.prefix,
        "signature_version": endpoint.signature_version,
    }
    lines = [f"{key} = {json.dumps(value)}" for key, value in keys.items() if value is not None]
    return "\n".join([f"[{name}]", *lines, ""])
