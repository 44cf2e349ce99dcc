"""The proxy injects and counts faults, and otherwise changes nothing."""

from __future__ import annotations

import hashlib
import http.client
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tests.faults.kinds import (  # fmt: skip
    ERROR_IN_200,
    SLOW_DOWN,
    Bandwidth,
    Cut,
    Fault,
    Flip,
    HalfOpen,
    Hang,
    Latency,
    Reset,
    ResetAll,
    Respond,
    Truncated,
    getting,
    putting,
)
from tests.faults.lies import (  # fmt: skip
    HTML,
    MAINTENANCE,
    PAGE,
    PAGE_IN_CHUNKS,
    PAGE_WITH_ETAG,
    UNAVAILABLE_IN,
    UNKNOWN_ENCODING,
    Drip,
    ForeignEncoding,
    IndexGhost,
    Maintenance,
    Page,
    TwoLengths,
    WrongLength,
    error_in,
)
from tests.faults.messages import Part, Towards
from tests.faults.proxy import Proxy
from tests.integration.commands import eventually

CONTENT = bytes(range(256)) * 1024


class Echo(BaseHTTPRequestHandler):
    """Answers a GET with CONTENT (/chunked: in chunks), a PUT with the MD5 of what came."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self.send_response(200)
        if self.path == "/chunked":
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for start in range(0, len(CONTENT), 10_000):
                chunk = CONTENT[start : start + 10_000]
                self.wfile.write(b"%X\r\n%b\r\n" % (len(chunk), chunk))
            self.wfile.write(b"0\r\n\r\n")
        else:
            self.send_header("Content-Length", str(len(CONTENT)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(CONTENT)

    do_HEAD = do_GET  # noqa: N815

    def do_DELETE(self) -> None:
        self.send_response(204)
        self.end_headers()

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        digest = hashlib.md5(body).hexdigest().encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(digest)))
        self.end_headers()
        self.wfile.write(digest)


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # type: ignore[method-assign]
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    with Proxy(server.server_address[1]) as proxy:
        yield proxy
    server.shutdown()
    server.server_close()


class Client:
    """One connection through the proxy."""

    def __init__(self, proxy: Proxy, timeout_s: float = 10) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=timeout_s)

    def ask(self, method: str, path: str = "/", body: bytes | None = None) -> tuple[int, bytes]:
        answer = self.answer(method, path, body)
        return answer.status, answer.read()

    def answer(self, method: str, path: str = "/", body: bytes | None = None) -> http.client.HTTPResponse:
        self._connection.request(method, path, body)
        return self._connection.getresponse()


def md5(content: bytes) -> bytes:
    return hashlib.md5(content).hexdigest().encode()


def bits_that_differ(one: bytes, other: bytes) -> int:
    return sum((a ^ b).bit_count() if hasattr(int, "bit_count") else bin(a ^ b).count("1")
               for a, b in zip(one, other, strict=True))  # fmt: skip


@pytest.mark.parametrize("path", ["/", "/chunked"])
def test_without_a_fault_everything_passes_unchanged_on_one_connection(proxy: Proxy, path: str) -> None:
    client = Client(proxy)
    for _ in range(2):
        assert client.ask("GET", path) == (200, CONTENT)
        assert client.ask("HEAD") == (200, b"")
        assert client.ask("PUT", body=CONTENT) == (200, md5(CONTENT))
    assert len(proxy.links) == 1
    assert proxy.requests == {"GET": 2, "HEAD": 2, "PUT": 2}
    assert not proxy.injected


@pytest.mark.parametrize("path", ["/", "/chunked"])
def test_one_bit_of_an_answer_is_flipped_and_its_length_is_not(proxy: Proxy, path: str) -> None:
    client = Client(proxy)
    with proxy.injecting(Flip(of=getting)):
        assert bits_that_differ(client.ask("GET", path)[1], CONTENT) == 1
        assert client.ask("PUT", body=b"x") == (200, md5(b"x"))
        assert client.ask("HEAD") == (200, b"")
    assert proxy.injected == {"Flip": 1}
    assert client.ask("GET", path) == (200, CONTENT)


def test_a_bit_of_a_request_s_body_is_flipped(proxy: Proxy) -> None:
    client = Client(proxy)
    with proxy.injecting(Flip(Towards.SERVER, of=putting)):
        status, digest = client.ask("PUT", body=b"\0")
        assert (status, digest) != (200, md5(b"\0"))
        assert digest in {md5(bytes([1 << bit])) for bit in range(8)}
        client.ask("PUT", body=b"")  # has nothing to flip
    assert proxy.injected == {"Flip": 1}


@pytest.mark.parametrize("path", ["/", "/chunked"])
def test_a_truncated_answer_looks_complete(proxy: Proxy, path: str) -> None:
    client = Client(proxy)
    with proxy.injecting(Truncated(kept_bytes=20_001)):
        assert client.ask("GET", path) == (200, CONTENT[:20_001])
    assert client.ask("GET", path) == (200, CONTENT), "and the connection goes on"
    assert proxy.injected == {"Truncated": 1}


def test_a_truncated_request_looks_complete(proxy: Proxy) -> None:
    with proxy.injecting(Truncated(Towards.SERVER, kept_bytes=100)):
        assert Client(proxy).ask("PUT", body=CONTENT) == (200, md5(CONTENT[:100]))


def test_a_storm_of_503_hits_a_share_of_the_requests_and_reaches_no_server(proxy: Proxy) -> None:
    client = Client(proxy)
    with proxy.injecting(Respond(SLOW_DOWN, share=0.5)):
        statuses = [client.ask("PUT", body=b"x" * 1000)[0] for _ in range(40)]
    assert 2 < statuses.count(503) < 38
    assert proxy.injected == {"Respond": statuses.count(503)}
    assert set(statuses) == {200, 503}


@pytest.mark.parametrize("reaches", [False, True])
def test_an_error_may_come_with_a_200_whether_or_not_the_server_saw_the_request(proxy: Proxy, reaches: bool) -> None:
    client = Client(proxy)
    with proxy.injecting(Respond(ERROR_IN_200, reaches=reaches)):
        status, body = client.ask("PUT", body=b"x")
        assert status == 200
        assert b"<Code>InternalError</Code>" in body
        assert client.ask("HEAD") == (200, b"")
    assert client.ask("PUT", body=b"x") == (200, md5(b"x"))


@pytest.mark.parametrize("fault", [Reset(), Cut(Towards.SERVER, 1000), Cut(Towards.CLIENT, 1000)])
def test_a_reset_is_a_reset_and_the_next_connection_lives(proxy: Proxy, fault: Fault) -> None:
    with proxy.injecting(fault), pytest.raises(ConnectionResetError):
        Client(proxy).ask("PUT" if fault.fits(_put()) else "GET", body=CONTENT)
    eventually(lambda: proxy.injected[fault.name] == 1, "the proxy has counted the fault")
    assert Client(proxy).ask("GET") == (200, CONTENT)


def _put() -> Any:
    from tests.faults.messages import Message  # noqa: PLC0415

    return Message(Towards.SERVER, "PUT / HTTP/1.1")


def test_a_cut_response_has_the_exact_length_and_may_end_orderly(proxy: Proxy) -> None:
    with proxy.injecting(Cut(Towards.CLIENT, 70_000, with_reset=False)):
        with pytest.raises(http.client.IncompleteRead) as raised:
            Client(proxy).ask("GET")
        assert raised.value.partial == CONTENT[:70_000]


def test_open_connections_are_reset_once(proxy: Proxy) -> None:
    old = Client(proxy)
    old.ask("GET")
    with proxy.injecting(ResetAll()):
        with pytest.raises((ConnectionResetError, http.client.RemoteDisconnected)):
            old.ask("GET")
        assert Client(proxy).ask("GET") == (200, CONTENT)
    assert proxy.injected == {"ResetAll": 1}


def test_a_hanging_connection_continues_when_the_fault_ends(proxy: Proxy) -> None:
    hang = Hang()
    proxy.inject(hang)
    threading.Timer(0.2, proxy.inject).start()
    began_s = time.monotonic()
    assert Client(proxy).ask("GET") == (200, CONTENT)
    assert time.monotonic() - began_s >= 0.2


def test_a_half_open_connection_stays_silent_and_new_ones_work(proxy: Proxy) -> None:
    old = Client(proxy, timeout_s=0.3)
    old.ask("GET")
    with proxy.injecting(HalfOpen()):
        pass
    with pytest.raises(TimeoutError):
        old.ask("GET")
    assert Client(proxy).ask("GET") == (200, CONTENT)
    assert proxy.injected == {"HalfOpen": 1}


def test_latency_and_bandwidth_take_their_time(proxy: Proxy) -> None:
    client = Client(proxy)
    for fault, least_s in ((Latency(late_s=0.1), 0.2), (Bandwidth(bytes_per_s=1 << 20), 0.24)):
        with proxy.injecting(fault):
            began_s = time.monotonic()
            assert client.ask("GET") == (200, CONTENT)
            assert time.monotonic() - began_s >= least_s


# -- lies: what no store said


@pytest.mark.parametrize(
    ("page", "etag", "length"),
    [(PAGE, None, str(len(HTML))), (PAGE_WITH_ETAG, '"66b1f2c0-66"', str(len(HTML))), (PAGE_IN_CHUNKS, None, None)],
    ids=["plain", "with an ETag", "in chunks"],
)
def test_a_page_with_200_answers_every_request_and_reaches_no_server(
    proxy: Proxy, page: bytes, etag: str | None, length: str | None
) -> None:
    client = Client(proxy)
    requests = [("GET", "/k"), ("PUT", "/k"), ("DELETE", "/k"), ("GET", "/b?list-type=2"), ("HEAD", "/k")]
    with proxy.injecting(Page(page)):
        for method, path in requests:
            answer = client.answer(method, path, CONTENT if method == "PUT" else None)
            assert (answer.status, answer.headers["content-type"]) == (200, "text/html")
            assert (answer.headers["etag"], answer.headers["content-length"]) == (etag, length)
            assert answer.read() == (b"" if method == "HEAD" else HTML)
    assert proxy.injected == {"Page": len(requests)}
    assert client.ask("DELETE", "/a%20key") == (204, b"")
    assert proxy.deleted == ["/k", "/a key"]


@pytest.mark.parametrize("encoding", [*UNAVAILABLE_IN, UNKNOWN_ENCODING])
def test_an_error_page_is_in_the_encoding_that_it_announces(proxy: Proxy, encoding: str) -> None:
    with proxy.injecting(ForeignEncoding(answers=(error_in(encoding),))):
        status, body = Client(proxy).ask("GET")
    assert (status, f'encoding="{encoding}"'.encode() in body) == (503, True)
    text = body.decode("ascii" if encoding == UNKNOWN_ENCODING else encoding)
    assert f"<Message>{UNAVAILABLE_IN.get(encoding, 'unavailable')}</Message>" in text
    assert proxy.injected == {"ForeignEncoding": 1}


def test_maintenance_has_many_statuses_and_none_in_the_words_of_s3(proxy: Proxy) -> None:
    client = Client(proxy)
    with proxy.injecting(Maintenance()):
        answers = [client.ask("PUT", body=b"x") for _ in range(300)]
    assert {status for status, _ in answers} == {int(answer.split()[1]) for answer in MAINTENANCE.values()}
    assert not any(b"<Error>" in body for _, body in answers)
    assert proxy.injected == {"Maintenance": 300}
    with proxy.injecting(Maintenance(answers=(MAINTENANCE["307"],))):
        assert client.answer("PUT", body=b"x").headers["location"] == "http://127.0.0.1:1/sorry"


def test_an_index_ghost_is_shown_by_head_and_list_and_has_no_content(proxy: Proxy) -> None:
    client = Client(proxy)
    with proxy.injecting(IndexGhost()):
        assert client.ask("HEAD", "/k") == (200, b"")
        assert client.ask("GET", "/b?list-type=2") == (200, CONTENT)
        status, body = client.ask("GET", "/k")
    assert (status, b"<Code>NoSuchKey</Code>" in body) == (404, True)
    assert proxy.injected == {"IndexGhost": 1}


def test_a_head_drips_by_the_line_and_a_body_by_the_byte_until_the_fault_ends(proxy: Proxy) -> None:
    client = Client(proxy)
    for part, method, least_s in ((Part.HEAD, "HEAD", 0.25), (Part.BODY, "PUT", 1.6)):
        with proxy.injecting(Drip(part, every_s=0.05)):
            began_s = time.monotonic()
            assert client.ask(method, body=b"x" if method == "PUT" else None)[0] == 200
            assert time.monotonic() - began_s >= least_s, f"{part}: five lines; 32 digits"
    proxy.inject(Drip(every_s=0.05))
    threading.Timer(0.2, proxy.inject).start()
    assert client.ask("GET") == (200, CONTENT), "what is left comes when it ends"
    assert proxy.injected == {"Drip": 3}


def test_a_shorter_length_leaves_bytes_on_the_connection_and_a_longer_one_ends_it(proxy: Proxy) -> None:
    with proxy.injecting(WrongLength(by_bytes=-5)), socket.create_connection(("127.0.0.1", proxy.port)) as client:
        client.settimeout(10)
        client.sendall(b"PUT / HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\n\r\nx")
        received = b""
        while not received.endswith(md5(b"x")):
            received += client.recv(1000)
        assert b"\r\ncontent-length: 27\r\n" in received
    with proxy.injecting(WrongLength(by_bytes=5)):
        with pytest.raises(http.client.IncompleteRead) as raised:
            Client(proxy).ask("PUT", body=b"x")
        assert (raised.value.partial, raised.value.expected) == (md5(b"x"), 5)
        assert Client(proxy).ask("HEAD") == (200, b""), "which has no body to be longer"
    assert proxy.injected == {"WrongLength": 2}


def test_two_lengths_contradict_each_other(proxy: Proxy) -> None:
    client = Client(proxy)
    with proxy.injecting(TwoLengths(length_bytes=10)):
        answer = client.answer("GET")
        assert (answer.headers["content-length"], answer.headers["transfer-encoding"]) == ("10", "chunked")
        assert answer.read() == CONTENT, "read as RFC 9112 has it: the chunks count"
        assert client.answer("GET", "/chunked").read() == CONTENT
    assert proxy.injected == {"TwoLengths": 1}
    assert client.ask("GET") == (200, CONTENT), "and the connection goes on"


def test_other_protocols_than_http_pass_too() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening, Proxy(listening.getsockname()[1], http=False) as proxy:
        client = socket.create_connection(("127.0.0.1", proxy.port), timeout=10)
        server, _ = listening.accept()
        server.settimeout(10)
        client.sendall(b"PING\r\n")
        assert server.recv(100) == b"PING\r\n"
        server.sendall(b"+PONG\r\n")
        assert client.recv(100) == b"+PONG\r\n"
        server.shutdown(socket.SHUT_WR)
        assert client.recv(100) == b""
        client.sendall(b"half open still")
        assert server.recv(100) == b"half open still"
        with suppress(OSError):
            client.close()
        server.close()


def test_an_unavailable_server_is_a_reset(proxy: Proxy) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        proxy.target_port = listening.getsockname()[1]
    with pytest.raises((ConnectionResetError, http.client.RemoteDisconnected)):
        Client(proxy).ask("GET")
