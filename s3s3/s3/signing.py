"""Credentials, and S3 request signatures, versions 2 (HMAC-SHA1) and 4 (HMAC-SHA256), in a header or a URL.

V2: "Signing and authenticating REST requests", Amazon S3 user guide, API version 2006-03-01.
V4: "Signature calculations for the Authorization header" and "Using query parameters", same guide.
The tests compare both with botocore's signers.

A signer is created once for its credentials. `headers` are those to be signed, with lower-case names; headers that
proxies may change (Accept-Encoding, Connection) are added after signing. Header values are surrogateescaped bytes, and
are hashed as these bytes.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import re
import time
from binascii import b2a_base64
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import formatdate
from typing import Any, Protocol
from urllib.parse import quote

from ..errors import AccessDenied
from ..model import Endpoint, Secret
from .address import Query, RequestTarget, encode_query

#: Query names that are part of a V2 signature: those of botocore's HmacV1Auth.QSAOfInterest.
# fmt: off
SUBRESOURCES = frozenset((
    "accelerate", "acl", "analytics", "cors", "defaultObjectAcl", "delete", "inventory", "lifecycle", "location",
    "logging", "metrics", "notification", "object-lock", "partNumber", "policy", "replication", "requestPayment",
    "response-cache-control", "response-content-disposition", "response-content-encoding",
    "response-content-language", "response-content-type", "response-expires", "restore", "select", "select-type",
    "storageClass", "tagging", "torrent", "uploadId", "uploads", "versionId", "versioning", "versions", "website",
))
# fmt: on

#: How long credentials of boto3's chain are used before the chain is asked again, which is cheap unless they expire.
REFRESH_S = 60.0

UNSIGNED_PAYLOAD = "UNSIGNED-PAYLOAD"
_BLANK = " \t"
_BLANKS = re.compile(r"[ \t]+")


@dataclass(frozen=True, slots=True)
class Credentials:
    """An access key, its secret, and the session token of temporary credentials."""

    access_key_id: str
    secret_access_key: Secret
    session_token: Secret | None = None


class CredentialProvider:
    """An endpoint's configured credentials, else those of boto3's chain (environment, profile, instance role).

    The chain runs in a thread when credentials are first needed, because it may send requests of its own.

    Attributes:
        valid_until_s: when `load` must be called again, by time.monotonic.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self.valid_until_s = 0.0
        self._name = endpoint.name
        self._table = endpoint.table
        self._credentials: Credentials | None = None
        self._chain: Any = None
        self._lock = asyncio.Lock()
        if endpoint.access_key_id is not None:
            secret = endpoint.secret_access_key or Secret("")
            self._credentials = Credentials(endpoint.access_key_id, secret, endpoint.session_token)
            self.valid_until_s = float("inf")

    def current(self) -> Credentials | None:
        """Return the credentials, or None if `load` must be called first."""
        return self._credentials if time.monotonic() < self.valid_until_s else None

    async def load(self) -> Credentials:
        """Return the credentials, from the chain if REFRESH_S have passed. Raises AccessDenied if there are none."""
        async with self._lock:
            credentials = self.current()
            if credentials is None:
                credentials = self._credentials = await asyncio.to_thread(self._run_chain)
                self.valid_until_s = time.monotonic() + REFRESH_S
            return credentials

    def _run_chain(self) -> Credentials:
        import botocore.session  # noqa: PLC0415  slow, and not needed with configured credentials
        from botocore.exceptions import BotoCoreError  # noqa: PLC0415

        try:
            if self._chain is None:
                self._chain = botocore.session.Session().get_credentials()
            frozen = self._chain.get_frozen_credentials() if self._chain is not None else None
        except BotoCoreError as error:
            raise self._access_denied(str(error)) from error
        if frozen is None or not frozen.access_key:
            raise self._access_denied("no credentials are configured, and boto3 finds none")
        token = Secret(frozen.token) if frozen.token else None
        return Credentials(frozen.access_key, Secret(frozen.secret_key), token)

    def _access_denied(self, message: str) -> AccessDenied:
        advice = f"set aws_access_key_id and aws_secret_access_key in {self._table}, or boto3's environment or profile"
        return AccessDenied(message, store=self._name, advice=advice)


class Signer(Protocol):
    """Signs requests."""

    def sign(self, method: str, target: RequestTarget, headers: Mapping[str, str]) -> dict[str, str]:
        """Return the headers to add to those given."""

    def presign(
        self, method: str, target: RequestTarget, headers: Mapping[str, str], expires_s: int, now_s: float | None = None
    ) -> str:
        """Return the whole query string of a URL that is valid for `expires_s` seconds."""

    def presigned_signature(
        self, method: str, target: RequestTarget, headers: Mapping[str, str], expires_s: int, now_s: float
    ) -> str:
        """Return only the signature of such a query string."""


def signer(version: str, credentials: Credentials, region: str) -> Signer:
    """Return the signer for a `signature_version`: "s3" is V2, "s3v4" is V4."""
    return SignerV4(credentials, region) if version == "s3v4" else SignerV2(credentials)


class SignerV2:
    """HMAC-SHA1 of method, date, some headers and the resource."""

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials
        self._authorization = f"AWS {credentials.access_key_id}:"
        self._hmac = hmac.new(credentials.secret_access_key.encode(), digestmod=hashlib.sha1)
        self._date_s = 0
        self._date = ""

    def sign(self, method: str, target: RequestTarget, headers: Mapping[str, str]) -> dict[str, str]:
        """Return the headers Date and Authorization, and that of the session token."""
        now_s = int(time.time())
        if now_s != self._date_s:  # formatted once a second
            self._date_s, self._date = now_s, formatdate(now_s, usegmt=True)
        if self._credentials.session_token is None:
            signature = self._signature(method, target, headers, self._date)
            return {"date": self._date, "authorization": self._authorization + signature}
        token = {"x-amz-security-token": str(self._credentials.session_token)}
        signature = self._signature(method, target, {**headers, **token}, self._date)
        return {"date": self._date, "authorization": self._authorization + signature, **token}

    def presign(
        self, method: str, target: RequestTarget, headers: Mapping[str, str], expires_s: int, now_s: float | None = None
    ) -> str:
        """Return the query string. Requests must have the same `headers` (content-md5, content-type, x-amz-*)."""
        now_s = time.time() if now_s is None else now_s
        expires = str(int(now_s + expires_s))
        token = self._credentials.session_token
        signature = self.presigned_signature(method, target, headers, expires_s, now_s)
        signed: list[tuple[str, str | None]] = [
            ("AWSAccessKeyId", self._credentials.access_key_id),
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
        token = self._credentials.session_token
        if token is not None:
            headers = {**headers, "x-amz-security-token": str(token)}
        return self._signature(method, target, headers, str(int(now_s + expires_s)))

    def _signature(self, method: str, target: RequestTarget, headers: Mapping[str, str], date: str) -> str:
        amz = ""
        for name in sorted(headers):
            if name.startswith("x-amz-"):
                amz += f"{name}:{headers[name].strip(_BLANK)}\n"
        md5, content_type = headers.get("content-md5", ""), headers.get("content-type", "").strip(_BLANK)
        resource = _v2_resource(target) if target.query else target.resource
        text = f"{method}\n{md5}\n{content_type}\n{date}\n{amz}{resource}"
        mac = self._hmac.copy()
        mac.update(text.encode("utf-8", "surrogateescape"))
        return b2a_base64(mac.digest(), newline=False).decode()


def _v2_resource(target: RequestTarget) -> str:
    signed = sorted((pair for pair in target.query if pair[0] in SUBRESOURCES), key=lambda pair: pair[0])
    if not signed:
        return target.resource
    return f"{target.resource}?" + "&".join(name if value is None else f"{name}={value}" for name, value in signed)


class SignerV4:
    """HMAC-SHA256 of a canonical request. The body is not hashed: Content-MD5 protects it, and is signed."""

    def __init__(self, credentials: Credentials, region: str, service: str = "s3") -> None:
        self._credentials = credentials
        self._region = region
        self._service = service
        self._second = 0
        self._timestamp = ""
        self._scope = ""
        self._signing_key = b""

    def sign(self, method: str, target: RequestTarget, headers: Mapping[str, str]) -> dict[str, str]:
        """Return x-amz-date, x-amz-content-sha256 and Authorization. `headers` must include the host."""
        self._set_time(time.time())
        added = {"x-amz-date": self._timestamp, "x-amz-content-sha256": UNSIGNED_PAYLOAD}
        if self._credentials.session_token is not None:
            added["x-amz-security-token"] = str(self._credentials.session_token)
        names, canonical_headers = _v4_headers({**headers, **added})
        signature = self._signature(method, target.path, _v4_query(target.query), names, canonical_headers)
        added["authorization"] = (
            f"AWS4-HMAC-SHA256 Credential={self._credentials.access_key_id}/{self._scope}, "
            f"SignedHeaders={names}, Signature={signature}"
        )
        return added

    def presign(
        self, method: str, target: RequestTarget, headers: Mapping[str, str], expires_s: int, now_s: float | None = None
    ) -> str:
        """Return the query string. `headers` must include the host; requests must have all of them."""
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
        self._set_time(now_s)
        names, canonical_headers = _v4_headers(headers)
        signed: list[tuple[str, str | None]] = [
            ("X-Amz-Algorithm", "AWS4-HMAC-SHA256"),
            ("X-Amz-Credential", f"{self._credentials.access_key_id}/{self._scope}"),
            ("X-Amz-Date", self._timestamp),
            ("X-Amz-Expires", str(expires_s)),
            ("X-Amz-SignedHeaders", names),
        ]
        if self._credentials.session_token is not None:
            signed.append(("X-Amz-Security-Token", str(self._credentials.session_token)))
        query = [*target.query, *signed]
        return query, self._signature(method, target.path, _v4_query(query), names, canonical_headers)

    def _set_time(self, now_s: float) -> None:
        """Update timestamp, scope and the signing key, which is valid for a day."""
        if int(now_s) == self._second:
            return
        self._second = int(now_s)
        self._timestamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now_s))
        scope = f"{self._timestamp[:8]}/{self._region}/{self._service}/aws4_request"
        if scope != self._scope:
            self._scope = scope
            key = b"AWS4" + self._credentials.secret_access_key.encode()
            for part in scope.split("/"):
                key = hmac.digest(key, part.encode(), "sha256")
            self._signing_key = key

    def _signature(self, method: str, path: str, query: str, names: str, canonical_headers: str) -> str:
        request = f"{method}\n{path}\n{query}\n{canonical_headers}\n{names}\n{UNSIGNED_PAYLOAD}"
        digest = hashlib.sha256(request.encode("utf-8", "surrogateescape")).hexdigest()
        text = f"AWS4-HMAC-SHA256\n{self._timestamp}\n{self._scope}\n{digest}"
        return hmac.digest(self._signing_key, text.encode(), "sha256").hex()


def _v4_headers(headers: Mapping[str, str]) -> tuple[str, str]:
    """Return SignedHeaders and the canonical headers. Consecutive blanks become one, as in botocore."""
    names = sorted(headers)
    lines = [f"{name}:{_BLANKS.sub(' ', headers[name].strip(_BLANK))}\n" for name in names]
    return ";".join(names), "".join(lines)


def _v4_query(query: Query) -> str:
    if not query:
        return ""
    pairs = sorted((quote(name, safe=""), quote(value or "", safe="")) for name, value in query)
    return "&".join(f"{name}={value}" for name, value in pairs)
