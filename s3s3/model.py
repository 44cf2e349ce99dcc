"""Immutable records shared by all packages, and the filter for a route's keys.

Records that exist once per object are named tuples: a frozen dataclass takes four times as long to create.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from fnmatch import translate
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

#: Largest object of a single PUT: 5 GiB, on AWS, Ceph and Swift alike (S3 user guide, "Uploading objects").
SINGLE_PUT_LIMIT_BYTES = 5 * 1024**3

#: Smallest part of a multipart upload, except for the last: 5 MiB (same guide, "Multipart upload limits").
MIN_PART_BYTES = 5 * 1024**2

#: Longest key, in UTF-8 (S3 user guide, "Naming objects"); Ceph and Swift refuse 1,025 bytes.
MAX_KEY_BYTES = 1024

MINUTES_OF_A_DAY = 24 * 60

#: First part of every Redis key, unless `[pubsub] namespace` has another one.
DEFAULT_NAMESPACE = "s3s3"


class Secret:
    """A secret text, hidden in `str`, `repr`, format strings and JSON, and "" where there is none.

    It has the interface of `pydantic.SecretStr`, whose import takes 0.1 s in every process that signs a request.
    `file` is the path of the file that it was read from, "" for none.
    """

    __slots__ = ("_text", "file")

    def __init__(self, text: str, file: str = "") -> None:
        self._text = text
        self.file = file

    def get_secret_value(self) -> str:
        """Return the text."""
        return self._text

    def __repr__(self) -> str:
        return f"Secret({str(self)!r})"

    def __str__(self) -> str:
        return "**********" if self._text else ""

    def __len__(self) -> int:
        return len(self._text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._text == other._text

    def __hash__(self) -> int:
        return hash(self._text)


@dataclass(frozen=True, slots=True)
class Window:
    """A rate limit, `per_s`, for some hours of the day, in minutes after midnight.

    It ends on the next day if `to_minute` is not greater than `from_minute`.
    """

    from_minute: int
    to_minute: int
    per_s: float

    def covers(self, minute: int) -> bool:
        """Return whether the limit applies at this minute of the day."""
        if self.from_minute < self.to_minute:
            return self.from_minute <= minute < self.to_minute
        return minute >= self.from_minute or minute < self.to_minute


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A bucket, or the keys under a prefix of it, and how to access it.

    `host` None: AWS in `region`; a mirror's source has no bucket, and its URL here. `access_key_id` None: boto3's
    credential chain. `access_key_id_file`: the file that it was read from; "" for none. `base_path` is the path of the
    store's URL, encoded, without a slash at its end. A timeout of None is that of `s3s3.s3.Timeouts`. `parent_table`:
    the configuration table that contains its own table; "" for a top-level table. The fields after it are for
    destinations only.
    """

    name: str
    bucket_name: str
    host: str | None = None
    port: int | None = None
    is_secure: bool = True
    access_key_id: str | None = field(default=None, repr=False)  # a secret may be written there by mistake
    secret_access_key: Secret | None = None
    session_token: Secret | None = None
    prefix: str = ""
    path_style: bool = True
    signature_version: Literal["s3", "s3v4"] = "s3"
    region: str = "us-east-1"
    verify_md5: bool = False
    base_path: str = ""
    access_key_id_file: str = ""
    connect_timeout_s: float | None = None
    read_timeout_s: float | None = None
    list_timeout_s: float | None = None
    ca_file: str | None = None
    verify_tls: bool = True
    client_cert_file: str | None = None
    client_key_file: str | None = None
    parent_table: str = ""

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
    checksum: Literal["auto", "client", "store"] = "auto"
    multipart: bool = False
    multipart_threshold_bytes: int = SINGLE_PUT_LIMIT_BYTES

    @property
    def table(self) -> str:
        """The name of its configuration table, for messages: [routes.raw.source]."""
        return f"[{self.parent_table}.{self.name}]" if self.parent_table else f"[{self.name}]"


@dataclass(frozen=True, slots=True)
class Route:
    """One source and the destinations of its copies.

    A key is always the object's name in the source bucket; only `s3s3.s3` maps it to the prefix of a destination.
    `include` and `exclude` are globs on the key without the source's prefix. `channel` is the Redis channel of its
    notifications; "" for none. `namespace` is the first part of its Redis keys.
    """

    name: str
    source: Endpoint
    destinations: tuple[Endpoint, ...]
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    channel: str = ""
    namespace: str = DEFAULT_NAMESPACE

    @property
    def destination_names(self) -> tuple[str, ...]:
        return tuple(destination.name for destination in self.destinations)


@dataclass(frozen=True, slots=True)
class Notification:
    """A key that may have changed at the source. It requests a comparison, never a certain action.

    `bucket` is None if unknown, as for a channel. `notified_ms` is when it was sent (Redis's clock, Unix time); None
    means now.
    """

    key: str
    bucket: str | None = None
    notified_ms: int | None = None


class Entry(NamedTuple):
    """An object in a listing. It has the first four fields of `s3.ObjectInfo`, which also has the headers.

    `key` is its name in the source bucket, `etag` has no quotes, `modified_ms` is Unix time by the store's clock; 0 if
    unknown.
    """

    key: str
    size_bytes: int
    etag: str
    modified_ms: int = 0

    def is_modified_since(self, since_ms: int) -> bool:
        """Return whether it may have been modified since then: an unknown time counts as modified."""
        return self.modified_ms >= since_ms or not self.modified_ms


def md5_of_etag(etag: str) -> str | None:
    """Return the ETag if it looks like an MD5 (32 hex digits), else None. A multipart ETag ends in `-N`.

    The ETag of an object encrypted with SSE-KMS or SSE-C looks alike and is not an MD5: check the response's headers.
    """
    return etag if len(etag) == 32 and not etag.strip("0123456789abcdef") else None


class Lane(str, Enum):
    """The two priority lanes of the queue: notifications, and everything else."""

    FRESH = "fresh"
    BULK = "bulk"


class Job(NamedTuple):
    """A claimed job: make `destinations` equal to what the source holds under `key` now.

    Attributes:
        entry: ID of its stream entry; "" for a job without a queue.
        token: identifies the claim; a takeover replaces it.
        unconditional: copy without comparing first.
        attempts: failed attempts by destination; 0 for a destination whose failures were not counted.
        notified_ms: when it was first notified or enqueued (Redis's clock, Unix time).
        trackers: IDs of the trackers of its outcomes, separated by spaces.
        succeeded: stores at which another key succeeded since this key's last failure; `NAME:write` for a write.
    """

    key: str
    destinations: tuple[str, ...]
    lane: Lane
    entry: str = ""
    token: str = ""
    unconditional: bool = False
    attempts: Mapping[str, int] = MappingProxyType({})
    notified_ms: int = 0
    trackers: str = ""
    succeeded: Collection[str] = ()


class Result(str, Enum):
    """The outcome of a key at a destination, as in a report line."""

    SAME = "same"
    COPIED = "copied"
    DELETED = "deleted"
    EXTRANEOUS = "extraneous"
    FAILED = "failed"
    SOURCE_MISSING = "source_missing"
    WOULD_COPY = "would_copy"
    WOULD_DELETE = "would_delete"


class Proof(str, Enum):
    """How a copy was found to be equal."""

    ETAG = "etag"
    RECORDED_ETAG = "recorded_etag"
    CONTENT = "content"


class Outcome(NamedTuple):
    """The result of copying or comparing one key at one destination.

    `reason` is that of the decision ("missing", "size", ...), or the message of `error`, which is for FAILED only.
    `indeterminate`: a write was sent to the destination and its answer never came.
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
        """The reason without key and destination: the same for every object with this problem."""
        return self.reason.removeprefix(f"{self.destination}: ").replace(repr(self.key), "an object")


def matcher(route: Route) -> Callable[[str], bool]:
    """Return a function that tests whether a key belongs to a route, by prefix, `include` and `exclude`.

    In a glob, `*` matches `/` too: S3 has no folders.
    """
    prefix = route.source.prefix
    included, excluded = _any_of(route.include), _any_of(route.exclude)
    if not (prefix or included or excluded):
        return bool  # true for every key, since none is empty; and the fastest call, for listings

    def matches(key: str) -> bool:
        rest = key[len(prefix) :]
        is_included = key.startswith(prefix) and (included is None or bool(included(rest)))
        return is_included and not (excluded and excluded(rest))

    return matches


def mismatch(route: Route, key: str) -> str:
    """Return why a key does not belong to a route, with the setting of its source; "" if it does, as for `matcher`."""
    if matcher(route)(key):
        return ""
    prefix = route.source.prefix
    if not key.startswith(prefix):
        return f"it does not begin with prefix = {prefix!r}"
    rest = key[len(prefix) :]
    excluding = [glob for glob in route.exclude if (excluded := _any_of([glob])) and excluded(rest)]
    if excluding:
        return f"exclude = {excluding[0]!r} matches {rest!r}"
    return f"no glob of include matches {rest!r}: {', '.join(map(repr, route.include))}"


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
