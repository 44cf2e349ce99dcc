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
import logging
import re
import time
from binascii import b2a_base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import formatdate
from operator import itemgetter
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ..errors import InvalidCredentials
from ..model import Endpoint, Secret
from .address import Query, RequestTarget, encode_query

log = logging.getLogger(__name__)

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

#: How long credentials of files are used before the files are read again, and least time between two readings, in
#: seconds.
FILES_REFRESH_S = 5.0
MIN_REFRESH_S = 0.5

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

    Credentials that were read from files are read again when these change. The chain and the files are read in a
    thread. `load` must be called again at `valid_until_s`, by time.monotonic.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self.valid_until_s = 0.0
        self._name = endpoint.name
        self._table = endpoint.table
        self._credentials: Credentials | None = None
        self._chain: Any = None
        self._lock = asyncio.Lock()
        self._loaded_s = time.monotonic()
        self._is_configured = endpoint.access_key_id is not None
        self._files = CredentialFiles(endpoint)
        if endpoint.access_key_id is not None:
            secret = endpoint.secret_access_key or Secret("")
            self._credentials = Credentials(endpoint.access_key_id, secret, endpoint.session_token)
            self.valid_until_s = self._loaded_s + FILES_REFRESH_S if self._files else float("inf")

    def current(self) -> Credentials | None:
        """Return the credentials, or None if `load` must be called first."""
        return self._credentials if time.monotonic() < self.valid_until_s else None

    def on_refused(self) -> None:
        """Look for other credentials at the next `load`, because a store has refused these."""
        if time.monotonic() - self._loaded_s > MIN_REFRESH_S and self.valid_until_s != float("inf"):
            self.valid_until_s = 0.0

    async def load(self) -> Credentials:
        """Return the credentials. Raises InvalidCredentials if there are none."""
        async with self._lock:
            credentials = self.current()
            if credentials is None:
                if self._is_configured and self._credentials is not None:
                    credentials = await asyncio.to_thread(self._files.read, self._credentials)
                    interval_s = FILES_REFRESH_S
                else:
                    missing = "no credentials are configured, and boto3 finds none"
                    credentials = await asyncio.to_thread(
                        read_botocore_credentials, self._run_chain, self._name, missing=missing, table=self._table
                    )
                    interval_s = REFRESH_S
                self._credentials = credentials
                self._loaded_s = time.monotonic()
                self.valid_until_s = self._loaded_s + interval_s
            return credentials

    def _run_chain(self) -> Any:
        import botocore.session  # noqa: PLC0415  slow, and not needed with configured credentials

        self._chain = self._chain or botocore.session.Session().get_credentials()
        return self._chain


class CredentialFiles:
    """The files that an endpoint's credentials were read from; false if there are none."""

    def __init__(self, endpoint: Endpoint) -> None:
        secret_file = endpoint.secret_access_key.file if endpoint.secret_access_key is not None else ""
        names = {"aws_access_key_id_file": endpoint.access_key_id_file, "aws_secret_access_key_file": secret_file}
        self._files = {setting: name for setting, name in names.items() if name}
        self._table = endpoint.table
        self._problem = ""

    def __bool__(self) -> bool:
        return bool(self._files)

    def read(self, last: Credentials) -> Credentials:
        """Return `last`, or new credentials if the files have changed. A problem is logged, and `last` stays in use."""
        texts: dict[str, str] = {}
        for setting, name in self._files.items():
            try:
                text = re.sub(r"\r?\n\Z", "", Path(name).read_bytes().decode())
                problem = "" if text and text.isprintable() else "it is empty or contains control characters"
            except (OSError, UnicodeDecodeError) as error:
                problem = getattr(error, "strerror", None) or "it is not UTF-8"
            if problem:
                if problem != self._problem:
                    log.warning("%s %s: cannot read the file: %s; the last value stays in use",
                                self._table, setting, problem)  # fmt: skip
                self._problem = problem
                return last
            texts[setting] = text
        self._problem = ""
        access_key_id = texts.get("aws_access_key_id_file", last.access_key_id)
        secret_text = texts.get("aws_secret_access_key_file", last.secret_access_key.get_secret_value())
        if (access_key_id, secret_text) == (last.access_key_id, last.secret_access_key.get_secret_value()):
            return last
        log.info("%s: the access key was read again, because %s has changed", self._table, " or ".join(self._files))
        return Credentials(access_key_id, Secret(secret_text), last.session_token)


def read_botocore_credentials(read: Callable[[], Any], store: str, *, missing: str, table: str = "") -> Credentials:
    """Return the credentials in the botocore object that `read` returns. Raises InvalidCredentials if there are none.

    `missing` is the message of that error.
    """
    from botocore.exceptions import BotoCoreError  # noqa: PLC0415  slow, and not needed with configured credentials

    keys = f"aws_access_key_id and aws_secret_access_key{f' in {table}' if table else ''}"
    advice = f"set {keys}, or boto3's environment or profile"
    try:
        credentials = read()
        frozen = credentials.get_frozen_credentials() if credentials is not None else None
    except Exception as error:  # also a ValueError, for a credential_process that prints no JSON
        reason = str(error) if isinstance(error, BotoCoreError) else f"boto3 cannot read them: {error!r}"
        raise InvalidCredentials(f"no credentials: {reason}", store=store, advice=advice) from error
    if frozen is None or not frozen.access_key:
        raise InvalidCredentials(missing, store=store, advice=advice)
    token = Secret(frozen.token) if frozen.token else None
    return Credentials(frozen.access_key, Secret(frozen.secret_key), token)


class HmacSha1:
    """HMAC-SHA1 with one key (RFC 2104), in two thirds of the time that the hmac module takes for a short text."""

    def __init__(self, key: bytes) -> None:
        key = hashlib.sha1(key, usedforsecurity=False).digest() if len(key) > 64 else key
        self._inner = hashlib.sha1(bytes(byte ^ 0x36 for byte in key.ljust(64, b"\0")), usedforsecurity=False)
        self._outer = hashlib.sha1(bytes(byte ^ 0x5C for byte in key.ljust(64, b"\0")), usedforsecurity=False)

    def digest(self, text: bytes) -> bytes:
        """Return the code of a text (20 bytes)."""
        inner, outer = self._inner.copy(), self._outer.copy()
        inner.update(text)
        outer.update(inner.digest())
        return outer.digest()


class SignerV2:
    """HMAC-SHA1 of method, date, some headers and the resource."""

    def __init__(self, credentials: Credentials) -> None:
        self._access_key_id = credentials.access_key_id
        token = credentials.session_token
        self._token = {} if token is None else {"x-amz-security-token": token.get_secret_value()}
        self._authorization = f"AWS {credentials.access_key_id}:"
        self._hmac = HmacSha1(credentials.secret_access_key.get_secret_value().encode())
        self._date_s = 0
        self._date = ""

    def sign(self, method: str, target: RequestTarget, headers: Mapping[str, str]) -> dict[str, str]:
        """Return the headers Date and Authorization, and that of the session token."""
        now_s = int(time.time())
        if now_s != self._date_s:  # formatted once a second
            self._date_s, self._date = now_s, formatdate(now_s, usegmt=True)
        signature = self._signature(method, target, headers, self._date)
        return {"date": self._date, "authorization": self._authorization + signature, **self._token}

    def presign(
        self, method: str, target: RequestTarget, headers: Mapping[str, str], expires_s: int, now_s: float | None = None
    ) -> str:
        """Return the query string. Requests must have the same `headers` (content-md5, content-type, x-amz-*)."""
        now_s = time.time() if now_s is None else now_s
        signed = {
            "AWSAccessKeyId": self._access_key_id,
            "Signature": self.presigned_signature(method, target, headers, expires_s, now_s),
            "Expires": str(int(now_s + expires_s)),
            **self._token,
        }
        return encode_query([*target.query, *signed.items()])

    def presigned_signature(
        self, method: str, target: RequestTarget, headers: Mapping[str, str], expires_s: int, now_s: float
    ) -> str:
        """Return the signature alone of such a query string."""
        return self._signature(method, target, headers, str(int(now_s + expires_s)))

    def _signature(self, method: str, target: RequestTarget, headers: Mapping[str, str], date: str) -> str:
        if self._token:
            headers = {**headers, **self._token}
        amz_names = [name for name in headers if name.startswith("x-amz-")]
        amz = "".join([f"{name}:{headers[name].strip(_BLANK)}\n" for name in sorted(amz_names)]) if amz_names else ""
        md5, content_type = headers.get("content-md5", ""), headers.get("content-type", "").strip(_BLANK)
        resource = target.resource
        if target.query:
            signed = sorted([pair for pair in target.query if pair[0] in SUBRESOURCES], key=itemgetter(0))
            subresources = "&".join(name if value is None else f"{name}={value}" for name, value in signed)
            resource += f"?{subresources}" if signed else ""
        text = f"{method}\n{md5}\n{content_type}\n{date}\n{amz}{resource}"
        return b2a_base64(self._hmac.digest(text.encode("utf-8", "surrogateescape")), newline=False).decode()


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
            added["x-amz-security-token"] = self._credentials.session_token.get_secret_value()
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
        signed = {
            "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
            "X-Amz-Credential": f"{self._credentials.access_key_id}/{self._scope}",
            "X-Amz-Date": self._timestamp,
            "X-Amz-Expires": str(expires_s),
            "X-Amz-SignedHeaders": names,
        }
        if self._credentials.session_token is not None:
            signed["X-Amz-Security-Token"] = self._credentials.session_token.get_secret_value()
        query = [*target.query, *signed.items()]
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
            key = b"AWS4" + self._credentials.secret_access_key.get_secret_value().encode()
            for part in scope.split("/"):
                key = hmac.digest(key, part.encode(), "sha256")
            self._signing_key = key

    def _signature(self, method: str, path: str, query: str, names: str, canonical_headers: str) -> str:
        request = f"{method}\n{path}\n{query}\n{canonical_headers}\n{names}\n{UNSIGNED_PAYLOAD}"
        digest = hashlib.sha256(request.encode("utf-8", "surrogateescape")).hexdigest()
        text = f"AWS4-HMAC-SHA256\n{self._timestamp}\n{self._scope}\n{digest}"
        return hmac.digest(self._signing_key, text.encode(), "sha256").hex()


Signer = SignerV2 | SignerV4


def signer(version: str, credentials: Credentials, region: str) -> Signer:
    """Return the signer for a `signature_version`: "s3" is V2, "s3v4" is V4."""
    return SignerV4(credentials, region) if version == "s3v4" else SignerV2(credentials)


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
