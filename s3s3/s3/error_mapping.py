"""What a store says, or fails to say, as an error of s3s3's tree. The one place where that is decided."""

from __future__ import annotations

import errno
import html
import re
import socket
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import responses
from xml.etree import ElementTree

from ..errors import (
    AccessDenied,
    IntegrityError,
    InvalidKey,
    NoSuchBucket,
    NoSuchKey,
    StoreError,
    StoreRefused,
    StoreUnavailable,
    TooLarge,
)
from ..model import Endpoint
from .address import Address
from .timestamps import http_date_ms
from .transport.errors import (
    BodyLengthMismatch,
    ConnectFailed,
    ConnectionLost,
    PrematureResponse,
    ProtocolError,
    TransportError,
    TransportTimeout,
)

ERROR_BODY_LIMIT_BYTES = 64 * 1024
_SHOWN_CHARACTERS = 300

_CODES: tuple[tuple[type[StoreError], str], ...] = (
    (NoSuchKey, "NoSuchKey NoSuchVersion"),
    (NoSuchBucket, "NoSuchBucket"),
    (TooLarge, "EntityTooLarge MaxMessageLengthExceeded"),
    (InvalidKey, "KeyTooLongError KeyTooLong InvalidObjectName InvalidURI"),
    (IntegrityError, "BadDigest IncompleteBody XAmzContentSHA256Mismatch"),
    (AccessDenied, "AccessDenied InvalidAccessKeyId SignatureDoesNotMatch ExpiredToken"),
    (AccessDenied, "InvalidToken AllAccessDisabled AccountProblem UserSuspended InvalidSecurity NotSignedUp"),
    (StoreUnavailable, "SlowDown RequestTimeout InternalError ServiceUnavailable Busy OperationAborted"),
    (StoreUnavailable, "RequestLimitExceeded ConditionalRequestConflict Throttling ThrottlingException"),
    (StoreUnavailable, "RequestTimeTooSkewed"),  # until the clock is set right, which costs no key a dead letter
    (StoreRefused, "InvalidObjectState NotImplemented MethodNotAllowed"),
)
"""S3 error codes: "List of error codes", S3 API reference; InvalidObjectName and UserSuspended are Ceph's."""

_KINDS = {code: kind for kind, codes in _CODES for code in codes.split()}

_STATUSES: dict[int, type[StoreError]] = {
    401: AccessDenied,
    403: AccessDenied,
    408: StoreUnavailable,
    413: TooLarge,
    429: StoreUnavailable,
    501: StoreRefused,
    505: StoreRefused,
}

WRITES = frozenset(("PUT", "POST", "DELETE"))

MAYBE_DONE = frozenset((500, 502, 504))
"""Answers after which a write may still be carried out: a gateway that got no answer itself, a step that failed."""


@dataclass(frozen=True, slots=True)
class ErrorBody:
    """Code and message of an answer, and the region or endpoint that it points to."""

    code: str = ""
    message: str = ""
    region: str = ""
    endpoint: str = ""


def error_for_response(
    endpoint: Endpoint, operation: str, key: str | None, *, status: int, headers: Mapping[str, str], body: bytes
) -> StoreError:
    """Return the error that an answer amounts to. `body` is its beginning."""
    said = _read(body)
    kind = _KINDS.get(said.code) or _STATUSES.get(status)
    if _wants_v4(endpoint, said):
        kind = AccessDenied
    if kind is None:
        kind = StoreUnavailable if status >= 500 or status == 200 else StoreRefused
    if said.code in ("", "NotFound") and status == 404:
        said = ErrorBody(said.code, said.message or "not found, without a word on whether bucket or key is missing")
    error = kind(
        _without_secrets(said.message, endpoint) or responses.get(status, "no reason given"),
        store=endpoint.name,
        operation=operation,
        key=key,
        status=status,
        code=said.code,
        # Headers are bytes, and what is told of them is to be text that can be logged and kept.
        advice=_advice(endpoint, status, headers, said).encode("utf-8", "surrogateescape").decode("utf-8", "replace"),
    )
    error.indeterminate = operation in WRITES and status in MAYBE_DONE
    return error


def error_for_failure(
    endpoint: Endpoint, address: Address, operation: str, key: str | None, error: TransportError
) -> StoreError:
    """Return the error that an exchange without an answer amounts to."""
    if isinstance(error, BodyLengthMismatch):
        return IntegrityError(str(error), store=endpoint.name, operation=operation, key=key)
    message, advice = _failure(endpoint, address, error)
    failed = StoreUnavailable(message, store=endpoint.name, operation=operation, key=key, advice=advice)
    failed.indeterminate = operation in WRITES and error.sent
    return failed


def etag_in_body(body: bytes) -> str:
    """Return the ETag that a CopyObjectResult or CompleteMultipartUploadResult says, without quotes; "" for none.

    Ceph (16) leaves it empty in the latter.
    """
    found = re.search(rb"<ETag>([^<]*)</ETag>", body)
    return html.unescape(found[1].decode("utf-8", "replace")).strip().strip('"') if found else ""


def read_xml(said: bytes) -> ElementTree.Element:
    """Return the root of an answer, its tags without their namespace. Raises StoreRefused for what is no XML."""
    if b"<!DOCTYPE" in said or b"<!ENTITY" in said:
        raise StoreRefused("an answer that declares entities is not read")
    try:
        root = ElementTree.fromstring(said)
    except ElementTree.ParseError as error:
        raise StoreRefused(f"the answer is no XML: {error}") from error
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
    return root


def _read(body: bytes) -> ErrorBody:
    """Read an error body: S3's XML, or whatever a proxy says."""
    text = body.strip()
    declares = b"<!DOCTYPE" in text.upper() or b"<!ENTITY" in text.upper() or b"\0" in text  # NULs: it may in UTF-16
    if text.startswith(b"<") and not declares:
        try:
            root = ElementTree.fromstring(text)  # without a DOCTYPE there are no entities
        except ElementTree.ParseError:
            pass
        else:
            found = {child.tag.rpartition("}")[2]: (child.text or "").strip() for child in root}
            if "Code" in found:
                return ErrorBody(
                    found["Code"], found.get("Message", ""), found.get("Region", ""), found.get("Endpoint", "")
                )
    plain = re.sub(r"<(script|style)\b.*?</\1>|<[^>]*>", " ", text.decode("utf-8", "replace"), flags=re.S | re.I)
    return ErrorBody(message=" ".join(html.unescape(plain).split())[:_SHOWN_CHARACTERS])


def _without_secrets(text: str, endpoint: Endpoint) -> str:
    """Some error pages repeat the request. Its signature and secret are not for a log."""
    text = re.sub(r"(?i)(signature(?:provided)?\W{1,3})[A-Za-z0-9+/=%]{16,}", r"\1***", text)
    text = re.sub(r"AWS ([^\s:]+):[A-Za-z0-9+/=]+", r"AWS \1:***", text)
    for secret in (endpoint.secret_access_key, endpoint.session_token):
        if secret:
            text = text.replace(str(secret), "***")
    return text[:_SHOWN_CHARACTERS]


def _wants_v4(endpoint: Endpoint, said: ErrorBody) -> bool:
    """Whether a V2 signature was refused for what it is: AWS names V4 in its message, `rclone serve s3` has a code."""
    refused = "AWS4-HMAC-SHA256" in said.message or said.code == "UnsupportedAlgorithm"
    return refused and endpoint.signature_version == "s3"


def _advice(endpoint: Endpoint, status: int, headers: Mapping[str, str], said: ErrorBody) -> str:
    table = endpoint.table
    region = headers.get("x-amz-bucket-region") or said.region
    if _wants_v4(endpoint, said):
        return f'the store takes V4 signatures only: set signature_version = "s3v4" in {table}'
    if region and region != endpoint.region:
        return f'the bucket is in another region: set region = "{region}" in {table}'
    if 300 <= status < 400:
        where = said.endpoint or headers.get("location", "")
        return f"the store sends us elsewhere{f', to {where}' if where else ''}: set host or region in {table}"
    if said.code == "RequestTimeTooSkewed":
        return f"this machine's clock {_skew(headers)}: set it right (NTP)"
    advice = _ADVICE.get(said.code or str(status), "").format(table=table, bucket=endpoint.bucket_name)
    if said.code == "SignatureDoesNotMatch" and endpoint.signature_version == "s3v4":
        return f"{advice}; if they are right, region"  # of which V2 knows nothing
    return advice


_ADVICE = {
    "InvalidAccessKeyId": "check aws_access_key_id in {table}",
    "SignatureDoesNotMatch": "check aws_secret_access_key and aws_access_key_id in {table}",
    "ExpiredToken": "the session token in {table} has expired",
    "InvalidToken": "check the session token in {table}",
    "AccessDenied": "the owner of bucket {bucket!r} must permit this to the access key in {table}",
    "NoSuchBucket": "check bucket_name in {table}, or make the bucket {bucket!r}",
    "QuotaExceeded": "the quota of bucket {bucket!r} or its owner is used up",
    "NotImplemented": "the store does not offer this; check storage_class, acl, copy_tags and "
    "server_side_encryption in {table}",
    "501": "the store does not offer this; check storage_class, acl, copy_tags and server_side_encryption in {table}",
    "InvalidArgument": "if copy_acl is set in {table}: whom the source's ACL names, this store may not know",
    "InvalidStorageClass": "check storage_class in {table}",
    "InvalidObjectState": "the object lies in an archive: restore it first",
}


def _skew(headers: Mapping[str, str]) -> str:
    theirs_ms = http_date_ms(headers.get("date", ""))
    if theirs_ms is None:
        return "and the store's differ too much"
    ahead_s = round(time.time() - theirs_ms / 1000)
    return f"is {abs(ahead_s)} s {'ahead of' if ahead_s > 0 else 'behind'} the store's"


def _failure(endpoint: Endpoint, address: Address, error: TransportError) -> tuple[str, str]:
    cause = error.__cause__
    table = endpoint.table
    if isinstance(error, ConnectFailed):
        return _no_connection(address, cause, table)
    if isinstance(error, ProtocolError):
        return f"{address} does not speak HTTP as it should: {error}", f"check host, port and is_secure in {table}"
    if isinstance(error, PrematureResponse):
        return f"{address} claimed success before it had the whole body", ""
    if isinstance(error, TransportTimeout):
        return f"{address} did not answer in time", ""
    assert isinstance(error, ConnectionLost)
    hint = "" if endpoint.is_secure or error.kept else f"if it speaks HTTPS there, set is_secure = true in {table}"
    how = "closed" if cause is None else f"lost ({cause})"
    return f"the connection to {address} was {how} before the answer was complete", hint


_MORE_DESCRIPTORS = (
    "raise the number of file descriptors: LimitNOFILE in systemd, minfds in supervisord, ulimit -n in a shell"
)


def _no_connection(address: Address, cause: BaseException | None, table: str) -> tuple[str, str]:
    check = f"check host and port in {table}"
    if isinstance(cause, socket.gaierror | UnicodeError):
        return f"the name of {address} cannot be resolved", check
    if isinstance(cause, ConnectionRefusedError):
        return f"nothing listens on {address}", check
    if isinstance(cause, ssl.SSLCertVerificationError):
        why = cause.verify_message
        return f"the certificate of {address} is not trusted: {why}", "SSL_CERT_FILE names a file of trusted ones"
    if isinstance(cause, ssl.SSLError) or (address.is_secure and isinstance(cause, ConnectionError)):
        why = getattr(cause, "reason", None) or str(cause) or "the connection was closed"
        return f"no TLS with {address}: {why}", f"if it speaks plain HTTP there, set is_secure = false in {table}"
    if isinstance(cause, OSError) and not isinstance(cause, TimeoutError):
        is_ours = cause.errno in (errno.EMFILE, errno.ENFILE)
        return f"no connection to {address}: {cause}", _MORE_DESCRIPTORS if is_ours else check
    return f"no connection to {address} in time", check
