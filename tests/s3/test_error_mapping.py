"""Responses and failures become errors with advice that names the setting."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from email.utils import formatdate
from pathlib import Path

import pytest

from s3s3.errors import (
    AccessDenied,
    IntegrityError,
    InvalidCredentials,
    InvalidKey,
    NoSuchBucket,
    NoSuchKey,
    RequestTooLarge,
    StoreError,
    StoreRefused,
    StoreUnavailable,
    TooLarge,
    UnexpectedResponse,
)
from s3s3.model import Endpoint, Secret
from s3s3.s3 import Timeouts
from s3s3.s3.error_mapping import error_for_response
from tests.s3.loops import event_loop_policy  # noqa: F401
from tests.s3.raw_server import RawServer, ReceivedRequest, error_response, eventually, respond, response, tls


async def caught_from(raw: bytes, **endpoint: object) -> StoreError:
    async with RawServer([respond(raw)]) as server, server.store(endpoint=endpoint) as store:
        with pytest.raises(StoreError) as caught:
            await store.get("key")
    return caught.value


@pytest.mark.parametrize(
    ("name", "sent", "kept"),
    [("x-amz-request-id", "tx00000a1b-default", "tx00000a1b-default"), ("X-Amz-Request-Id", "A" * 500, "A" * 100),
     ("x-amz-request-id", "a\x1b[2J", "a\ufffd[2J"), ("x-trans-id", "tx1", "")],
)  # fmt: skip
async def test_an_error_has_the_stores_id_of_the_request(name: str, sent: str, kept: str) -> None:
    error = await caught_from(error_response(403, "AccessDenied", **{name: sent}))
    assert error.request_id == kept


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (404, "NoSuchKey", NoSuchKey),
        (404, "NoSuchBucket", NoSuchBucket),
        (400, "InvalidBucketName", NoSuchBucket),
        (403, "AccessDenied", AccessDenied),
        (403, "SomethingNew", AccessDenied),
        (403, "QuotaExceeded", AccessDenied),
        (403, "SignatureDoesNotMatch", InvalidCredentials),
        (403, "InvalidAccessKeyId", InvalidCredentials),
        (400, "ExpiredToken", InvalidCredentials),
        (401, "SomethingNew", InvalidCredentials),
        (403, "RequestTimeTooSkewed", StoreUnavailable),
        (403, "InvalidObjectState", StoreRefused),
        (400, "EntityTooLarge", TooLarge),
        (400, "KeyTooLongError", InvalidKey),
        (400, "InvalidObjectName", InvalidKey),
        (400, "InvalidURI", InvalidKey),
        (400, "BadDigest", IntegrityError),
        (400, "IncompleteBody", IntegrityError),
        (400, "RequestTimeout", StoreUnavailable),
        (400, "InvalidArgument", StoreRefused),
        (400, "MetadataTooLarge", StoreRefused),
        (405, "MethodNotAllowed", StoreRefused),
        (409, "OperationAborted", StoreUnavailable),
        (409, "BucketAlreadyExists", StoreRefused),
        (500, "InternalError", StoreUnavailable),
        (503, "SlowDown", StoreUnavailable),
        (507, "SomethingNew", StoreUnavailable),
        (501, "NotImplemented", StoreRefused),
        # An error code that is not known to be permanent may be about the store.
        (400, "SomethingNew", UnexpectedResponse),
        (409, "SomethingNew", UnexpectedResponse),
        (301, "PermanentRedirect", UnexpectedResponse),
    ],
)
async def test_an_error_that_s3_words_is_mapped_by_its_code(status: int, code: str, kind: type[StoreError]) -> None:
    caught = await caught_from(error_response(status, code))
    assert type(caught) is kind
    assert (caught.status, caught.code, caught.key, caught.operation) == (status, code, "key", "GET")
    assert str(status) in str(caught)


PAGE = b"<html><head><title>Sorry</title></head><body><h1>We are down for maintenance</h1></body></html>"


@pytest.mark.parametrize("body", [b"", PAGE, b"sorry\n"], ids=["no body", "HTML", "text"])
@pytest.mark.parametrize(
    ("status", "kind"),
    [
        *((status, UnexpectedResponse) for status in (206, 301, 302, 304, 307, 308, 400, 401, 403, 404, 405, 411)),
        *((status, UnexpectedResponse) for status in (418, 421, 425, 426, 451, 501, 505, 511)),
        *((status, StoreUnavailable) for status in (408, 429, 500, 502, 503, 504, 507, 520)),
        *((status, RequestTooLarge) for status in (413, 414, 431)),
    ],
)
async def test_a_response_that_s3_does_not_word_is_never_final(
    status: int, kind: type[StoreError], body: bytes
) -> None:
    """Proxies, ingresses and captive portals answer so during maintenance."""
    caught = await caught_from(response(status, body))
    assert type(caught) is kind
    assert caught.retriable
    assert (caught.status, caught.code) == (status, "")


NGINX_PAGE = (
    b"<html>\r\n<head><title>503 Service Temporarily Unavailable</title></head>\r\n<body>\r\n"
    b"<center><h1>503 Service Temporarily Unavailable</h1></center>\r\n<hr><center>nginx</center></body></html>"
)


@pytest.mark.parametrize(
    ("page", "message"),
    [
        (NGINX_PAGE, '503: a page with the text "503 Service Temporarily Unavailable nginx"'),
        (PAGE, '503: a page with the text "Sorry We are down for maintenance"'),
        (b"<html><p>" + b"0123456 89" * 500, f'503: a page with the text "{"0123456 89" * 16}..."'),
        (b"upstream  timed out\n", "503: upstream timed out"),
    ],
    ids=["nginx", "maintenance", "long", "text"],
)
async def test_a_message_has_the_first_words_of_a_page(page: bytes, message: str) -> None:
    assert message in str(await caught_from(response(503, page)))


@pytest.mark.parametrize("code", ["NoSuchKey", "AccessDenied"])
async def test_a_page_that_quotes_an_s3_code_is_not_worded_by_s3(code: str) -> None:
    page = f"<html><body><Error><Code>{code}</Code></Error></body></html>".encode()
    assert type(await caught_from(response(404, page))) is UnexpectedResponse


async def test_a_403_to_head_may_concern_one_object_only() -> None:
    """A response to HEAD has no body, so it has no code."""
    async with RawServer([respond(response(403))]) as server, server.store() as store:
        with pytest.raises(AccessDenied) as caught:
            await store.head("key")
    assert type(caught.value) is AccessDenied


@pytest.mark.parametrize(
    ("raw", "endpoint", "advice"),
    [
        (error_response(403, "SignatureDoesNotMatch"), {}, "check aws_secret_access_key and aws_access_key_id in"),
        (error_response(403, "SignatureDoesNotMatch"), {"signature_version": "s3v4"}, "if they are right, region"),
        (error_response(403, "InvalidAccessKeyId"), {}, "check aws_access_key_id in"),
        (
            error_response(
                400,
                "InvalidRequest",
                "The mechanism you have provided is not supported. Please use AWS4-HMAC-SHA256.",
            ),
            {},
            'set signature_version = "s3v4" in',
        ),
        (
            response(400, b"<Error><Code>AuthorizationHeaderMalformed</Code><Region>eu-west-1</Region></Error>"),
            {"signature_version": "s3v4"},
            'set region = "eu-west-1" in',
        ),
        (response(301, x_amz_bucket_region="eu-west-2"), {}, 'set region = "eu-west-2" in'),
        (
            response(307, location="http://other.example.org/"),
            {},
            "to http://other.example.org/: set host or region in",
        ),
        (
            response(302, location="https://status.example.org/"),
            {},
            "to https://status.example.org/: set host or region in [destination-raw], and is_secure = true",
        ),
        (
            response(301, b"<Error><Code>PermanentRedirect</Code><Endpoint>s3.example.org</Endpoint></Error>"),
            {},
            "to s3.example.org: set host or region in",
        ),
        (error_response(404, "NoSuchBucket"), {}, "create the bucket 'bucket'"),
        (
            error_response(501, "NotImplemented"),
            {},
            "check storage_class, acl, copy_tags and server_side_encryption in",
        ),
        (response(501), {}, "check storage_class, acl, copy_tags and server_side_encryption in"),
        (response(413, b"<html>413 Request Entity Too Large</html>"), {}, "client_max_body_size"),
        (response(431), {}, "large_client_header_buffers"),
        (response(404, b"default backend - 404"), {}, "check host and port in"),
    ],
)
async def test_advice_names_the_setting_and_its_table(raw: bytes, endpoint: dict[str, object], advice: str) -> None:
    caught = await caught_from(raw, **endpoint)
    assert advice in caught.advice
    assert "[destination-raw]" in caught.advice or "bucket_name" in caught.advice or "nginx" in caught.advice


@pytest.mark.parametrize(("offset_s", "expected"), [(-3600, "3600 s ahead of"), (7200, "7200 s behind")])
async def test_clock_skew_is_reported_in_seconds(offset_s: int, expected: str) -> None:
    date = formatdate(time.time() + offset_s, usegmt=True)
    caught = await caught_from(error_response(403, "RequestTimeTooSkewed", date=date))
    assert "this machine's clock is" in caught.advice
    number, words = expected.split(" ", 1)
    skew_s = int(caught.advice.split("clock is ")[1].split(" ")[0])
    assert abs(skew_s - int(number)) <= 2
    assert words in caught.advice


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "Bad Gateway"),
        (b"upstream is  away\n", "upstream is away"),
        (b"<html><head><style>p {}</style></head><body><h1>502</h1><p>a &amp; b</body></html>", "502 a & b"),
        (b"<not xml", "<not xml"),
        (b"\xff\xfe\x00", "\ufffd"),
        (b"x" * 1_000_000, "x" * 300),
        (b"<?xml version='1.0'?><Oops/>", "Bad Gateway"),
        (b'<!DOCTYPE a [<!ENTITY b "boom">]><Error><Code>&b;</Code><Message>m</Message></Error>', "&b; m"),
    ],
)
async def test_the_text_of_a_proxys_error_page_is_reported(body: bytes, message: str) -> None:
    async with RawServer([respond(response(502, body))]) as server, server.store() as store:
        with pytest.raises(StoreUnavailable) as caught:
            await asyncio.wait_for(store.get("key"), 5)
    assert message in caught.value.message
    assert len(caught.value.message) <= 310


async def test_an_entity_bomb_is_not_expanded() -> None:
    levels = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 12))
    bomb = f'<!DOCTYPE a [<!ENTITY l0 "ha">{levels}]><Error><Code>&l11;</Code></Error>'
    started = time.monotonic()
    assert (await caught_from(response(400, bomb.encode()))).code == ""
    assert time.monotonic() - started < 1


async def test_a_404_without_a_code_is_not_a_missing_key() -> None:
    """A proxy's 404 must not delete anything."""
    for raw in (response(404), response(404, b"<html>not found</html>")):
        caught = await caught_from(raw)
        assert type(caught) is UnexpectedResponse


async def test_a_header_that_is_not_utf8_becomes_valid_text() -> None:
    """Redis stores the reason of an open circuit."""
    refused = await caught_from(response(403, x_amz_bucket_region="M\udcfcnchen"))
    assert 'region = "M\ufffdnchen"' in str(refused).encode().decode()


async def test_secrets_and_signatures_are_redacted() -> None:
    async def repeat_everything(received: ReceivedRequest) -> None:
        body = b"you sent " + received.headers["authorization"] + b" with s3cr3t-key and t0ken; Signature=" + b"a" * 64
        received.write(response(400, body))

    for version in ("s3", "s3v4"):
        endpoint = {"signature_version": version, "session_token": Secret("t0ken")}
        async with RawServer([repeat_everything]) as server, server.store(endpoint=endpoint) as store:
            with pytest.raises(StoreRefused) as caught:
                await store.get("key")
            sent = server.requests[0].headers["authorization"].decode()
        signature = sent.rsplit("=", 1)[1] if version == "s3v4" else sent.split(":")[1]
        shown = f"{caught.value} {caught.value!r}"
        assert "you sent" in shown
        assert signature not in shown
        assert "s3cr3t" not in shown
        assert "t0ken" not in shown
        assert "a" * 64 not in shown


async def test_a_message_has_store_operation_and_key() -> None:
    caught = await caught_from(error_response(403, "AccessDenied", "no"))
    assert str(caught).startswith("destination-raw: GET of 'key': 403 AccessDenied: no (")


# no response


async def test_an_unresolvable_name_is_reported_with_host_and_port() -> None:
    async with RawServer([], port=80).store(endpoint={"host": "no-such-host.invalid"}) as store:
        with pytest.raises(StoreUnavailable, match=r"no-such-host.invalid:80 cannot be resolved.*check host"):
            await store.get("key")


async def test_https_works_with_a_trusted_certificate(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with RawServer([respond(response(body=b"x" * 1_000_000))], tls=tls(certificate)) as server:
        async with server.store() as store:
            with pytest.raises(StoreUnavailable, match=r"is not trusted: self.signed certificate.*set ca_file"):
                await store.get("key")
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        async with server.store() as store:
            assert (await store.fetch("key", 2_000_000))[1] == b"x" * 1_000_000
            body = b"y" * 1_000_000
            await store.put("key", body, size_bytes=len(body), md5=b"m" * 16, headers={})

            async def broken() -> AsyncIterator[bytes]:
                yield b"y" * 500_000
                yield b"y" * 500_000
                raise ZeroDivisionError

            with pytest.raises(ZeroDivisionError):
                await store.put("key", broken, size_bytes=len(body), md5=b"m" * 16, headers={})
        assert server.requests[1].body == body
        await eventually(lambda: all(received.is_truncated for received in server.requests[2:]))


@pytest.mark.parametrize("raw", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b""], ids=["responds 400", "no response"])
async def test_https_to_a_plain_port_names_is_secure(raw: bytes) -> None:
    async def answer_plainly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(raw)
        writer.close()

    plain = await asyncio.start_server(answer_plainly, "127.0.0.1", 0)
    server = RawServer([], port=plain.sockets[0].getsockname()[1])
    async with server.store(endpoint={"is_secure": True}) as store:
        with pytest.raises(StoreUnavailable, match="no TLS with") as caught:
            await store.get("key")
        assert "set is_secure = false in [destination-raw]" in caught.value.advice
    plain.close()


async def test_plain_http_to_a_tls_port_names_is_secure(certificate: Path) -> None:
    async with RawServer([respond(response())], tls=tls(certificate)) as server:
        async with server.store(endpoint={"is_secure": False}, timeouts=Timeouts(read_s=2)) as store:
            with pytest.raises(StoreUnavailable) as caught:
                await store.get("key")
        assert "is_secure" in caught.value.advice
        assert "[destination-raw]" in caught.value.advice


@pytest.mark.parametrize(
    "raw", [b"SSH-2.0-OpenSSH_9.2p1\r\n", b"\x15\x03\x01\x00\x02\x02\x46", b"HTTP/2.0 200 OK\r\n\r\n"]
)
async def test_a_server_of_another_protocol_is_reported(raw: bytes) -> None:
    async with RawServer([respond(raw)]) as server, server.store() as store:
        with pytest.raises(StoreUnavailable, match="does not speak correct HTTP") as caught:
            await store.get("key")
        assert "check host, port and is_secure in [destination-raw]" in caught.value.advice


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\ncontent-length: many\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: -5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n folded: x\r\n\r\n",
        b"HTTP/1.1 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\na: " + b"x" * 70_000,
    ],
)
async def test_a_response_without_a_reliable_end_is_an_error(head: bytes) -> None:
    async with RawServer([respond(head)]) as server, server.store() as store:
        with pytest.raises(StoreUnavailable, match="does not speak correct HTTP"):
            await asyncio.wait_for(store.fetch("key", 10), 5)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("InvalidRequest", "The mechanism you have provided is not supported. Please use AWS4-HMAC-SHA256."),
        ("UnsupportedAlgorithm", "Encountered an unsupported algorithm."),
    ],
)
def test_an_error_for_v2_names_the_setting_for_v4(code: str, message: str) -> None:
    body = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()
    endpoint = Endpoint("source", "bucket", signature_version="s3")
    error = error_for_response(endpoint, "LIST", None, status=400, headers={}, body=body)
    assert isinstance(error, InvalidCredentials)
    assert 'signature_version = "s3v4" in [source]' in str(error)


APACHE_PAGE = b"""<!DOCTYPE HTML PUBLIC "-//IETF//DTD HTML 2.0//EN"><html>
<head><title>400 Bad Request</title></head><body>
<h1>Bad Request</h1><p>Your browser sent a request that this server could not understand.<br />
Reason: You're speaking plain HTTP to an SSL-enabled server port.<br /></p></body></html>"""


@pytest.mark.parametrize(
    ("status", "headers", "page"),
    [
        (400, {}, NGINX_PAGE.replace(b"503 Service Temporarily Unavailable", b"400 The plain HTTP request was sent to "
                                     b"HTTPS port")),
        (400, {}, b"Client sent an HTTP request to an HTTPS server.\n"),
        (400, {}, APACHE_PAGE),
        (426, {"upgrade": "TLS/1.0"}, b"TLS is required"),
        (301, {"location": "https://127.0.0.1/bucket/key"}, b""),
    ],
    ids=["nginx", "Go", "Apache", "upgrade", "redirect"],
)  # fmt: skip
async def test_plain_http_at_an_https_port_is_advised_of(status: int, headers: dict[str, str], page: bytes) -> None:
    caught = await caught_from(response(status, page, **headers))
    assert "set is_secure = true in [destination-raw]" in caught.advice


async def test_a_400_without_a_page_may_be_an_https_port() -> None:
    async with RawServer([respond(response(400))]) as server, server.store() as store:
        with pytest.raises(UnexpectedResponse) as caught:
            await store.head("key")
    assert "check host, port and is_secure in" in caught.value.advice
