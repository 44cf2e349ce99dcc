"""Copying from Python, in a script or a notebook, with boto3's own Objects and Buckets.

    from s3s3 import api
    ceph = api.create_connection({"host": "ceph.example.org", "port": 7480, "is_secure": False,
                                  "aws_access_key_id": "...", "aws_secret_access_key": "..."})
    swift = api.create_connection({...})
    api.upload(ceph.Object("images", "a.fits"), swift.Object("images", "a.fits"))
    api.duplicate_bucket(ceph.Bucket("images"), swift.Bucket("images"))

What is copied is verified as the commands do it. No configuration file, no Redis and no event loop is needed; a loop
that runs in the calling thread does not matter. What fails is logged as a warning of the logger `s3s3.api`.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from . import s3
from .config import WorkerSettings
from .errors import ConfigError
from .model import Endpoint, Job, Lane, Outcome, Result, Route
from .monitoring.log import log_fields
from .monitoring.metrics import Metrics
from .reconcile.comparison import ReconcileOptions
from .reconcile.session import reconcile_with_worker
from .reconcile.summary import ReconcileSummary
from .s3.boto3_bridge import endpoint_from_client
from .tasks import run_sync
from .transfer.route_stores import opened

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3ServiceResource
    from mypy_boto3_s3.service_resource import Bucket, Object

__all__ = ["create_connection", "duplicate_bucket", "upload"]

log = logging.getLogger(__name__)

Several = TypeVar("Several")
Connection: TypeAlias = "S3ServiceResource | Bucket | Mapping[str, Any]"

OF_THE_BUCKET = ("bucket_name", "prefix", "verify_md5")
"""Connection arguments that say what is meant in the store, rather than how to speak with it."""

_ROUTE = "api"


def create_connection(connection_args: Mapping[str, Any]) -> S3ServiceResource:
    """Return a boto3 S3 resource for a store, made safe for Ceph, Swift and their like: V2, path style, no trailers.

    Args:
        connection_args: the keys of an endpoint's table in the configuration: aws_access_key_id,
            aws_secret_access_key, host, port, is_secure, calling_format, signature_version, region. No host is AWS, no
            access key boto3's own chain. bucket_name, prefix and verify_md5 are remembered for `s3s3.client.on_notify`.

    Raises:
        ConfigError: an unknown argument, or a value of a wrong type.
    """
    resource = s3.create_resource(connection_args)
    of_the_bucket = {name: connection_args[name] for name in OF_THE_BUCKET if connection_args.get(name) is not None}
    setattr(resource, _REMEMBERED, of_the_bucket)
    return resource


_REMEMBERED = "s3s3_bucket"


def upload(
    source_key: Object, dest_key: Object | Sequence[Object], verify_md5: bool = False, force: bool = False
) -> bool:
    """Copy one object to one or several places, which may have other keys than the source.

    The source is read once. A destination that holds its content already is left as it is.

    Args:
        source_key: a boto3 Object.
        dest_key: a boto3 Object, or a list of them.
        verify_md5: also compare contents where no MD5 is to be had without reading them.
        force: copy without a look at the destinations first.

    Returns:
        Whether every destination holds the source's content now. A source that is gone: False.

    Raises:
        ConfigError: there is no destination, or a boto3 client that s3s3 cannot follow.
        AccessDenied: a boto3 client has no credentials.
    """
    source = _endpoint(source_key, source_key.bucket_name, "source", prefix=source_key.key, verify_md5=verify_md5)
    destinations = [
        _endpoint(there, there.bucket_name, name, prefix=there.key, verify_md5=verify_md5)
        for name, there in _named(dest_key)
    ]
    return copy_one(Route(_ROUTE, source, tuple(destinations)), source_key.key, unconditional=force)


def duplicate_bucket(source_bucket: Bucket, dest_bucket: Bucket | Sequence[Bucket], verify_md5: bool = False) -> bool:
    """Compare a whole bucket with one or several others, and copy what is missing there or differs.

    Nothing is deleted.

    Args:
        source_bucket: a boto3 Bucket.
        dest_bucket: a boto3 Bucket, or a list of them.
        verify_md5: also compare contents where no MD5 is to be had without reading them.

    Returns:
        Whether every destination holds all objects of the source now.

    Raises:
        ConfigError: there is no destination, or a boto3 client that s3s3 cannot follow.
        StoreError: the source could not be listed.
    """
    source = _endpoint(source_bucket, source_bucket.name, "source", verify_md5=verify_md5)
    destinations = [_endpoint(there, there.name, name, verify_md5=verify_md5) for name, there in _named(dest_bucket)]
    return run_sync(_duplicate(Route(_ROUTE, source, tuple(destinations))))


def copy_one(route: Route, key: str, *, unconditional: bool) -> bool:
    """Copy one key of a route now, without a queue; return whether every destination holds it then.

    `unconditional`: without a look at the destinations first.
    """
    job = Job(
        key,
        route.destination_names,
        Lane.FRESH,
        entry="",
        token="",
        unconditional=unconditional,
        attempts={},
        notified_ms=0,
    )
    outcomes = run_sync(_copy_one(route, job))
    for outcome in outcomes:
        if outcome.result is Result.SOURCE_MISSING:
            log.warning("%r: the source has no such object", key, extra=log_fields(route.name, key))
        elif outcome.result is Result.FAILED:
            log.warning("%r: %s", key, outcome.reason, extra=log_fields(route.name, key))
    return all(outcome.result in (Result.COPIED, Result.SAME) for outcome in outcomes)


async def _copy_one(route: Route, job: Job) -> list[Outcome]:
    async with opened(route, _worker_settings(), Metrics()) as stores:
        return await stores.copy(job, job.destinations, _always, isolate_slow=False)


def _worker_settings() -> WorkerSettings:
    """Return what a configuration without [worker] means."""
    spool_dir = Path(tempfile.gettempdir())  # which tries it out, so not before it is wanted
    return WorkerSettings(concurrency=32, max_attempts=8, lease_s=60.0, spool_dir=spool_dir, spool_bytes=8 * 1024**3)


async def _duplicate(route: Route) -> bool:
    settings = _worker_settings()
    async with opened(route, settings, Metrics()) as stores:
        tally = await reconcile_with_worker(
            stores,
            None,
            settings,
            ReconcileOptions(),
            asyncio.Event(),
            summary=ReconcileSummary(_ROUTE, route.destination_names),
        )
    tell_what_broke_off(tally)
    return tally.proven


def tell_what_broke_off(tally: ReconcileSummary) -> None:
    """Log the stores whose listing broke off, and where nothing was deleted for safety's sake."""
    for name, error in tally.errors.items():
        log.warning("%s could not be compared: %s", name, error)
    for name, why in tally.deletions_withheld.items():
        log.warning("nothing was deleted, because of %s: %s", name, why)


def _always() -> None:
    """Nobody else works on it: every write is permitted."""


def _named(given: Several | Sequence[Several]) -> list[tuple[str, Several]]:
    """Return one or several things, each with its name in messages."""
    several = list(given) if isinstance(given, Sequence) else [given]
    if not several:
        raise ConfigError(["an empty list of destinations: there is nowhere to copy to"])
    return [("destination" if number == 1 else f"destination-{number}", one) for number, one in enumerate(several, 1)]


def _endpoint(resource: Object | Bucket | S3ServiceResource, bucket_name: str, name: str, **changes: Any) -> Endpoint:
    return dataclasses.replace(endpoint_from_client(resource.meta.client, bucket_name, name), **changes)


def route_of(source: Connection, destinations: Connection | Sequence[Connection]) -> Route:
    """Return the route from one connection to one or several others.

    Raises:
        ConfigError: a connection without a bucket.
    """
    several: list[tuple[str, Connection]] = _named(destinations)
    targets = [_connected_endpoint(connection, name) for name, connection in several]
    return Route(_ROUTE, _connected_endpoint(source, "source"), tuple(targets))


def _connected_endpoint(connection: Connection, name: str) -> Endpoint:
    if isinstance(connection, Mapping):
        connection = create_connection(connection)
    remembered: Mapping[str, Any] = getattr(connection, _REMEMBERED, {})
    bucket_name = remembered.get("bucket_name") or getattr(connection, "name", None)
    if not bucket_name:
        raise ConfigError([f"{name}: which bucket? Give bucket_name in the connection's arguments, or a boto3 Bucket"])
    rest = {key: value for key, value in remembered.items() if key != "bucket_name"}
    return _endpoint(connection, bucket_name, name, **rest)
