"""Parse HTTP/1.1 responses, in pieces of any size."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3s3.s3.transport import framing
from s3s3.s3.transport.framing import Body, Chunked, Head, HeadParser, UntilClose, body_of, parse_head


def head(*lines: bytes, status: bytes = b"200 OK", version: bytes = b"1.1") -> Head:
    return parse_head(b"\r\n".join((b"HTTP/" + version + b" " + status, *lines)))


def in_pieces(raw: bytes, sizes: list[int]) -> list[bytes]:
    pieces, at = [], 0
    for size in sizes:
        pieces.append(raw[at : at + size])
        at += size
    return [piece for piece in [*pieces, raw[at:]] if piece]


extensions = st.sampled_from([b"", b";name=value", b" ;a"])
endings = st.sampled_from([b"\r\n", b"trailer: x\r\n\r\n"])
chunks = st.lists(st.tuples(st.binary(min_size=1, max_size=40), extensions), max_size=6)


@given(chunks, endings, st.lists(st.integers(1, 9), max_size=40))
def test_chunks_are_joined_regardless_of_how_they_arrive(
    parts: list[tuple[bytes, bytes]], ending: bytes, sizes: list[int]
) -> None:
    raw = b"".join(b"%x%s\r\n%s\r\n" % (len(part), extension, part) for part, extension in parts) + b"0\r\n" + ending
    body, content = Chunked(), b""
    for piece in in_pieces(raw, sizes):
        assert not body.ended
        content += body.feed(piece)
    assert body.ended
    assert content == b"".join(part for part, _ in parts)


@pytest.mark.parametrize(
    "raw",
    [
        b"x\r\n",
        b"-1\r\n",
        b"\r\n",
        b"0x5\r\n",
        b"f" * 20 + b"\r\n",
        b"0\r\n\r\nmore",
        b"1" * 70_000,
        b"5\nhello\r\n0\r\n\r\n",
        b"5\r\nhello0\r\n\r\n",
        b"5\r\nhello!\r\n0\r\n\r\n",
        b"5 5\r\nhello",
    ],
)
def test_invalid_chunks_are_refused(raw: bytes) -> None:
    with pytest.raises(ValueError):
        Chunked().feed(raw)


@given(st.binary(max_size=50), st.lists(st.integers(1, 9), max_size=10))
def test_a_body_of_known_length_ends_after_it(content: bytes, sizes: list[int]) -> None:
    body = Body(len(content))
    assert b"".join(body.feed(piece) for piece in in_pieces(content, sizes)) == content
    assert body.ended
    with pytest.raises(ValueError, match="more bytes"):
        body.feed(b"x")


def test_a_body_of_unknown_length_ends_with_the_connection() -> None:
    body = UntilClose()
    assert body.feed(b"content") == b"content"
    assert not body.ended
    body.close()
    assert body.ended
    for other in (Body(5), Chunked()):
        other.close()
        assert not other.ended


@pytest.mark.parametrize(
    ("lines", "options", "kind", "ended"),
    [
        ([b"Content-Length: 5"], {}, Body, False),
        ([b"Content-Length: 0"], {}, Body, True),
        ([b"Content-Length: 5", b"content-length: 5"], {}, Body, False),
        ([b"Transfer-Encoding: Chunked"], {}, Chunked, False),
        ([], {}, UntilClose, False),
        ([b"Content-Length: 5"], {"status": b"204 No Content"}, Body, True),
        ([b"Content-Length: 5"], {"status": b"304 Not Modified"}, Body, True),
    ],
)
def test_the_framing_follows_from_the_head(
    lines: list[bytes], options: dict[str, bytes], kind: type[Body | Chunked | UntilClose], ended: bool
) -> None:
    body = body_of(head(*lines, **options), is_head=False)
    assert (type(body), body.ended) == (kind, ended)
    assert body_of(head(*lines, **options), is_head=True).ended


AMBIGUOUS = {
    "both kinds of framing": [b"Content-Length: 10", b"Transfer-Encoding: chunked"],
    "both kinds, equal in effect": [b"Transfer-Encoding: chunked", b"Content-Length: 0"],
    "different lengths": [b"Content-Length: 5", b"Content-Length: 6"],
    "different lengths in a line": [b"Content-Length: 5, 6"],
    "a signed length": [b"Content-Length: +5"],
    "a negative length": [b"Content-Length: -5"],
    "a length in hex": [b"Content-Length: 0x5"],
    "a length with a blank": [b"Content-Length: 1 5"],
    "a length with an underscore": [b"Content-Length: 1_5"],
    "an empty length": [b"Content-Length:"],
    "other digits": ["Content-Length: \u0665".encode()],
    "a superscript": ["Content-Length: \u00b2".encode()],
    "more digits than int accepts": [b"Content-Length: " + b"9" * 5000],
    "chunked and gzip": [b"Transfer-Encoding: chunked, gzip"],
    "gzip and chunked": [b"Transfer-Encoding: gzip, chunked"],
    "chunked twice": [b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"],
    "an unknown coding": [b"Transfer-Encoding: xchunked"],
    "a blank before the colon": [b"Content-Length : 5"],
    "a tab before the colon": [b"Transfer-Encoding\t: chunked"],
    "a vertical tab before the colon": [b"Content-Length\x0b: 5"],
    "a folded line": [b"A: b", b" Content-Length: 5"],
    "a folded line with a tab": [b"A: b", b"\tContent-Length: 5"],
    "a line that ends with LF": [b"A: b\nContent-Length: 5"],
    "a line that ends with CR": [b"A: b\rContent-Length: 5"],
    "a folded encoded word": [b"A: =?utf-8?q?b?=\n Content-Length: 5"],
    "a NUL": [b"A: b\0Content-Length: 5"],
    "no name": [b": 5"],
}


@pytest.mark.parametrize("lines", AMBIGUOUS.values(), ids=AMBIGUOUS.keys())
def test_ambiguous_framing_is_refused(lines: list[bytes]) -> None:
    with pytest.raises(ValueError):
        head(*lines)


def test_encoded_words_that_swift_folds_are_one_value() -> None:
    folded = head(b"x-amz-meta-a: =?UTF-8?B?w7w=?=\n =?utf-8?b?w7w=?=", b"Content-Length: 5")

    assert folded.headers["x-amz-meta-a"] == "=?UTF-8?B?w7w=?= =?utf-8?b?w7w=?="
    assert folded.length == 5


def test_chunks_of_http_1_0_are_refused() -> None:
    with pytest.raises(ValueError):
        head(b"Transfer-Encoding: chunked", version=b"1.0")


@pytest.mark.parametrize(
    "line", [b"HTTP/1.1 2000 OK", b"HTTP/1.1 099 x", b"HTTP/1.1 \xd9\xa2\xd9\xa0\xd9\xa0 OK", b"HTTP/1.11 200 OK",
             b"HTTP/1.1  200 OK", b"HTTP/1.1 999 x", b"HTTP/1.1 20", b"HTTP/2.0 200 OK"],
)  # fmt: skip
def test_an_invalid_status_line_is_refused(line: bytes) -> None:
    with pytest.raises(ValueError):
        parse_head(line)


def test_a_body_after_204_is_not_read_as_the_next_response() -> None:
    assert not head(b"Content-Length: 5", status=b"204 No Content").persistent
    assert head(b"Content-Length: 0", status=b"204 No Content").persistent


@pytest.mark.parametrize(
    ("lines", "length"), [([b"Content-Length: 5"], 5), ([b"Transfer-Encoding: chunked"], None), ([], None)]
)
def test_only_a_valid_content_length_is_the_length(lines: list[bytes], length: int | None) -> None:
    assert head(*lines).length == length


@pytest.mark.parametrize(
    ("lines", "version", "persistent"),
    [
        ([], b"1.1", True),
        ([b"Connection: close"], b"1.1", False),
        ([b"Connection: Close, TE"], b"1.1", False),
        ([b"Connection: Keep-Alive"], b"1.1", True),
        ([], b"1.0", False),
        ([b"Connection: keep-alive"], b"1.0", True),
    ],
)
def test_persistence_follows_from_the_head(lines: list[bytes], version: bytes, persistent: bool) -> None:
    assert head(*lines, version=version).persistent is persistent


def test_header_bytes_are_kept_and_blanks_stripped() -> None:
    parsed = head(b"X-Amz-Meta-A:\t \xff\xfe v\xc3\xbc \t", b"A: 1", b"a: 2", b"Empty:", b"E: a:b")
    assert parsed.headers == {"x-amz-meta-a": "\udcff\udcfe vü", "a": "1, 2", "empty": "", "e": "a:b"}
    assert parsed.status == 200


VALUES = [
    b"5", b"05", b"6\r\nContent-Length: 5", b"close", b"a b", b" a", b"a ", b"\ta", b"a\t", b"a\0b", b"a\nb", b"a\rb",
    b"", b"chunked", "\u00fc".encode(), b"\xff", b"=?UTF-8?B?w7w=?=\n =?utf-8?b?w7w=?=", b"a: b", b"a:  b",
]  # fmt: skip


def parsed(parse: framing.ParseHead, raw: bytes) -> Head | str:
    try:
        return parse(raw)
    except ValueError as error:
        return str(error)


@pytest.mark.parametrize("names", [[b"Content-Length", b"x-amz-meta-a"], [b"ETag", b"Connection"], [b"a", b"A"],
                                   [b"x-a", b"Transfer-Encoding"]])  # fmt: skip
@pytest.mark.parametrize(
    "status_line", [b"HTTP/1.1 200 OK", b"HTTP/1.1 204 No Content", b"HTTP/1.1 200", b"HTTP/1.0 200 OK",
                    b"HTTP/1.1 2000", b"HTTP/1.1 200 \tOK", b"HTTP/1.1 200 a\nb"],
)  # fmt: skip
def test_a_remembered_layout_changes_no_result(names: list[bytes], status_line: bytes) -> None:
    parser = HeadParser()
    for value in VALUES:
        for other in (b"5", b"chunked", value):
            usual = b"HTTP/1.1 200 OK\r\n%s: 5\r\n%s: chunked" % (*names,)
            raw = b"%s\r\n%s: %s\r\n%s: %s" % (status_line, names[0], value, names[1], other)
            for head in (usual, usual, raw, raw[:-1], raw + b" ", raw + b"\r\n" + raw):
                assert parsed(parser.parse, head) == parsed(parse_head, head), head


def test_layouts_are_remembered_up_to_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    parser = HeadParser()
    raws = [b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nx-%d: a" % number for number in range(framing.MAX_LAYOUTS + 1)]
    for raw in raws:
        assert parser.parse(raw) == parser.parse(raw) == parse_head(raw)
    heads = [parse_head(raw) for raw in raws]

    def not_remembered(raw: bytes | bytearray) -> Head:
        raise ValueError(raw)

    monkeypatch.setattr(framing, "parse_head", not_remembered)
    assert [parser.parse(raw) for raw in raws[1:]] == heads[1:]
    with pytest.raises(ValueError):
        parser.parse(raws[0])
