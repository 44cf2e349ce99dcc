"""s3s3's own commands, run as a person runs them: a configuration file and a process."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from s3s3.model import Endpoint

TIMEOUT_S = 60.0


def toml_text(value: object) -> str:
    """A TOML value. JSON's strings, numbers and booleans are TOML's."""
    return json.dumps(str(value) if isinstance(value, (str, Path)) else value)


def endpoint_table(endpoint: Endpoint) -> str:
    keys = {
        "host": endpoint.host,
        "port": endpoint.port,
        "is_secure": endpoint.is_secure,
        "aws_access_key_id": endpoint.access_key_id,
        "aws_secret_access_key": endpoint.secret_access_key.get_secret_value() if endpoint.secret_access_key else None,
        "bucket_name": endpoint.bucket_name,
        "prefix": endpoint.prefix,
        "signature_version": endpoint.signature_version,
        "verify_md5": endpoint.verify_md5,
        **({} if endpoint.checksum == "auto" else {"checksum": endpoint.checksum}),
        **({} if endpoint.server_side_copy else {"server_side_copy": False}),
        **({"delete": True, "max_delete": endpoint.max_delete} if endpoint.delete else {}),
    }
    return f"{endpoint.table}\n" + "".join(f"{key} = {toml_text(value)}\n" for key, value in keys.items())


def route_tables(name: str, source: Endpoint, *destinations: Endpoint, channel: str = "") -> str:
    """A route beside the default one."""
    there = [dataclasses.replace(endpoint, parent_table=f"routes.{name}") for endpoint in (source, *destinations)]
    head = f"[routes.{name}]\n" + (f"channel = {toml_text(channel)}\n" if channel else "")
    return "\n".join([head, *map(endpoint_table, there)])


def write_config(
    folder: Path,
    source: Endpoint | None,
    destinations: Sequence[Endpoint],
    redis_url: str,
    *,
    routes: Sequence[str] = (),
    pubsub: dict[str, object] | None = None,
    worker: dict[str, object] | None = None,
    bind: str = "",
) -> Path:
    tables = [*map(endpoint_table, [*([source] if source else []), *destinations]), *routes]
    for name, keys in (("pubsub", {"url": redis_url, **(pubsub or {})}), ("worker", worker or {}),
                       ("http", {"bind": bind})):  # fmt: skip
        tables.append(f"[{name}]\n" + "".join(f"{key} = {toml_text(value)}\n" for key, value in keys.items()))
    path = folder / "s3s3.toml"
    path.write_text("\n".join(tables))
    path.chmod(0o600)
    return path


def command(verb: str, *arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "s3s3.scripts.main", verb, *map(str, arguments)]


def run(verb: str, *arguments: str | Path, status: int = 0, **settings: Any) -> subprocess.CompletedProcess[str]:
    """Run a command to its end and expect this exit status."""
    done = subprocess.run(
        command(verb, *arguments), capture_output=True, text=True, timeout=300, check=False, **settings
    )
    assert done.returncode == status, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def eventually(condition: Callable[[], Any], what: str, timeout_s: float = TIMEOUT_S, every_s: float = 0.05) -> Any:
    """Return the condition's first true answer. `every_s`: more for one that costs the machine something."""
    deadline_s = time.monotonic() + timeout_s
    while True:
        if answer := condition():
            return answer
        assert time.monotonic() < deadline_s, f"not within {timeout_s:g} s: {what}"
        time.sleep(every_s)


@contextmanager
def bucket_started(config: Path, *arguments: str | Path) -> Iterator[subprocess.Popen[str]]:
    """Start `s3s3 bucket`, which is killed at the end where it still runs."""
    with subprocess.Popen(
        command("bucket", "--config", config, *arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def limit_destination(config: Path, limit: str) -> None:
    """Write a limit into the destination's table, so that a run is still at work when something else happens."""
    config.write_text(config.read_text().replace("[destination]\n", f"[destination]\n{limit}\n"))


@contextmanager
def limited_destination(config: Path, limit: str) -> Iterator[None]:
    """Limit the destination for processes started in the block, so that they cannot get far."""
    text = config.read_text()
    limit_destination(config, limit)
    try:
        yield
    finally:
        config.write_text(text)


class Listener:
    """`s3s3 listen` as a process of its own."""

    def __init__(self, config: Path, *arguments: str, environment: dict[str, str] | None = None) -> None:
        self.log = config.with_name(f"listen-{time.monotonic_ns()}.log")
        self._command = [*command("listen", "--config", config), *arguments]
        self._environment = {**os.environ, **(environment or {})}

    def __enter__(self) -> Listener:
        self._start()
        eventually(self._is_subscribed, "the listener subscribes")
        return self

    def _start(self) -> None:
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(self._command, stdout=output, stderr=output, env=self._environment)

    @contextmanager
    def started(self) -> Iterator[Listener]:
        """Started, and not waited for."""
        self._start()
        try:
            yield self
        finally:
            self.__exit__()

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
            try:
                self.process.wait(TIMEOUT_S)
            finally:
                self.process.kill()
                self.process.wait()

    def _is_subscribed(self) -> bool:
        assert self.process.poll() is None, f"the listener ended:\n{self.log.read_text()}"
        return ": subscribed" in self.log.read_text()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """Ask it to stop; return its exit status."""
        self.process.terminate()
        return self.process.wait(TIMEOUT_S)


def report_lines(path: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """A report's lines and its summary."""
    *lines, last = [json.loads(line) for line in path.read_text().splitlines()]
    return lines, last["summary"]
