"""Certificates: ca_file, verify_tls, client certificates, and the advice if a certificate is not accepted."""

from __future__ import annotations

import asyncio
import shutil
import socket
import ssl
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from s3s3 import config
from s3s3.config import SqsSettings
from s3s3.errors import StoreUnavailable
from s3s3.notifications.sqs import connect
from s3s3.s3 import Store, create_resource
from s3s3.s3.boto3_bridge import endpoint_from_client
from tests.config.configurations import SOUND, loaded, problems_in
from tests.s3.loops import event_loop_policy  # noqa: F401
from tests.s3.raw_server import RawServer, respond, response

OK = respond(response(body=b"x"))


@dataclass
class Certificates:
    """Files: ca.pem of the server's authority, client.pem (certificate and key), cert.pem, key.pem, secret.key."""

    folder: Path
    authority: trustme.CA

    def __getitem__(self, name: str) -> str:
        return str(self.folder / name)

    def server(self, *names: str, asks_client: bool = False) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.authority.issue_cert(*(names or ("127.0.0.1",))).configure_cert(context)
        if asks_client:
            self.authority.configure_trust(context)
            context.verify_mode = ssl.CERT_REQUIRED
        return context


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    folder = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    client = authority.issue_cert("s3s3@example.org")
    authority.cert_pem.write_to_path(folder / "ca.pem")
    client.private_key_and_cert_chain_pem.write_to_path(folder / "client.pem")
    client.cert_chain_pems[0].write_to_path(folder / "cert.pem")
    client.private_key_pem.write_to_path(folder / "key.pem")
    key = load_pem_private_key(client.private_key_pem.bytes(), None)
    encrypted = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"password"))
    (folder / "secret.key").write_bytes(encrypted)
    (folder / "other-ca.pem").write_bytes(trustme.CA().cert_pem.bytes())
    (folder / "none.pem").write_text("no certificate\n")
    return Certificates(folder, authority)


async def error_of(server: RawServer, **endpoint: Any) -> str:
    async with server.store(endpoint=endpoint) as store:
        with pytest.raises(StoreUnavailable) as caught:
            await store.get("key")
    return str(caught.value)


async def content_of(server: RawServer, **endpoint: Any) -> bytes | None:
    async with server.store(endpoint=endpoint) as store:
        return (await store.fetch("key", 10))[1]


async def test_ca_file_replaces_the_trusted_certificates(certificates: Certificates) -> None:
    async with RawServer([OK], tls=certificates.server()) as server:
        assert await content_of(server, ca_file=certificates["ca.pem"]) == b"x"
        error = await error_of(server, ca_file=certificates["other-ca.pem"])
        assert "is not trusted: unable to get local issuer certificate (set ca_file in [destination-raw]" in error


async def test_verify_tls_false_accepts_any_certificate(certificates: Certificates) -> None:
    async with RawServer([OK], tls=certificates.server("another.example.org")) as server:
        assert await content_of(server, verify_tls=False) == b"x"


async def test_a_rewritten_file_is_read_again(certificates: Certificates, tmp_path: Path) -> None:
    rotated = tmp_path / "ca.pem"
    shutil.copy(certificates["other-ca.pem"], rotated)
    async with (
        RawServer([OK], tls=certificates.server()) as server,
        server.store(endpoint={"ca_file": str(rotated)}) as store,
    ):
        with pytest.raises(StoreUnavailable, match="is not trusted"):
            await store.get("key")
        replacement = tmp_path / "new.pem"
        shutil.copy(certificates["ca.pem"], replacement)
        replacement.rename(rotated)
        assert (await store.fetch("key", 10))[1] == b"x"


@pytest.mark.parametrize("files", [("client.pem", None), ("cert.pem", "key.pem")])
async def test_a_client_certificate_is_presented(certificates: Certificates, files: tuple[str, str | None]) -> None:
    settings = {
        "ca_file": certificates["ca.pem"],
        "client_cert_file": certificates[files[0]],
        "client_key_file": files[1] and certificates[files[1]],
    }
    async with RawServer([OK], tls=certificates.server(asks_client=True)) as server:
        assert await content_of(server, **settings) == b"x"
        assert "127.0.0.1" in await error_of(server, ca_file=certificates["ca.pem"])


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"ca_file": "none.pem"}, "cannot use ca_file FOLDER/none.pem: .* (correct ca_file in [destination-raw])"),
        ({"ca_file": "gone.pem"}, "cannot use ca_file FOLDER/gone.pem: No such file or directory"),
        ({"client_cert_file": "cert.pem"}, "cannot use client_cert_file FOLDER/cert.pem: "),
        ({"client_cert_file": "cert.pem", "client_key_file": "secret.key"}, "cannot use client_cert_file FOLDER/"),
    ],
)  # fmt: skip
async def test_a_file_that_cannot_be_used_is_named(
    certificates: Certificates, settings: dict[str, str], expected: str
) -> None:
    async with RawServer([OK], tls=certificates.server()) as server:
        error = await error_of(server, **{key: certificates[name] for key, name in settings.items()})
    before, _, after = expected.replace("FOLDER", str(certificates.folder)).partition(".*")
    assert before in error
    assert after in error


@pytest.mark.parametrize(
    ("endpoint", "advice"),
    [
        ({"path_style": False, "bucket_name": "a.b"}, 'does not cover a bucket\'s name with dots: use path style, '
                                                      'calling_format = "OrdinaryCallingFormat" in [destination-raw]'),
        ({"path_style": False, "host": "b.s3.test"}, '(use path style, calling_format = "OrdinaryCallingFormat"'),
        ({"host": "other.test"}, "set host in [destination-raw] to a name in its certificate"),
        ({"host": "127.0.0.1"}, "set host in [destination-raw] to a name in its certificate"),
    ],
)  # fmt: skip
async def test_a_certificate_for_another_name_gets_the_advice_that_helps(
    certificates: Certificates, endpoint: dict[str, Any], advice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def everything_is_here(host: str, port: int) -> list[Any]:
        return socket.getaddrinfo("127.0.0.1", port, type=socket.SOCK_STREAM)

    monkeypatch.setattr("s3s3.tasks._resolve", everything_is_here)
    async with RawServer([OK], tls=certificates.server("*.s3.test", "s3.test")) as server:
        ca_file = certificates["ca.pem"]
        assert await content_of(server, host="s3.test", path_style=False, ca_file=ca_file) == b"x"
        error = await error_of(server, **{"host": "s3.test", "ca_file": ca_file, **endpoint})
        assert "is not trusted" in error
        assert advice in error
        if "." in endpoint.get("bucket_name", ""):
            assert await content_of(server, host="s3.test", bucket_name="a.b", ca_file=ca_file) == b"x"


async def test_boto3_and_what_is_made_from_it_keep_to_the_settings(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "A")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "B")
    answer = respond(response(200, b"<ListAllMyBucketsResult/>", content_type="application/xml"))
    async with RawServer([answer], tls=certificates.server(asks_client=True)) as server:
        files = {
            "ca_file": certificates["ca.pem"],
            "client_cert_file": certificates["cert.pem"],
            "client_key_file": certificates["key.pem"],
        }
        resource = create_resource({"host": "127.0.0.1", "port": server.port, **files, "read_timeout": 5})
        await asyncio.to_thread(list, resource.buckets.all())
        found = endpoint_from_client(resource.meta.client, "bucket", "source")
        assert {name: getattr(found, name) for name in files} == files
        assert found.read_timeout_s == 5
        url = f"https://127.0.0.1:{server.port}"
        queue_settings = SqsSettings(f"{url}/1/q", "eu-west-1", url, files["ca_file"], True, *list(files.values())[1:])
        for settings in (queue_settings, replace(queue_settings, ca_file=None, verify_tls=False)):
            queue, before = connect(settings), len(server.requests)
            with suppress(Exception):  # the response is not one of SQS
                await asyncio.to_thread(queue.receive_message, QueueUrl=f"{url}/1/q")
            assert len(server.requests) > before
    unverified = create_resource({"host": "h", "verify_tls": False})
    assert endpoint_from_client(unverified.meta.client, "bucket", "source").verify_tls is False


def test_files_are_relative_to_the_configuration_and_reported_if_they_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "s3s3.toml"
    path.write_text(SOUND + 'ca_file = "ca.pem"\n')
    (tmp_path / "ca.pem").touch()
    assert config.load(path, environ={}).routes[0].destinations[0].ca_file == str(tmp_path / "ca.pem")
    (problem,) = problems_in(SOUND + 'ca_file = "gone.pem"\n')
    assert problem.startswith("s3s3.toml:9: [destination] ca_file: cannot read ")
    assert problem.endswith(": No such file or directory")
    (problem,) = problems_in(SOUND + 'client_key_file = "s3s3.toml"\n')
    assert "given without client_cert_file" in problem


def test_verify_tls_false_is_warned_of() -> None:
    lines = 'verify_tls = false\n[sqs]\nurl = "https://sqs.example.org/1/q"\nverify_tls = false\n'
    warnings = config.config_warnings(loaded(SOUND + lines))
    assert [warning.partition(" has ")[0] for warning in warnings] == ["[destination]", "[sqs]"]
    assert "set ca_file instead" in warnings[0]
    assert not config.config_warnings(loaded(SOUND))


async def test_the_store_without_tls_settings_is_used_as_before(certificates: Certificates) -> None:
    async with RawServer([OK]) as server, Store(server.endpoint(ca_file=certificates["ca.pem"])) as store:
        assert (await store.fetch("key", 10))[1] == b"x"
