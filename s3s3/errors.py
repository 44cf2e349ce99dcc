"""Exception hierarchy, with `retriable` for each class.

`*` marks the retriable classes: the same operation may succeed later.

    S3S3Error
    ├── Retriable *                      base of all retriable ones
    │   ├── Unavailable *                a server or disk that does not work now
    │   │   ├── StoreUnavailable *       no connection, timeout, 5xx, SlowDown, incomplete response, clock skew
    │   │   ├── RedisUnavailable *       no connection, timeout, loading, failing over, out of memory
    │   │   │   └── SubscriptionStale *  the connection of a subscription is dead
    │   │   └── SpoolUnavailable *       a temporary file could not be written or read
    │   ├── ChecksumMismatch *           a read with the wrong MD5; the source is read again
    │   ├── DestinationTooSlow *         the destination delayed the others; it gets its own job
    │   ├── LeaseLost *                  the lease expired, or another worker owns the job
    │   │   └── JobReleased *            the process stopped before the job sent anything
    │   └── ReconcileInProgress *        another process reconciles the route
    ├── ConfigError                  invalid configuration; lists all problems
    │   └── RouteConflict            processes with other buckets or another channel share the route's Redis keys
    ├── StoreError                   an operation of a store failed; StoreUnavailable is one, too
    │   ├── StoreRefused             the store returned an error
    │   │   ├── NoSuchKey            a GET returned 404 NoSuchKey; a HEAD has no error code
    │   │   ├── ContentUnreadable *  a GET returned NoSuchKey, but a HEAD finds the object
    │   │   ├── NoSuchBucket *
    │   │   ├── AccessDenied *       no permission, perhaps for this object only
    │   │   │   └── InvalidCredentials *  wrong or expired credentials, wrong signature version
    │   │   ├── UnexpectedResponse * not worded by S3: a redirect, a page of a proxy, an unknown error code
    │   │   ├── RequestTooLarge *    a proxy's limit on the size of a body or of headers
    │   │   ├── TooLarge             larger than a single PUT allows
    │   │   ├── InvalidKey           not a valid key for this store
    │   │   ├── UpstreamRefused      a response of an HTTP origin that cannot be copied; retriable by its status
    │   │   └── UrlForbidden         a URL, or one of its redirects, that the configuration forbids
    │   ├── InternalError *          an unforeseen exception while s3s3 worked with one store
    │   ├── IntegrityError *         bytes, length or MD5 differ from the expected ones
    │   └── ListingOutOfOrder        the keys of a listing do not ascend, so it cannot be compared
    ├── SpoolTooSmall                the object to spool is larger than spool_bytes
    ├── RedisTooOld                  the server is older than Redis 6.2
    ├── RoutePaused                  an operator paused the route
    ├── NotCached                    a download was not stored in the disk cache
    └── SignatureRejected            a presigned URL is not valid

Exceptions of libraries are translated in `s3s3.s3` and `s3s3.queue.redis_calls`; those of the transport are in
`s3s3.s3.transport.errors`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

#: The start of a URL, and its user and password; also percent-encoded, as the redirect mirror's keys are.
_URL = re.compile(r"(?i)(https?(?:://|%3a%2f%2f))((?:(?!%2f|%3f)[^/?#])*(?:@|%40))?")
_QUERY = re.compile(r"(?i)\?|%3f")
_URL_WITH_QUERY = re.compile(r"""(?i)(https?(?:://|%3a%2f%2f)(?:(?!%3f)[^\s?'"<>])*(?:\?|%3f))[^\s'"<>)]+""")


def printable_line(text: str) -> str:
    """Return a text from outside in one line, with U+FFFD for each character that is not printable."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else "\ufffd" for c in " ".join(text.split()))


def shown_key(key: str) -> str:
    """Return a key for messages: one that is a URL without password and query, which may hold a signature."""
    url = _URL.match(key)
    if url is None:
        return key
    rest = key[url.end() :]
    query = _QUERY.search(rest)
    user = "***@" if url[2] else ""
    return f"{url[1]}{user}{rest[: query.end()]}***" if query else f"{url[1]}{user}{rest}"


def without_queries(text: str) -> str:
    """Return a text with `***` for the query of each URL in it."""
    return _URL_WITH_QUERY.sub(r"\1***", text) if "http" in text.lower() else text


class S3S3Error(Exception):
    """Base class. `retriable`: whether the same operation may succeed later."""

    retriable = False


class Retriable(S3S3Error):
    """The same operation may succeed later."""

    retriable = True


class ConfigError(S3S3Error):
    """The configuration is invalid. `problems` has one line for each."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


class RouteConflict(ConfigError):
    """Processes with other buckets or another channel share the route's Redis keys.

    `is_running`: one of them is running now; else only their jobs are left.
    """

    def __init__(self, problems: Sequence[str], *, is_running: bool = True) -> None:
        super().__init__(problems)
        self.is_running = is_running


class Unavailable(Retriable):
    """A server or disk that does not work now."""


class RedisUnavailable(Unavailable):
    """Redis did not respond, or temporarily refuses requests (loading, failing over, out of memory)."""


class SubscriptionStale(RedisUnavailable):
    """The pings sent through a subscription do not return: its connection is dead, or leads to the wrong server."""


class SpoolUnavailable(Unavailable):
    """A temporary file could not be written or read: disk full, or directory missing."""


class SpoolTooSmall(S3S3Error):
    """The object to spool is larger than all of `spool_bytes`."""


class RedisTooOld(S3S3Error):
    """This Redis does not have the commands that the queue needs."""


#: The longest message of an error of a store, which may quote any header of a response.
MAX_MESSAGE_CHARACTERS = 1000


class StoreError(S3S3Error):
    """An operation of a store failed.

    Attributes:
        store: the endpoint's name in the configuration.
        operation: GET, PUT, POST, HEAD, LIST, DELETE or COPY.
        key: None for a bucket.
        status: the HTTP status; None without a response.
        code: the S3 error code, such as "NoSuchKey"; "" for none.
        advice: what to do, or which setting to change; "" if unknown.
        request_id: the store's name for the request, `x-amz-request-id`, for its own log; "" for none.
        indeterminate: a write was sent, in this attempt or an earlier one, and its answer never came: it may have been
            carried out, or still may be.
    """

    indeterminate = False

    def __init__(
        self,
        message: str,
        *,
        store: str = "",
        operation: str = "",
        key: str | None = None,
        status: int | None = None,
        code: str = "",
        advice: str = "",
        request_id: str = "",
    ) -> None:
        message = printable_line(message)[:MAX_MESSAGE_CHARACTERS]
        super().__init__(message)
        self.message = message
        self.store = store
        self.operation = operation
        self.key = key
        self.status = status
        self.code = printable_line(code)
        self.advice = printable_line(advice)
        self.request_id = printable_line(request_id)

    def __str__(self) -> str:
        operation = self.operation
        if operation and self.key is not None:
            operation = f"{operation} of {shown_key(self.key)!r}"
        response = " ".join(str(part) for part in (self.status, self.code) if part)
        text = ": ".join(part for part in (self.store, operation, response, self.message) if part)
        return f"{text} ({self.advice})" if self.advice else text


class StoreUnavailable(StoreError, Unavailable):
    """No connection, a timeout, a 5xx, SlowDown, or an incomplete response."""


class StoreRefused(StoreError):
    """The store returned an error that S3 defines and that repeating the request cannot change.

    The marked subclasses are retriable.
    """


class NoSuchKey(StoreRefused):
    """A GET returned 404 NoSuchKey."""


class ContentUnreadable(StoreRefused, Retriable):
    """A HEAD finds an object for which a GET returned NoSuchKey. Retriable: it may have been created in between."""


class NoSuchBucket(StoreRefused, Retriable):
    """The bucket does not exist. Retriable: an operator can create it."""


class AccessDenied(StoreRefused, Retriable):
    """The store refuses this operation, perhaps for this object only. Retriable: an operator can change that.

    A 403 to a HEAD is one, too: it has no error code.
    """


class InvalidCredentials(AccessDenied):
    """The store refuses the credentials or the signature version, or none are configured."""


class UnexpectedResponse(StoreRefused, Retriable):
    """A response that S3 does not define: a redirect, a page of a proxy or portal, an unknown error code.

    Retriable: it shows no error of the object, but a condition of the store or of what is in front of it.
    """


class RequestTooLarge(StoreRefused, Retriable):
    """A proxy limits the size of bodies, headers or paths. Retriable: an operator can raise the limit."""


class TooLarge(StoreRefused):
    """The object is larger than a single PUT allows."""


class InvalidKey(StoreRefused):
    """The store does not accept such a key."""


class UpstreamRefused(StoreRefused):
    """The status or headers of an HTTP origin's response leave nothing to copy.

    Retriable for the statuses that indicate a temporary failure: 408, 429 and 5xx (RFC 9110, 15).
    """

    def __init__(self, message: str, *, key: str, status: int) -> None:
        super().__init__(message, operation="GET", key=key, status=status)
        self.retriable = status in (408, 429) or status >= 500


class UrlForbidden(StoreRefused):
    """The configuration forbids a URL, or one of its redirects."""


class InternalError(StoreError, Retriable):
    """An exception that s3s3 does not foresee, while it worked with one store; `__cause__` is that exception.

    So it concerns this store only, not the other stores of the job or the reconcile.
    """


class IntegrityError(StoreError, Retriable):
    """Bytes, length or MD5 differ from the expected ones. No object was created or changed."""


class ListingOutOfOrder(StoreError):
    """The keys of a listing do not ascend in UTF-8 byte order."""


class ChecksumMismatch(Retriable):
    """The bytes read do not have the MD5 of the source's ETag or of an earlier read. Retriable: read again."""

    def __init__(self, etag: str, size_bytes: int, md5: bytes) -> None:
        super().__init__(f"the ETag is {etag}, but the MD5 of the bytes read is {md5.hex()}")
        self.etag = etag
        self.size_bytes = size_bytes
        self.md5 = md5


class DestinationTooSlow(Retriable):
    """The destination delayed the others of its job; it gets its own job."""


class LeaseLost(Retriable):
    """The lease expired, or another worker owns the job. Nothing more may be written."""


class JobReleased(LeaseLost):
    """The process stopped while the job waited for a rate limit. Nothing was sent."""


class ReconcileInProgress(Retriable):
    """Another process reconciles the same route; a second reconcile would repeat its work."""


class RoutePaused(S3S3Error):
    """An operator paused the route: nothing is copied until it is resumed."""


class NotCached(S3S3Error):
    """A download was not stored in the cache: no disk space, or the disk failed."""


class SignatureRejected(S3S3Error):
    """A presigned URL does not permit the request. `code` is the S3 error code."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
