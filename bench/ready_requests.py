"""Signed requests prepared for a client that only sends them."""

from __future__ import annotations

import hashlib
import re
from base64 import b64encode
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.cost import PeerFailed
from bench.objects import Copying, content_of
from s3s3.s3.address import RequestTarget
from s3s3.s3.request import encode_key
from s3s3.s3.signing import Credentials, Signer, signer
from s3s3.scripts.demo.servers import HOST

#: Number of different objects; more would only make the sending program larger.
_MAX_OBJECTS = 4000


def _signer(work: Copying) -> Signer:
    endpoint = work.server.endpoint(work.source)
    assert endpoint.access_key_id and endpoint.secret_access_key
    keys = Credentials(endpoint.access_key_id, endpoint.secret_access_key)
    return signer(endpoint.signature_version, keys, endpoint.region)


def _target(bucket: str, key: str) -> RequestTarget:
    path = f"/{bucket}/{encode_key(key)}"
    return RequestTarget(path, path)


def _md5(content: bytes) -> str:
    return b64encode(hashlib.md5(content, usedforsecurity=False).digest()).decode()


def write(path: Path, work: Copying) -> None:
    """Write the GET and PUT of each object in turn, each after a line with its length."""
    with path.open("wb") as file:
        for method, target, headers, content in pairs(work, work.keys[:_MAX_OBJECTS]):
            lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
            if method == "PUT":
                lines += f"content-length: {len(content)}\r\n"
            request = f"{method} {target} HTTP/1.1\r\n{lines}\r\n".encode() + content
            file.write(b"%d\n" % len(request) + request)


def pairs(work: Copying, keys: Sequence[str]) -> Iterator[tuple[str, str, dict[str, str], bytes]]:
    """Yield method, target, headers and content of the GET and the PUT of each object, in turn."""
    sign, content = _signer(work), content_of(work.size_bytes)
    get_headers = {"host": f"{HOST}:{work.port}"}
    put_headers = {**get_headers, "content-md5": _md5(content), "content-type": "application/octet-stream"}
    for key in keys:
        for method, bucket, headers, body in (
            ("GET", work.source, get_headers, b""), ("PUT", work.destinations[0], put_headers, content)
        ):  # fmt: skip
            target = _target(bucket, key)
            yield method, target.path, {**headers, **sign.sign(method, target, headers)}, body


def pairs_in(log: Path) -> int:
    """Return the number of request pairs in wrk's output. Raises PeerFailed if responses were errors."""
    text = log.read_text()
    match = re.search(r"(\d+) requests in", text)
    if match is None or "Non-2xx" in text or "Socket errors" in text:
        raise PeerFailed(f"wrk: {text}")
    return int(match[1]) // 2


def presigned(work: Copying, key: str) -> tuple[str, str, str]:
    """Return a URL to GET an object, a URL to PUT it, and the Content-MD5 of the PUT."""
    sign, md5 = _signer(work), _md5(content_of(work.size_bytes))
    headers = {"host": f"{HOST}:{work.port}"}
    source, destination = _target(work.source, key), _target(work.destinations[0], key)
    base = f"http://{HOST}:{work.port}"
    return (
        f"{base}{source.path}?{sign.presign('GET', source, headers, 3600)}",
        f"{base}{destination.path}?{sign.presign('PUT', destination, {**headers, 'content-md5': md5}, 3600)}",
        md5,
    )
