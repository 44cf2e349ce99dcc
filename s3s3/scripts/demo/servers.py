"""Base classes of the local servers: folder, ports on 127.0.0.1, processes, accounts."""

from __future__ import annotations

import dataclasses
import http.client
import random
import socket
from abc import ABC
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import boto3
from botocore.config import Config

from ...model import Endpoint, Secret
from .folder import Folder
from .process import Process, ServerFailed, ServerMissing

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from typing_extensions import Self  # typing's own since 3.11

__all__ = ["HOST", "Account", "Process", "Server", "ServerFailed", "ServerMissing", "StoreServer", "free_ports"]

HOST = "127.0.0.1"

#: Below the range that Linux uses for outgoing connections (from 32,768 on), so that none uses the port of a stopped
#: server.
_PORTS = range(20_000, 32_000)


def free_ports(count: int) -> list[int]:
    """Return consecutive free ports of 127.0.0.1."""
    for _ in range(1000):
        first = random.SystemRandom().choice(_PORTS)
        ports = list(range(first, first + count))
        if all(_is_free(port) for port in ports):
            return ports
    raise ServerFailed(f"no {count} consecutive free ports between {_PORTS.start} and {_PORTS.stop}")


def _is_free(port: int) -> bool:
    with socket.socket() as candidate:
        candidate.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            candidate.bind((HOST, port))
        except OSError:
            return False
        return True


def is_listening(port: int) -> bool:
    """Return whether a process listens on the port."""
    try:
        socket.create_connection((HOST, port), timeout=1).close()
    except OSError:
        return False
    return True


def http_status(port: int, path: str) -> int | None:
    """Return the status of a GET, or None without a response."""
    connection = http.client.HTTPConnection(HOST, port, timeout=2)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


class Server(ABC):
    """Processes that form one server; a context manager.

    Ports and folder stay the same until `close`, so it can be stopped or killed, and started again.
    Raises `ServerMissing` if it is not installed, `ServerFailed` if it does not start.
    """

    name: str
    processes: Sequence[Process]

    def __init__(self, folder_parent: Path | None = None) -> None:
        self._folder = Folder(self.name, folder_parent)
        self.folder = self._folder.path

    @property
    def pids(self) -> list[int]:
        """The ids of its running processes."""
        return [process.pid for process in self.processes if process.is_running]

    @property
    def is_running(self) -> bool:
        """Whether all its processes are running."""
        return all(process.is_running for process in self.processes)

    def start(self) -> None:
        """Start the processes that are not running; wait until all are ready."""
        for process in self.processes:
            process.start()
        for process in self.processes:
            process.wait_ready()

    def stop(self) -> None:
        """Stop the processes in order; data on disk is kept."""
        for process in reversed(self.processes):
            process.stop()

    def kill(self) -> None:
        """Kill the processes."""
        for process in self.processes:
            process.kill()

    def restart(self) -> None:
        """Stop and start it with the same ports and folder."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """Pause it: connections stay open, no request is answered."""
        for process in self.processes:
            process.pause()

    def resume(self) -> None:
        """Continue after `pause`."""
        for process in self.processes:
            if process.is_running:
                process.resume()

    def close(self) -> None:
        """Stop it and remove its folder."""
        self.kill()  # its data is deleted next, so it need not write any
        self._folder.remove()

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Account(NamedTuple):
    """An account of a store with its key pair."""

    access_key_id: str
    secret_access_key: str


class StoreServer(Server):
    """A server with an S3 API."""

    accounts: tuple[Account, ...]
    port: int
    signature_version: Literal["s3", "s3v4"] = "s3"

    def endpoint(self, bucket_name: str, name: str = "source", *, account: int = 0, **changes: Any) -> Endpoint:
        """Return a bucket as an endpoint; `changes` sets further fields."""
        access_key_id, secret_access_key = self.accounts[account]
        endpoint = Endpoint(
            name=name,
            bucket_name=bucket_name,
            host=HOST,
            port=self.port,
            is_secure=False,
            access_key_id=access_key_id,
            secret_access_key=Secret(secret_access_key),
            signature_version=self.signature_version,
        )
        return dataclasses.replace(endpoint, **changes)

    def boto3_client(self, account: int = 0) -> S3Client:
        """Return a boto3 client with V4 signatures, to create buckets and verify copies without s3s3."""
        access_key_id, secret_access_key = self.accounts[account]
        return boto3.client(
            "s3",
            endpoint_url=f"http://{HOST}:{self.port}",
            region_name="us-east-1",
            aws_access_key_id=access_key_id,
            aws_secret_access_key=secret_access_key,
            config=Config(
                signature_version="s3v4",
                s3={"addressing_style": "path"},
                # The default checksums since botocore 1.36 go as aws-chunked bodies, which such stores reject.
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
                connect_timeout=5,
                read_timeout=60,
                retries={"total_max_attempts": 3, "mode": "standard"},
            ),
        )
