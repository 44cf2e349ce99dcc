"""Map S3 error responses and transport failures to s3s3 exceptions.

Only an `<Error>` with a code of `_CODES` is final. Maintenance pages of proxies, ingresses and captive portals come
with any status, so every other response is retriable.
"""

from __future__ import annotations

import errno
import re
import socket
import ssl
import time
from collections.abc import Mapping
from http.client import responses
from typing import NamedTuple
from urllib.parse import quote

from ..errors import (
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
    printable_line,
)
from ..model import Endpoint
from .address import Address
from .objects import http_date_ms
from .transport.connecting import Proxy
from .transport.errors import (
    BodyLengthMismatch,
    ConnectFailed,
    ConnectionLost,
    PrematureResponse,
    ProtocolError,
    ProxyRefused,
    TlsFileInvalid,
    TransportError,
    TransportTimeout,
)
from .xml import RESULT_LIMIT_BYTES, parse, text_of_html

_MAX_MESSAGE_CHARACTERS = 300
_MAX_CODE_CHARACTERS = 60
_MAX_REQUEST_ID_CHARACTERS = 100
#: A body with more tags is not an error of S3, which has about ten elements.
_MAX_ERROR_TAGS = 200

#: S3 error codes ("List of error codes", S3 API reference), and those of Ceph, Swift's s3api and MinIO (XMinio...).
#: A code of a final class must be permanent: the same request would be refused again.
_CODES: tuple[tuple[type[StoreError], str], ...] = (
    (NoSuchKey, "NoSuchKey NoSuchVersion"),
    (NoSuchBucket, "NoSuchBucket InvalidBucketName"),
    (TooLarge, "EntityTooLarge MaxMessageLengthExceeded"),
    (InvalidKey, "KeyTooLongError KeyTooLong InvalidObjectName InvalidURI XMinioInvalidObjectName"),
    (IntegrityError, "BadDigest IncompleteBody XAmzContentSHA256Mismatch"),
    (AccessDenied, "AccessDenied"),
    (InvalidCredentials, "InvalidAccessKeyId SignatureDoesNotMatch ExpiredToken InvalidToken TokenRefreshRequired"),
    (InvalidCredentials, "AccountProblem AllAccessDisabled UserSuspended InvalidSecurity NotSignedUp RequestExpired"),
    (InvalidCredentials, "MissingSecurityHeader MissingAuthenticationToken AuthorizationHeaderMalformed"),
    (StoreUnavailable, "SlowDown RequestTimeout InternalError ServiceUnavailable Busy OperationAborted"),
    (StoreUnavailable, "RequestLimitExceeded ConditionalRequestConflict Throttling ThrottlingException"),
    (StoreUnavailable, "TooManyRequests TooManyRequestsException BandwidthLimitExceeded"),
    (StoreUnavailable, "RequestTimeTooSkewed"),  # until the clock is corrected, and no key is dead-lettered for it
    (StoreRefused, "InvalidObjectState NotImplemented MethodNotAllowed InvalidArgument InvalidRequest InvalidRange"),
    (StoreRefused, "MetadataTooLarge RequestHeaderSectionTooLarge EntityTooSmall InvalidPart InvalidPartOrder"),
    (StoreRefused, "InvalidDigest InvalidStorageClass InvalidTag MalformedXML MalformedACLError UnexpectedContent"),
    (StoreRefused, "UnsupportedArgument InvalidEncryptionAlgorithmError AccessControlListNotSupported"),
    (StoreRefused, "PreconditionFailed BucketAlreadyExists BucketAlreadyOwnedByYou BucketNotEmpty"),
    (StoreRefused, "XMinioObjectExistsAsDirectory XMinioParentIsObject"),
)

_KINDS = {code: kind for kind, codes in _CODES for code in codes.split()}

#: For an `<Error>` with another code.
_STATUSES_OF_S3: dict[int, type[StoreError]] = {
    401: InvalidCredentials,
    403: AccessDenied,
    408: StoreUnavailable,
    429: StoreUnavailable,
    501: StoreRefused,
}

#: For a response that S3 does not word (RFC 9110 15 and RFC 6585 5).
_STATUSES: dict[int, type[StoreError]] = {
    408: StoreUnavailable,
    413: RequestTooLarge,
    414: RequestTooLarge,
    429: StoreUnavailable,
    431: RequestTooLarge,
    501: UnexpectedResponse,
    505: UnexpectedResponse,
    511: UnexpectedResponse,
}

#: The certificate is for another host name, or IP address (X509_V_ERR_... in OpenSSL's x509_vfy.h).
_NAME_MISMATCHES = (62, 64)

WRITES = frozenset(("PUT", "POST", "DELETE"))

#: Statuses after which a write may still be carried out: a gateway had no response itself, or a step failed.
INDETERMINATE_STATUSES = frozenset((500, 502, 504))


class ErrorBody(NamedTuple):
    """Code and message of an error response, and the region or endpoint that it points to."""

    code: str = ""
    message: str = ""
    region: str = ""
    endpoint: str = ""


def error_for_response(
    endpoint: Endpoint, operation: str, key: str | None, *, status: int, headers: Mapping[str, str], body: bytes,
    proxy: Proxy | None = None,
) -> StoreError:  # fmt: skip
    """Return the error for a response. `body` is its first RESULT_LIMIT_BYTES."""
    error_body = _parse_error(body)
    kind = InvalidCredentials if _requires_v4(endpoint, error_body) else _kind(operation, status, error_body.code)
    message = error_body.message
    if error_body.code in ("", "NotFound") and status == 404:
        message = message or "not found; the store does not report whether the bucket or the key is missing"
    advice = _advice(endpoint, status, headers, error_body, kind)
    if status == 407 and proxy is not None:
        advice = _login_advice(proxy)
    error = kind(
        readable(message, endpoint) or responses.get(status, "no reason given"),
        store=endpoint.name,
        operation=operation,
        key=key,
        status=status,
        code=readable(error_body.code, endpoint)[:_MAX_CODE_CHARACTERS],
        advice=advice,
        request_id=readable(headers.get("x-amz-request-id", ""), endpoint)[:_MAX_REQUEST_ID_CHARACTERS],
    )
    error.indeterminate = operation in WRITES and status in INDETERMINATE_STATUSES
    return error


def _kind(operation: str, status: int, code: str) -> type[StoreError]:
    if code:
        kind = _KINDS.get(code) or _STATUSES_OF_S3.get(status)
    elif status == 403 and operation == "HEAD":  # the store's own response has no body either
        kind = AccessDenied
    else:
        kind = _STATUSES.get(status)
    return kind or (StoreUnavailable if status >= 500 or status == 200 else UnexpectedResponse)


def error_for_failure(
    endpoint: Endpoint, address: Address, operation: str, key: str | None, error: TransportError,
    proxy: Proxy | None = None,
) -> StoreError:  # fmt: skip
    """Return the error for a request that got no complete response."""
    if isinstance(error, BodyLengthMismatch):
        return IntegrityError(str(error), store=endpoint.name, operation=operation, key=key)
    if isinstance(error, ConnectFailed):
        message, advice = _connect_failure(endpoint, address, error.__cause__, proxy)
    else:
        message, advice = _failure(endpoint, address, operation, error)
    message = readable(message, endpoint)
    store_error = StoreUnavailable(message, store=endpoint.name, operation=operation, key=key, advice=advice)
    store_error.indeterminate = operation in WRITES and error.sent
    return store_error


def not_from_store(endpoint: Endpoint, operation: str, key: str | None, message: str) -> UnexpectedResponse:
    """Return the error for a success without evidence that an S3 store sent it, or without an effect."""
    advice = advice_for_pages(endpoint)
    message = readable(message, endpoint)
    return UnexpectedResponse(message, store=endpoint.name, operation=operation, key=key, status=200, advice=advice)


def advice_for_pages(endpoint: Endpoint) -> str:
    """Return what to do about a response without evidence that an S3 store sent it."""
    return _ADVICE_FOR_PAGES.format(table=endpoint.table, address=_ADDRESS)


#: What a message shows of a page, such as a proxy's: its title and first words.
MAX_PAGE_CHARACTERS = 160

#: A longer title is not recognized where the heading repeats it.
MAX_TITLE_WORDS = 20


def _parse_error(body: bytes) -> ErrorBody:
    """Read S3's XML, else the text of another body, such as a proxy's HTML."""
    # The codes are ASCII, so they can be read in most encodings.
    text = body[:RESULT_LIMIT_BYTES].decode("utf-8", "replace").strip()
    if text.startswith("<") and text.count("<") <= _MAX_ERROR_TAGS:
        try:
            root = parse(text)
        except UnexpectedResponse:
            pass
        else:
            found = {child.tag: (child.text or "").strip() for child in root}
            if root.tag == "Error" and "Code" in found:
                return ErrorBody(*(found.get(name, "") for name in ("Code", "Message", "Region", "Endpoint")))
    words = text_of_html(text).split()
    half = next(
        (n for n in range(min(len(words) // 2, MAX_TITLE_WORDS), 0, -1) if words[:n] == words[n : 2 * n]), 0
    )  # title and heading
    message = " ".join(words[half:])
    if text.startswith("<"):
        shown = message if len(message) <= MAX_PAGE_CHARACTERS else f"{message[:MAX_PAGE_CHARACTERS]}..."
        message = shown and f'a page with the text "{shown}"'
    return ErrorBody(message=message)


def readable(text: str, endpoint: Endpoint) -> str:
    """Return text of a store for a message: one printable line of limited length, without signatures and secrets.

    Some error pages repeat the request, or a part of it. `endpoint` has the credentials that are in use.
    """
    text = " ".join(text.split())[:_MAX_SEARCHED_CHARACTERS].replace("\\/", "/")  # as JSON may write a slash
    for secret in (endpoint.secret_access_key, endpoint.session_token):
        if secret:
            plain = secret.get_secret_value()
            for form in {plain, quote(plain, safe=""), quote(plain)}:
                text = _without(text, form)
    for pattern, shown in _SIGNATURES:
        text = pattern.sub(shown, text)
    return printable_line(text[:_MAX_MESSAGE_CHARACTERS])


#: A signature by its name, and by its form: base64 of 20 bytes (V2, also percent-encoded) and 64 hex digits (V4).
_SIGNATURES = (
    (re.compile(r"(?i)(signature(?:provided)?\W{1,3})[A-Za-z0-9+/=%]{16,}"), r"\1***"),
    (re.compile(r"AWS ([^\s:]+):[A-Za-z0-9+/=]+"), r"AWS \1:***"),
    (re.compile(r"(?:[A-Za-z0-9+/]|%2[BbFf]){27,80}(?:=|%3[Dd])"), "***"),
    (re.compile(r"[0-9a-f]{64,}"), "***"),
)
#: More of a text is not searched, as the patterns take longer than proportional time.
_MAX_SEARCHED_CHARACTERS = 4000
#: How much of the start of a secret is replaced, where a page cuts it off.
_SECRET_START_CHARACTERS = 12


def _without(text: str, secret: str) -> str:
    """Return a text with `***` for each occurrence of a secret, or of its start."""
    start, at = secret[:_SECRET_START_CHARACTERS], 0
    while start and (at := text.find(start, at)) >= 0:
        end = at + len(start)
        while end < len(text) and end - at < len(secret) and text[end] == secret[end - at]:
            end += 1
        text = f"{text[:at]}***{text[end:]}"
        at += 3
    return text


def _requires_v4(endpoint: Endpoint, error_body: ErrorBody) -> bool:
    """Return whether V2 signatures are not accepted: AWS names V4 in its message, `rclone serve s3` has a code."""
    refused = "AWS4-HMAC-SHA256" in error_body.message or error_body.code == "UnsupportedAlgorithm"
    return refused and endpoint.signature_version == "s3"


def _address_advice(endpoint: Endpoint, status: int, headers: Mapping[str, str], error_body: ErrorBody) -> str:
    """Return what to do about a redirect, or about a server that expects HTTPS at this port; else ""."""
    table = endpoint.table
    if not endpoint.is_secure and not error_body.code and status in (400, 426) and _NAMES_TLS(error_body.message):
        return f"the store speaks HTTPS there: set is_secure = true in {table}"
    if not 300 <= status < 400:
        return ""
    location = readable(error_body.endpoint or headers.get("location", ""), endpoint)
    to_https = not endpoint.is_secure and location.lower().startswith("https://")
    if to_https and re.match(rf"https://{re.escape(endpoint.host or '')}(?=[:/]|$)", location, re.IGNORECASE):
        return f"the store redirects to {location}: set is_secure = true in {table}, and port if it differs"
    advice = f"set host or region in {table}{', and is_secure = true' if to_https else ''}"
    return f"the store redirects{f' to {location}' if location else ''}: {advice}"


_NAMES_TLS = re.compile(r"\b(https|ssl|tls)\b", re.IGNORECASE).search


def _advice(
    endpoint: Endpoint, status: int, headers: Mapping[str, str], error_body: ErrorBody, kind: type[StoreError]
) -> str:
    table, bucket = endpoint.table, endpoint.bucket_name
    region = readable(headers.get("x-amz-bucket-region") or error_body.region, endpoint)
    if _requires_v4(endpoint, error_body):
        return f'the store requires V4 signatures: set signature_version = "s3v4" in {table}'
    if region and region != endpoint.region:
        return f'the bucket is in another region: set region = "{region}" in {table}'
    if advice := _address_advice(endpoint, status, headers, error_body):
        return advice
    if error_body.code == "RequestTimeTooSkewed":
        skew = "and the store's differ too much"
        if (store_ms := http_date_ms(headers.get("date", ""))) is not None:
            ahead_s = round(time.time() - store_ms / 1000)
            skew = f"is {abs(ahead_s)} s {'ahead of' if ahead_s > 0 else 'behind'} the store's"
        return f"this machine's clock {skew}: correct it (NTP)"
    subject = error_body.code or ("AccessDenied" if kind is AccessDenied else str(status))
    default = _ADVICE_FOR_PAGES if kind is UnexpectedResponse and not error_body.code else ""
    is_maybe_https = status == 400 and not endpoint.is_secure  # the response to a HEAD has no page
    address = "host, port and is_secure" if is_maybe_https else _ADDRESS
    advice = _ADVICE.get(subject, default).format(table=table, bucket=bucket, address=address)
    if error_body.code == "SignatureDoesNotMatch" and endpoint.signature_version == "s3v4":
        return f"{advice}; if they are right, region"  # which is not part of a V2 signature
    return advice


#: The settings to check of a store that is not the right one.
_ADDRESS = "host and port"

_ADVICE_FOR_PAGES = "this is not a response of S3: check {address} in {table}, and the proxies in front of it"

_ADVICE = {
    "InvalidAccessKeyId": "check aws_access_key_id in {table}",
    "SignatureDoesNotMatch": "check aws_secret_access_key and aws_access_key_id in {table}",
    "ExpiredToken": "the session token in {table} has expired",
    "InvalidToken": "check the session token in {table}",
    "AccessDenied": "the owner of bucket {bucket!r} must permit this to the access key in {table}",
    "NoSuchBucket": "check bucket_name in {table}, or create the bucket {bucket!r}",
    "QuotaExceeded": "the quota of bucket {bucket!r} or its owner is used up",
    "NotImplemented": "the store does not support this; check storage_class, acl, copy_tags and "
    "server_side_encryption in {table}",
    "501": "the store does not support this; check storage_class, acl, copy_tags and server_side_encryption in {table}",
    "413": "a proxy in front of the store limits the size of objects: raise its limit (nginx: client_max_body_size)",
    "414": "a proxy in front of the store limits the length of keys: raise its limit (nginx: "
    "large_client_header_buffers)",
    "431": "a proxy in front of the store limits the size of metadata: raise its limit (nginx: "
    "large_client_header_buffers)",
    "InvalidArgument": "if copy_acl is set in {table}: this store may not know an account that the source's ACL names",
    "InvalidStorageClass": "check storage_class in {table}",
    "InvalidObjectState": "the object is archived: restore it first",
}


def _failure(endpoint: Endpoint, address: Address, operation: str, error: TransportError) -> tuple[str, str]:
    """Return message and advice."""
    cause, table = error.__cause__, endpoint.table
    if isinstance(error, ProtocolError):
        return f"{address} does not speak correct HTTP: {error}", f"check host, port and is_secure in {table}"
    if isinstance(error, PrematureResponse):
        return f"{address} reported success before it had the whole body", ""
    if isinstance(error, TransportTimeout):
        setting = {"LIST": "list_timeout", "GET": "read_timeout", "HEAD": "read_timeout"}.get(operation)
        advice = f"if it needs more time, raise {setting} in {table}" if setting else ""
        return f"{address} did not answer in time: {error}", advice
    assert isinstance(error, ConnectionLost)
    advice = "" if endpoint.is_secure or error.reused else f"if it speaks HTTPS there, set is_secure = true in {table}"
    event = "closed" if cause is None else f"lost ({cause})"
    return f"the connection to {address} was {event} before the response was complete", advice


def _connect_failure(
    endpoint: Endpoint, address: Address, cause: BaseException | None, proxy: Proxy | None
) -> tuple[str, str]:
    table = endpoint.table
    if isinstance(cause, TlsFileInvalid):
        return str(cause), f"correct {cause.setting} in {table}"
    if isinstance(cause, ssl.SSLCertVerificationError):
        message = f"the certificate of {address} is not trusted: {cause.verify_message}"
        return message, _certificate_advice(endpoint, cause)
    is_tls_closed = isinstance(cause, ConnectionError) and not isinstance(cause, ConnectionRefusedError)
    if isinstance(cause, ssl.SSLError) or (is_tls_closed and address.is_secure and proxy is None):
        reason = getattr(cause, "reason", None) or str(cause) or "the connection was closed"
        return f"no TLS with {address}: {reason}", f"if it speaks plain HTTP there, set is_secure = false in {table}"
    if proxy is None:
        return _unreachable(str(address), cause, f"check host and port in {table}")
    if isinstance(cause, ProxyRefused):
        advice = _login_advice(proxy) if cause.status == 407 else "permit it there, or add the store to NO_PROXY"
        return f"the proxy {proxy} does not connect to {address}: {cause}", advice
    return _unreachable(f"the proxy {proxy}", cause, f"check {proxy.origin}, or add the store to NO_PROXY")


def _unreachable(place: str, cause: BaseException | None, advice: str) -> tuple[str, str]:
    """Return message and advice for a host that cannot be connected to."""
    if isinstance(cause, socket.gaierror | UnicodeError):
        return f"the name of {place} cannot be resolved", advice
    if isinstance(cause, ConnectionRefusedError):
        return f"nothing listens on {place}", advice
    if isinstance(cause, OSError) and not isinstance(cause, TimeoutError):
        if cause.errno in (errno.EMFILE, errno.ENFILE):
            advice = (
                "raise the limit of open files: LimitNOFILE in systemd, minfds in supervisord, ulimit -n in a shell"
            )
        return f"no connection to {place}: {cause}", advice
    return f"no connection to {place} in time", advice


def _certificate_advice(endpoint: Endpoint, error: ssl.SSLCertVerificationError) -> str:
    table = endpoint.table
    if error.verify_code not in _NAME_MISMATCHES:
        return f"set ca_file in {table} to a file with the certificate of its authority"
    if endpoint.path_style:
        return f"set host in {table} to a name in its certificate"
    reason = "a wildcard certificate does not cover a bucket's name with dots: " if "." in endpoint.bucket_name else ""
    return f'{reason}use path style, calling_format = "OrdinaryCallingFormat" in {table}'


def _login_advice(proxy: Proxy) -> str:
    return f"the proxy requires another login: set {proxy.origin} to http://USER:PASSWORD@{proxy}"
