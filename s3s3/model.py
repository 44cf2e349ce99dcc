"""The records that the parts of s3s3 hand to each other. None can be changed, none does any I/O.

Those of which every object has some are named tuples: a frozen dataclass takes four times as long to make.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from fnmatch import translate
from typing import Any, Literal, NamedTuple

SINGLE_PUT_LIMIT_BYTES = 5 * 1024**3
"""The largest object that one PUT takes: 5 GiB, on AWS, Ceph and Swift alike (S3 user guide, "Uploading objects")."""

PART_AT_LEAST_BYTES = 5 * 1024**2
"""The smallest part of a multipart upload, but for the last one: 5 MiB ("Multipart upload limits", same guide)."""

KEY_LIMIT_BYTES = 1024
"""The longest key in UTF-8 bytes (S3 user guide, "Naming objects"); Ceph and Swift refuse 1,025."""


class Secret(str):
    """A string that shows itself in no `repr`; `str` methods give the plain text to whoever needs it."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "Secret('***')"


MINUTES_OF_A_DAY = 24 * 60


@dataclass(frozen=True, slots=True)
class Window:
    """Hours of the day in which a limit holds, in minutes since midnight; they may go past it. `per_s`: the limit."""

    from_minute: int
    to_minute: int
    per_s: float

    def covers(self, minute: int) -> bool:
        """Whether a minute of the day is in it."""
        if self.from_minute < self.to_minute:
            return self.from_minute <= minute < self.to_minute
        return minute >= self.from_minute or minute < self.to_minute


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One bucket (under one prefix) of one store, and how to speak with it.

    `host` None is AWS in `region`; `access_key_id` None is boto3's own credential chain.
    `within` is the configuration's table that its own stands in, where that is not the file itself.
    The fields after `within` matter for destinations only.
    """

    name: str
    bucket_name: str
    host: str | None = None
    port: int | None = None
    is_secure: bool = True
    access_key_id: str | None = None
    secret_access_key: Secret | None = None
    session_token: Secret | None = None
    prefix: str = ""
    path_style: bool = True
    signature_version: Literal["s3", "s3v4"] = "s3"
    region: str = "us-east-1"
    verify_md5: bool = False
    within: str = ""

    storage_class: str | None = None
    acl: str | None = None
    server_side_encryption: str | None = None
    max_requests_per_s: tuple[Window, ...] = ()
    max_bytes_per_s: tuple[Window, ...] = ()
    delete: bool = False
    max_delete: float = 0.1
    server_side_copy: bool = True
    copy_tags: bool = False
    copy_acl: bool = False
    multipart: bool = False
    multipart_threshold_bytes: int = SINGLE_PUT_LIMIT_BYTES

    @property
    def table(self) -> str:
        """The name of its table in the configuration, as messages have it: [routes.raw.source]."""
        return f"[{self.within}.{self.name}]" if self.within else f"[{self.name}]"


@dataclass(frozen=True, slots=True)
class Route:
    """One source and the destinations that are to hold the same objects.

    An object has one name everywhere in s3s3, its key in the source's bucket. Only `s3s3.s3` knows that a
    destination may hold it under another prefix. `include` and `exclude` are globs on the key after the prefix.
    `channel` is where its keys are published; "" where they are not.
    """

    name: str
    source: Endpoint
    destinations: tuple[Endpoint, ...]
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    channel: str = ""

    @property
    def destination_names(self) -> tuple[str, ...]:
        return tuple(destination.name for destination in self.destinations)


@dataclass(frozen=True, slots=True)
class Notification:
    """Something arrived that names a key. It says that the key is worth a look, never what to do.

    Attributes:
        bucket: of the source; None where the notice does not tell, as on a channel.
        noticed_ms: when it was sent, by Redis's clock (Unix time), as a stream's ids tell; None is now.
    """

    key: str
    bucket: str | None = None
    notified_ms: int | None = None


class Entry(NamedTuple):
    """An object as a store describes it, in a listing or an answer's headers. `key` is its name in the source.

    `etag` stands without its quotes; `modified_ms` is Unix time by the store's clock.
    """

    key: str
    size_bytes: int
    etag: str
    modified_ms: int = 0


def md5_of_etag(etag: str) -> str | None:
    """Return the ETag where it looks like an MD5 (32 hex digits), else None: a multipart ETag ends in `-N`.

    Whether it *is* one the answer's encryption header tells: SSE-KMS and SSE-C ETags look alike and are none.
    """
    return etag if len(etag) == 32 and not etag.strip("0123456789abcdef") else None


class Lane(str, Enum):
    """The two waiting lines of the queue."""

    FRESH = "fresh"
    BULK = "bulk"


class Job(NamedTuple):
    """A claimed job: make `destinations` equal to what the source holds under `key` now.

    Attributes:
        entry: id of its stream entry.
        token: proves the claim; a takeover replaces it.
        unseen: a fresh notice, so the copy goes out without a look at the destinations first.
        tries: attempts that failed before, by destination.
        noticed_ms: when the first notice for it came (Redis's clock, Unix time).
        runs: ids of the runs that wait for its outcomes, with a space between.
    """

    key: str
    destinations: tuple[str, ...]
    lane: Lane
    entry: str
    token: str
    unconditional: bool
    attempts: Mapping[str, int]
    notified_ms: int
    trackers: str = ""


class Result(str, Enum):
    """What became of a job at a destination; the words of a report line."""

    SAME = "same"
    COPIED = "copied"
    DELETED = "deleted"
    EXTRANEOUS = "extraneous"
    FAILED = "failed"
    SOURCE_MISSING = "source_missing"
    WOULD_COPY = "would_copy"
    WOULD_DELETE = "would_delete"


class Proof(str, Enum):
    """How equality was established."""

    ETAG = "etag"
    RECORDED_ETAG = "recorded_etag"
    CONTENT = "content"


class Outcome(NamedTuple):
    """What became of one key at one destination.

    Attributes:
        reason: a named reason of the comparison ("missing", "size", ...), or of a failure, in plain words.
        error: set for FAILED only; says whether trying again can help.
        unanswered: a write was sent to the destination whose answer never came.
    """

    destination: str
    key: str
    result: Result
    reason: str = ""
    source_size_bytes: int | None = None
    destination_size_bytes: int | None = None
    source_md5: str | None = None
    destination_md5: str | None = None
    proof: Proof | None = None
    error: Exception | None = None
    indeterminate: bool = False

    @property
    def plain_reason(self) -> str:
        """The reason without the key and the destination: so the same trouble of several objects reads the same."""
        return self.reason.removeprefix(f"{self.destination}: ").replace(repr(self.key), "an object")


def matcher(route: Route) -> Callable[[str], bool]:
    """Return whether a key is one of the route's: under its prefix, included, and not excluded.

    The globs are held against what comes after the prefix; `*` matches `/` too, as S3 knows no folders.
    """
    prefix = route.source.prefix
    included, excluded = _any_of(route.include), _any_of(route.exclude)
    if not (prefix or included or excluded):
        return lambda key: True

    def matches(key: str) -> bool:
        if not key.startswith(prefix):
            return False
        rest = key[len(prefix) :]
        return not ((included and not included(rest)) or (excluded and excluded(rest)))

    return matches


def _any_of(globs: Sequence[str]) -> Callable[[str], object] | None:
    return re.compile("|".join(f"(?:{translate(glob)})" for glob in globs)).match if globs else None


def outcome_fields(route: str, outcome: Outcome) -> dict[str, Any]:
    """Return the fields of a report line, in their fixed order."""
    return {
        "route": route,
        "destination": outcome.destination,
        "key": outcome.key,
        "outcome": outcome.result.value,
        "reason": outcome.reason,
        "source_size_bytes": outcome.source_size_bytes,
        "destination_size_bytes": outcome.destination_size_bytes,
        "source_md5": outcome.source_md5,
        "destination_md5": outcome.destination_md5,
        "proof": outcome.proof.value if outcome.proof else None,
    }
