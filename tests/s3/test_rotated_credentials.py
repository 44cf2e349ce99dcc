"""Credentials in files that are rewritten while s3s3 runs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from s3s3 import config
from s3s3.errors import InvalidCredentials, SignatureRejected
from s3s3.mirror.cache.presigned import Verifier
from s3s3.model import Endpoint
from s3s3.s3 import Store, signing
from s3s3.scripts.demo.swift_server import SwiftServer
from tests.s3.loops import event_loop_policy  # noqa: F401
from tests.s3.raw_server import RawServer, ReceivedRequest, error_response, respond, response
from tests.waiting import until


@pytest.fixture(autouse=True)
def quick_refresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signing, "FILES_REFRESH_S", 60.0)
    monkeypatch.setattr(signing, "MIN_REFRESH_S", 0.0)


@pytest.fixture
def endpoint_of(tmp_path: Path) -> Callable[..., Endpoint]:
    """Write both files, and return the source of a configuration that names them."""

    def make(host: str, port: int, access_key_id: str, secret: str) -> Endpoint:
        (tmp_path / "id").write_text(f"{access_key_id}\n")
        (tmp_path / "secret").write_text(f"{secret}\n")
        path = tmp_path / "s3s3.toml"
        path.write_text(f"""
[source]
host = "{host}"
port = {port}
is_secure = false
bucket_name = "bucket"
aws_access_key_id_file = "id"
aws_secret_access_key_file = "secret"
[destination]
bucket_name = "other"
""")
        return config.load(path, environ={}).routes[0].source

    return make


@pytest.mark.real
async def test_a_rewritten_secret_is_used_as_soon_as_the_old_one_is_refused(
    swift: SwiftServer, new_bucket: Callable[..., str], endpoint_of: Callable[..., Endpoint], tmp_path: Path
) -> None:
    account = swift.accounts[0]
    bucket = new_bucket(swift)
    swift.boto3_client().put_object(Bucket=bucket, Key="key", Body=b"x")
    endpoint = endpoint_of("127.0.0.1", swift.port, account.access_key_id, "revoked")
    async with Store(_in_bucket(endpoint, bucket)) as store:
        with pytest.raises(InvalidCredentials):
            await store.get("key")
        (tmp_path / "new").write_text(str(account.secret_access_key))
        (tmp_path / "new").rename(tmp_path / "secret")  # as a secret that is mounted in a container is replaced
        assert (await store.fetch("key", 10))[1] == b"x"


def _in_bucket(endpoint: Endpoint, bucket: str) -> Endpoint:
    return replace(endpoint, bucket_name=bucket)


async def test_both_files_are_read_again_even_if_nothing_is_refused(
    endpoint_of: Callable[..., Endpoint], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signing, "FILES_REFRESH_S", 0.05)
    async with RawServer([respond(response(body=b"x"))]) as server:
        async with Store(endpoint_of("127.0.0.1", server.port, "OLD", "old")) as store:
            await store.fetch("key", 10)
            (tmp_path / "id").write_text("NEW")
            (tmp_path / "secret").write_text("new")

            async def is_new() -> bool:
                await store.fetch("key", 10)
                return server.requests[-1].headers["authorization"].startswith(b"AWS NEW:")

            await until(is_new)
        assert server.requests[0].headers["authorization"].startswith(b"AWS OLD:")


@pytest.mark.parametrize("content", [None, b"", b"\n", b"\xff\xfe", b"two\nlines"])
async def test_a_file_that_is_missing_or_broken_keeps_the_last_secret(
    content: bytes | None, endpoint_of: Callable[..., Endpoint], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.setattr(signing, "FILES_REFRESH_S", 0.01)
    caplog.set_level(logging.WARNING)
    server = RawServer([respond(response(body=b"x"))])
    async with server, Store(endpoint_of("127.0.0.1", server.port, "OLD", "old")) as store:
        if content is None:
            (tmp_path / "secret").unlink()
        else:
            (tmp_path / "secret").write_bytes(content)
        for _ in range(3):
            await asyncio.sleep(0.02)
            assert (await store.fetch("key", 10))[1] == b"x"
    (message,) = [record.getMessage() for record in caplog.records if "aws_secret_access_key_file" in record.message]
    assert message.startswith("[source] aws_secret_access_key_file: cannot read the file: ")
    assert "the last value stays in use" in message


async def test_a_new_secret_is_not_in_messages(endpoint_of: Callable[..., Endpoint], tmp_path: Path) -> None:
    async def echo(received: ReceivedRequest) -> None:
        message = "your secret is old-one" if received.number == 0 else "your secret is new-one"
        received.write(error_response(403, "SignatureDoesNotMatch", message))

    async with RawServer([echo]) as server, Store(endpoint_of("127.0.0.1", server.port, "A", "old-one")) as store:
        for secret in ("old-one", "new-one"):
            (tmp_path / "secret").write_text(secret)
            with pytest.raises(InvalidCredentials) as caught:
                await store.get("key")
            assert "your secret is ***" in str(caught.value)


async def test_the_cache_verifies_with_the_new_secret(
    endpoint_of: Callable[..., Endpoint], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signing, "FILES_REFRESH_S", 0.01)
    verifier = Verifier(endpoint_of("store", 80, "A", "old"))
    async with Store(endpoint_of("store", 80, "A", "new")) as signed_with_new:
        url = (await signed_with_new.object_url("key", expires_s=60)).removeprefix("http://store")

    async def accepted() -> Any:
        try:
            return await verifier.verify("GET", url, {"host": "store"})
        except SignatureRejected:
            return None

    assert (await until(accepted)).key == "key"


def test_a_secret_of_a_file_is_hidden_like_any_other(endpoint_of: Callable[..., Endpoint]) -> None:
    endpoint = endpoint_of("store", 80, "AKID-of-file", "hunter2")
    assert "hunter2" not in repr(endpoint)
    assert endpoint.access_key_id == "AKID-of-file"
