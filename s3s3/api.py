"""Copy objects and buckets from Python, with boto3's Object and Bucket resources.

    from s3s3 import api
    ceph = api.create_connection({"host": "ceph.example.org", "port": 7480, "is_secure": False,
                                  "aws_access_key_id": "...", "aws_secret_access_key": "..."})
    swift = api.create_connection({...})
    api.upload(ceph.Object("images", "a.fits"), swift.Object("images", "a.fits"))
    api.duplicate_bucket(ceph.Bucket("images"), swift.Bucket("images"))

Copies are verified as by the commands. Neither a configuration file nor Redis is needed. The calling thread may have
a running event loop. Failures are logged as warnings of the logger `s3s3.api`.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from . import s3
from .config import WorkerSettings
from .errors import ConfigError
from .events import DELETIONS_WITHHELD, log_event
from .model import Endpoint, Job, Lane, Outcome, Result, Route
from .monitoring.log import log_fields
from .monitoring.metrics import Metrics
from .reconcile.comparison import ReconcileOptions
from .reconcile.reconciler import reconcile_with_worker
from .reconcile.summary import ReconcileSummary
from .s3.boto3_bridge import endpoint_from_client
from .s3.request import no_check
from .tasks import run_sync
from .transfer.route_stores import opened

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3ServiceResource
    from mypy_boto3_s3.service_resource import Bucket, Object

__all__ = ["create_connection", "duplicate_bucket", "route_of", "upload"]

log = logging.getLogger(__name__)

Item = TypeVar("Item")
Connection: TypeAlias = "S3ServiceResource | Bucket | Mapping[str, Any]"

_ROUTE = "api"

#: Connection arguments about the bucket, which boto3 does not know. They are kept in an attribute of the resource.
_BUCKET_ARGUMENTS = ("bucket_name", "prefix", "verify_md5")
_BUCKET_ATTRIBUTE = "s3s3_bucket"


def create_connection(connection_args: Mapping[str, Any]) -> S3ServiceResource:
    """Return a boto3 S3 resource that works with Ceph and Swift: V2 signatures, path style, no checksum trailers.

    Args:
        connection_args: keys of an endpoint's configuration table: aws_access_key_id, aws_secret_access_key, host,
            port, is_secure, calling_format, signature_version, region. Without host: AWS. Without access key: boto3's
            credential chain. bucket_name, prefix and verify_md5 are kept for `s3s3.client.on_notify`.

    Raises:
        ConfigError: an unknown argument, or a value of a wrong type.
    """
    resource = s3.create_resource(connection_args)
    bucket_args = {name: connection_args[name] for name in _BUCKET_ARGUMENTS if connection_args.get(name) is not None}
    setattr(resource, _BUCKET_ATTRIBUTE, bucket_args)
    return resource


def upload(
    source_key: Object, dest_key: Object | Sequence[Object], verify_md5: bool = False, force: bool = False
) -> bool:
    """Copy one object to one or several destinations, which may have other keys.

    The source is read once. A destination with equal content and metadata is left unchanged.

    Args:
        verify_md5: compare the contents where no MD5 is known.
        force: copy without comparing first.

    Returns:
        Whether every destination now holds the source's content; False if the source object does not exist.

    Raises:
        ConfigError: the list of destinations is empty, or a boto3 client has unsupported settings.
        InvalidCredentials: a boto3 client has no credentials.
        TypeError: an argument is not a boto3 Object.
    """
    named = _with_names(dest_key)
    _check_types("Object", "key", [source_key, *(item for _, item in named)])
    source = _endpoint(source_key, source_key.bucket_name, "source", prefix=source_key.key, verify_md5=verify_md5)
    destinations = [
        _endpoint(item, item.bucket_name, name, prefix=item.key, verify_md5=verify_md5) for name, item in named
    ]
    route = Route(_ROUTE, source, tuple(destinations))
    return copy_one(route, source_key.key, unconditional=force, lane=Lane.BULK)


def duplicate_bucket(source_bucket: Bucket, dest_bucket: Bucket | Sequence[Bucket], verify_md5: bool = False) -> bool:
    """Compare a whole bucket with one or several others; copy what is missing or differs. Nothing is deleted.

    Args:
        verify_md5: compare the contents where no MD5 is known.

    Returns:
        Whether every destination now holds all objects of the source.

    Raises:
        ConfigError: the list of destinations is empty, or a boto3 client has unsupported settings.
        StoreError: the source could not be listed.
        TypeError: an argument is not a boto3 Bucket.
    """
    named = _with_names(dest_bucket)
    _check_types("Bucket", "name", [source_bucket, *(item for _, item in named)])
    source = _endpoint(source_bucket, source_bucket.name, "source", verify_md5=verify_md5)
    destinations = [_endpoint(item, item.name, name, verify_md5=verify_md5) for name, item in named]
    return run_sync(_duplicate(Route(_ROUTE, source, tuple(destinations))))


def copy_one(route: Route, key: str, *, unconditional: bool, lane: Lane = Lane.FRESH) -> bool:
    """Copy one key of a route without a queue; return whether every destination now holds it.

    `unconditional`: without comparing first; in the fresh lane, large objects are compared nevertheless.
    """
    job = Job(key, route.destination_names, lane, unconditional=unconditional)

    async def copy() -> list[Outcome]:
        async with opened(route, default_worker_settings(), Metrics()) as stores:
            return await stores.copier.copy_job(job, job.destinations, no_check, isolate_slow=False)

    outcomes = run_sync(copy())
    for outcome in outcomes:
        if outcome.result is Result.SOURCE_MISSING:
            log.warning("%r: the source has no such object", key, extra=log_fields(route.name, key))
        elif outcome.result is Result.FAILED:
            log.warning("%r: %s", key, outcome.reason, extra=log_fields(route.name, key))
        elif outcome.result is Result.COPIED and outcome.proof is None:
            log.warning("%r: %s: %s", key, outcome.destination, outcome.reason, extra=log_fields(route.name, key))
    return all(outcome.result in (Result.COPIED, Result.SAME) and outcome.proof is not None for outcome in outcomes)


def default_worker_settings() -> WorkerSettings:
    """Return the defaults of [worker]."""
    return WorkerSettings(concurrency=32, max_attempts=8, lease_s=60.0, spool_dir=None, spool_bytes=8 * 1024**3)


async def _duplicate(route: Route) -> bool:
    settings = default_worker_settings()
    async with opened(route, settings, Metrics()) as stores:
        summary = await reconcile_with_worker(
            stores, None, settings, ReconcileOptions(), asyncio.Event(),
            summary=ReconcileSummary(_ROUTE, route.destination_names),
        )  # fmt: skip
    log_incomplete(summary)
    return summary.proven


def log_incomplete(summary: ReconcileSummary) -> None:
    """Log the stores whose listing failed, and where deletions were withheld."""
    for name, error in summary.errors.items():
        log.warning("could not compare %s: %s", name, error)
    for name, reason in summary.deletions_withheld.items():
        log_event(log, DELETIONS_WITHHELD, reason, route=summary.route, destination=name)


def _with_names(items: Item | Sequence[Item]) -> list[tuple[str, Item]]:
    """Return one or several items, each with its name for messages."""
    listed = list(items) if isinstance(items, Sequence) else [items]
    if not listed:
        raise ConfigError(["no destination: the list is empty"])
    return [("destination" if number == 1 else f"destination-{number}", item) for number, item in enumerate(listed, 1)]


def _check_types(kind: str, attribute: str, items: Sequence[object]) -> None:
    """Raise TypeError for an item that is not a boto3 resource of this kind, which has an attribute."""
    for item in items:
        if not hasattr(type(item), attribute):
            raise TypeError(f"expected a boto3 {kind}, such as create_connection(...).{kind}(...), "
                            f"not {type(item).__name__}")  # fmt: skip


def _endpoint(resource: Object | Bucket | S3ServiceResource, bucket_name: str, name: str, **changes: Any) -> Endpoint:
    return dataclasses.replace(endpoint_from_client(resource.meta.client, bucket_name, name), **changes)


def route_of(source: Connection, destinations: Connection | Sequence[Connection]) -> Route:
    """Return the route between connections. Raises ConfigError if one has no bucket, or there is no destination."""
    named: list[tuple[str, Connection]] = _with_names(destinations)
    endpoints = [_connected_endpoint(connection, name) for name, connection in named]
    return Route(_ROUTE, _connected_endpoint(source, "source"), tuple(endpoints))


def _connected_endpoint(connection: Connection, name: str) -> Endpoint:
    if isinstance(connection, Mapping):
        connection = create_connection(connection)
    bucket_args: Mapping[str, Any] = getattr(connection, _BUCKET_ATTRIBUTE, {})
    bucket_name = bucket_args.get("bucket_name") or getattr(connection, "name", None)
    if not bucket_name:
        raise ConfigError([f"{name}: no bucket: add bucket_name to the connection's arguments, or use a boto3 Bucket"])
    changes = {key: value for key, value in bucket_args.items() if key != "bucket_name"}
    return _endpoint(connection, bucket_name, name, **changes)
