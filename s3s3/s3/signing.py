"""Signatures of S3 requests: V2 (HMAC-SHA1) and V4 (HMAC-SHA256), as a header and as a presigned query.

V2: "Signing and authenticating REST requests", Amazon S3 user guide, API version 2006-03-01.
V4: "Signature calculations for the Authorization header" and "Using query parameters", same guide.
The tests hold both against botocore's signers.

A signer is made once for a pair of keys and then only hashes. `headers` are those to be signed, with
lower-case names; what a proxy on the way may change (Accept-Encoding, Connection) is added after signing.
Header values come from other stores as raw bytes, so they are hashed as the bytes they came as.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import time
from binascii import b2a_base64
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import formatdate
from typing import NamedTuple, Protocol
from urllib.parse import quote

from ..model import Secret
from .keys import Query, encode_query

# fmt: off
SUBRESOURCES = frozenset((
    "accelerate", "acl", "analytics", "cors", "defaultObjectAcl", "delete", "inventory", "lifecycle", "location",
    "logging", "metrics", "notification", "object-lock", "partNumber", "policy", "replication", "requestPayment",
    "response-cache-control", "response-content-disposition", "response-content-encoding",
    "response-content-language", "response-content-type", "response-expires", "restore", "select", "select-type",
    "storageClass", "tagging", "torrent", "uploadId", "uploads", "versionId", "versioning", "versions", "website",
))
# fmt: on
"""Query names that are part of a V2 signature: those of botocore's HmacV1Auth.QSAOfInterest."""

UNSIGNED_PAYLOAD = "UNSIGNED-PAYLOAD"
_BLANK = " \t"
_BLANKS = re.compile(r"[ \t]+")


@dataclass(frozen=True, slots=True)
class Credentials:
    """An access key, its secret, and the session token of temporary ones."""

    access_key_id: str
    secret_access_key: Secret
    session_token: Secret | None = None


class RequestTarget(NamedTuple):
    """What a request is addressed to.

    Attributes:
        path: as sent, encoded.
        resource: the path with the bucket in it, encoded; differs from `path` in virtual-host style.
        query: not encoded.
    """

    path: str
    resource: str
    query: Query = ()


class Signer(Protocol):
    """What signs requests; V2 and V4 differ in nothing else."""

    def sign(self, method: str, target: RequestTarget, headers: Mapping[str, str]) -> dict[str, str]:
        """Return the headers to add to those given."""

    def presign(
        self, method: str, target: RequestTarget, headers: Mapping[str, str], expires_s: int, now_s: float | None = None
    ) -> str:
        """Return the whole query string of a URL that whoever holds it may use for `expires_s` seconds."""

    def presigned_signature(
        self, method: str, target: RequestTarget, headers: Mapping[str, str], expires_s: int, now_s: float
    ) -> str:
        """Return the signature alone of such a query string."""


def signer(version: str, keys: Credentials, region: str) -> Signer:
    """Return the signer for a `signature_version`: "s3" is V2, "s3v4" is V4."""
    return SignerV4(keys, region) if version == "s3v4" else SignerV2(keys)


class SignerV2:
    """HMAC-SHA1 over method, date, some headers and the resource."""

    def __init__(self, keys: Credentials) -> None:
        self._keys = keys
        self._authorization = f"AWS {keys.access_key_id}:"
        self._hmac = hmac.new(keys.secret_access_key.encode(), digestmod=hashlib.sha1)
        self._date_s = 0
        self._date = ""

    def sign(self, method: str, target: RequestTarget, headers: Mapping[str, str]) -> dict[str, str]:
        """Return the Date and Authorization headers (and the session token's)."""
        now_s = int(time.time())
        if now_s != self._date_s:  # formatted once a second
            self._date_s, self._date = now_s, formatdate(now_s, usegmt=True)
        if self._keys.session_token is None:
            signature = self._signature(method, target, headers, self._date)
            return {"date": self._date, "authorization": self._authorization + signature}
        token = {"x-amz-security-token": str(self._keys.session_token)}
        signature = self._signature(method, target, {**headers, **token}, self._date)
        return {"date": self._date, "authorization": self._authorization + signature, **token}

    def presign(
        self, method: str, target: RequestTarget, headers: Mapping[str, str], expires_s: int, now_s: float | None = None
    ) -> str:
        """Return the query string. `headers` (content-md5, content-type, x-amz-*) must be sent along with it."""
        now_s = time.time() if now_s is None else now_s
        expires = str(int(now_s + expires_s))
        token = self._keys.session_token
        signature = self.presigned_signature(method, target, headers, expires_s, now_s)
        signed: list[tuple[str, str | None]] = [
            ("AWSAccessKeyId", self._keys.access_key_id),
            ("Signature", signature),
            ("Expires", expires),
        ]
        if token is not None:
            signed.append(("x-amz-security-token", str(token)))
        return encode_query([*target.query, *signed])

    def presigned_signature(
        self, method: str, target: RequestTarget, headers: Mapping[str, str], expires_s: int, now_s: float
    ) -> str:
        """Return the signature alone of such a query string."""
        token = self._keys.session_token
        if token is not None:
            headers = {**headers, "x-amz-security-token": str(token)}
        return self._signature(method, target, headers, str(int(now_s + expires_s)))

    def _signature(self, method: str, target: RequestTarget, headers: Mapping[str, str], date: str) -> str:
        names = sorted([name for name in headers if name.startswith("x-amz-")])
        amz = "".join([f"{name}:{headers[name].strip(_BLANK)}\n" for name in names])
        md5, content_type = headers.get("content-md5", ""), headers.get("content-type", "").strip(_BLANK)
        text = f"{method}\n{md5}\n{content_type}\n{date}\n{amz}{_v2_resource(target)}"
        mac = self._hmac.copy()
        mac.update(text.encode("utf-8", "surrogateescape"))
        return b2a_base64(mac.digest(), newline=False).decode()


def _v2_resource(target: RequestTarget) -> str:
    if not target.query:
        return target.resource
    signed = sorted((pair for pair in target.query if pair[0] in SUBRESOURCES), key=lambda pair: pair[0])
    if not signed:
        return target.resource
    return f"{target.resource}?" + "&".join(name if value is None else f"{name}={value}" for name, value in signed)


class SignerV4:
    """HMAC-SHA256 over a canonical request. The body is not hashed: Content-MD5 guards it, and is signed."""

    def __init__(self, keys: Credentials, region: str, service: str = "s3") -> None:
        self._keys = keys
        self._region = region
        self._service = service
        self._second = 0
        self._timestamp = ""
        self._scope = ""
        self._signing_key = b""

    def sign(self, method: str, target: RequestTarget, headers: Mapping[str, str]) -> dict[str, str]:
        """Return x-amz-date, x-amz-content-sha256 and Authorization. `headers` must hold the host."""
        self._tell_time(time.time())
        added = {"x-amz-date": self._timestamp, "x-amz-content-sha256": UNSIGNED_PAYLOAD}
        if self._keys.session_token is not None:
            added["x-amz-security-token"] = str(self._keys.session_token)
        names, canonical_headers = _v4_headers({**headers, **added})
        signature = self._signature(method, target.path, _v4_query(target.query), names, canonical_headers)
        added["authorization"] = (
            f"AWS4-HMAC-SHA256 Credential={self._keys.access_key_id}/{self._scope}, "
            f"SignedHeaders={names}, Signature={signature}"
        )
        return added

    def presign(
        self, method: str, target: RequestTarget, headers: Mapping[str, str], expires_s: int, now_s: float | None = None
    ) -> str:
        """Return the query string. `headers` must hold the host; all of them must be sent along with it."""
        query, signature = self._presigned(method, target, headers, expires_s, time.time() if now_s is None else now_s)
        return f"{encode_query(query)}&X-Amz-Signature={signature}"

    def presigned_signature(
        self, method: str, target: RequestTarget, headers: Mapping[str, str], expires_s: int, now_s: float
    ) -> str:
        """Return the signature alone of such a query string."""
        return self._presigned(method, target, headers, expires_s, now_s)[1]

    def _presigned(
        self, method: str, target: RequestTarget, headers: Mapping[str, str], expires_s: int, now_s: float
    ) -> tuple[Query, str]:
        self._tell_time(now_s)
        names, canonical_headers = _v4_headers(headers)
        signed: list[tuple[str, str | None]] = [
            ("X-Amz-Algorithm", "AWS4-HMAC-SHA256"),
            ("X-Amz-Credential", f"{self._keys.access_key_id}/{self._scope}"),
            ("X-Amz-Date", self._timestamp),
            ("X-Amz-Expires", str(expires_s)),
            ("X-Amz-SignedHeaders", names),
        ]
        if self._keys.session_token is not None:
            signed.append(("X-Amz-Security-Token", str(self._keys.session_token)))
        query = [*target.query, *signed]
        return query, self._signature(method, target.path, _v4_query(query), names, canonical_headers)

    def _tell_time(self, now_s: float) -> None:
        """Set timestamp, scope and the signing key, which is good for a day."""
        if int(now_s) == self._second:
            return
        self._second = int(now_s)
        self._timestamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now_s))
        scope = f"{self._timestamp[:8]}/{self._region}/{self._service}/aws4_request"
        if scope != self._scope:
            self._scope = scope
            key = b"AWS4" + self._keys.secret_access_key.encode()
            for part in scope.split("/"):
                key = hmac.digest(key, part.encode(), "sha256")
            self._signing_key = key

    def _signature(self, method: str, path: str, query: str, names: str, canonical_headers: str) -> str:
        request = f"{method}\n{path}\n{query}\n{canonical_headers}\n{names}\n{UNSIGNED_PAYLOAD}"
        digest = hashlib.sha256(request.encode("utf-8", "surrogateescape")).hexdigest()
        text = f"AWS4-HMAC-SHA256\n{self._timestamp}\n{self._scope}\n{digest}"
        return hmac.digest(self._signing_key, text.encode(), "sha256").hex()


def _v4_headers(headers: Mapping[str, str]) -> tuple[str, str]:
    """Return SignedHeaders and the canonical headers. Runs of blanks count as one (botocore, too, does so)."""
    names = sorted(headers)
    lines = [f"{name}:{_BLANKS.sub(' ', headers[name].strip(_BLANK))}\n" for name in names]
    return ";".join(names), "".join(lines)


def _v4_query(query: Query) -> str:
    if not query:
        return ""
    pairs = sorted((quote(name, safe=""), quote(value or "", safe="")) for name, value in query)
    return "&".join(f"{name}={value}" for name, value in pairs)
