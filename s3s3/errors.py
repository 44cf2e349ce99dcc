"""One tree of errors; each says whether trying again can help.

    S3S3Error
    ├── ConfigError              the configuration cannot be used; all problems are listed
    ├── Unavailable              a server could not be reached or asked to be left alone; try again
    │   ├── StoreUnavailable     no connection, a timeout, a 5xx, SlowDown, a short answer, clock skew
    │   ├── RedisUnavailable     the same of Redis
    │   └── SpoolUnavailable     a temporary file could not be written or read
    ├── SpoolTooSmall            an object that must be spooled is larger than spool_bytes
    ├── StoreRefused             a store answered, and the answer is no
    │   ├── NoSuchKey            said by a GET (a HEAD's 404 cannot tell a key from a bucket)
    │   ├── NoSuchBucket
    │   ├── AccessDenied         wrong key or secret, no permission, wrong signature version
    │   ├── TooLarge             more than a single PUT takes
    │   ├── InvalidKey           a key that this store does not take
    │   ├── UpstreamRefused      an HTTP origin answered, and what it answered cannot be copied
    │   └── UrlForbidden         a URL, or a hop of its redirects, that s3s3 is not to ask for
    ├── Damaged                  bytes, length or MD5 differ from what was promised; try again
    ├── LeftBehind               a destination that held up the others; it goes on by itself
    ├── LeaseLost                the job belongs to somebody else now
    │   └── HandedBack           it waited for its turn, and this process is told to stop
    ├── RunUnderWay              another process compares the whole route just now
    ├── RoutePaused              a person holds the whole route
    └── ListingOutOfOrder        a listing whose keys do not ascend: nothing can be compared with it

Libraries' exceptions are translated into these once: in `s3s3.s3` for S3, in
`s3s3.queue.connection` for Redis. Everything above sees only this tree.
"""

from __future__ import annotations

from collections.abc import Sequence


class S3S3Error(Exception):
    """What every error of s3s3 is.

    Attributes:
        retriable: whether the same thing, tried again later, may succeed.
    """

    retriable = False


class ConfigError(S3S3Error):
    """The configuration cannot be used. `problems` has one line for each."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


class Unavailable(S3S3Error):
    """A server that could not be reached, or asked to be left alone for a while."""

    retriable = True


class RedisUnavailable(Unavailable):
    """Redis could not be reached, or refuses work for now (loading, full, failing over)."""


class SpoolUnavailable(Unavailable):
    """A temporary file could not be written or read: the disk is full, the directory is not there."""


class SpoolTooSmall(S3S3Error):
    """An object that must be spooled is larger than all of `spool_bytes`."""


class RedisTooOld(S3S3Error):
    """This Redis lacks commands that the queue needs."""


class StoreError(S3S3Error):
    """Something that happened between s3s3 and a store.

    Attributes:
        store: the endpoint's name in the configuration.
        operation: GET, PUT, POST, HEAD, LIST, DELETE or COPY.
        key: the object concerned, None for a bucket.
        status: the HTTP status, None if there was no answer.
        code: the S3 error code, such as "NoSuchKey"; "" if there was none.
        advice: which setting cures it, or what to do; "" where nothing can be said.
        unanswered: a write was sent, in this attempt or one before it, and nobody knows whether it was, or yet will
            be, carried out.
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
    ) -> None:
        super().__init__(message)
        self.message = message
        self.store = store
        self.operation = operation
        self.key = key
        self.status = status
        self.code = code
        self.advice = advice

    def __str__(self) -> str:
        what = f"{self.store}: " if self.store else ""
        if self.operation:
            what += self.operation
            what += f" of {self.key!r}: " if self.key is not None else ": "
        answer = " ".join(str(part) for part in (self.status, self.code) if part)
        text = f"{what}{answer + ': ' if answer else ''}{self.message}"
        return f"{text} ({self.advice})" if self.advice else text


class StoreUnavailable(StoreError, Unavailable):
    """No connection, a timeout, a 5xx, SlowDown, or an answer that broke off."""


class StoreRefused(StoreError):
    """The store answered, and the answer is no."""


class NoSuchKey(StoreRefused):
    """A GET said that there is no such object."""


class NoSuchBucket(StoreRefused):
    """There is no such bucket. A person may make it, so it is tried again."""

    retriable = True


class AccessDenied(StoreRefused):
    """The store does not accept who asks, or not for this. A person may cure it, so it is tried again."""

    retriable = True


class TooLarge(StoreRefused):
    """The object is larger than a single PUT takes."""


class InvalidKey(StoreRefused):
    """The store does not take such a key."""


class UpstreamRefused(StoreRefused):
    """An HTTP origin answered with a status, or without a header, that leaves nothing to copy.

    Trying again can help where it says so itself: 408, 429 and what begins with 5 (RFC 9110, 15).
    """

    def __init__(self, message: str, *, key: str, status: int) -> None:
        super().__init__(message, operation="GET", key=key, status=status)
        self.retriable = status in (408, 429) or status >= 500


class UrlForbidden(StoreRefused):
    """A URL, or a hop of its redirects, that the configuration does not let s3s3 ask for."""


class IntegrityError(StoreError):
    """Bytes, length or MD5 differ from what was promised. Nothing was made visible by it."""

    retriable = True


class DestinationTooSlow(S3S3Error):
    """A destination held up the others of its job; it gets a job of its own."""

    retriable = True


class LeaseLost(S3S3Error):
    """The job belongs to somebody else now; whoever notices it writes nothing more."""

    retriable = True


class JobReleased(LeaseLost):
    """Nothing was sent: it waited for its turn when this process was told to stop, and others have theirs."""


class RoutePaused(S3S3Error):
    """A person holds the whole route, so nothing of it is copied until it is resumed."""


class ReconcileInProgress(S3S3Error):
    """Another process compares the whole route just now; a second comparison would do the same work."""

    retriable = True


class ListingOutOfOrder(StoreError):
    """A listing whose keys do not ascend in UTF-8 byte order."""
