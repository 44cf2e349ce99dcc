"""The config.js of s3sync (Issac Goldstand's, for Node): jobs between buckets of AWS, by region.

It holds `aws` (credentials), `s3sync.regions` (a suffix for each region's buckets, and credentials where they differ),
`s3sync.buckets` (the jobs), `s3sync.sqs`, `fullsync.interval` and `skip-fullsync`. Whatever it wrote it wrote with
AES256 and REDUCED_REDUNDANCY, and it removed what the source no longer had.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from ...config.schema import FILE
from .javascript import objects_in
from .toml_writer import Converted

_ASSUMED = (
    "s3sync wrote everything with AES256 and REDUCED_REDUNDANCY, and deleted what the source had no more, though its "
    "file says nothing of that: so every destination here has server_side_encryption, storage_class and "
    "delete = true; take out what you do not want"
)
_KNOWN = ("aws", "s3sync", "fullsync", "skip-fullsync", "fullsync-interval")


def from_s3sync(text: str) -> Converted:
    """Return what s3sync's configuration becomes.

    Raises:
        ValueError: there is no such thing in it. No value stands in the message.
    """
    settings = next((one for one in objects_in(text) if isinstance(one.get("s3sync"), dict)), None)
    jobs = settings["s3sync"].get("buckets") if settings else None
    if settings is None or not isinstance(jobs, list) or not jobs or not all(isinstance(job, dict) for job in jobs):
        raise ValueError("neither an INI file of s3s3 nor a configuration of s3sync: it has no s3sync.buckets")
    converted = Converted()
    converted.remark((), _ASSUMED)
    for name in sorted(settings.keys() - set(_KNOWN)):
        converted.leave((), name, "there is nothing like it", json.dumps(settings[name], indent=2))
    regions = _regions(settings)
    used: set[str] = set()
    for number, job in enumerate(jobs, 1):
        used |= _convert_job(converted, number, job, regions)
    for region in sorted(used):
        _convert_region(converted, regions.get(region, {}), region, _mapping(settings.get("aws")))
    _convert_times(converted, settings)
    _convert_sqs(converted, _mapping(settings["s3sync"].get("sqs")))
    return converted


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _regions(settings: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    listed = settings["s3sync"].get("regions")
    return {str(one.get("region")): one for one in listed if isinstance(one, dict)} if isinstance(listed, list) else {}


def _convert_job(
    converted: Converted, number: int, job: Mapping[str, Any], regions: Mapping[str, Mapping[str, Any]]
) -> set[str]:
    """Convert one job; return the regions that it names."""
    missing = [name for name in ("src", "srcregion", "dest") if not isinstance(job.get(name), str) or not job[name]]
    there = job.get("destregions")
    if missing or not isinstance(there, list) or not there:
        converted.leave((), f"job {number}", f"it lacks {', '.join(missing) or 'destregions'}")
        return set()
    route = f"job-{number}"
    source = ("routes", route, "source")
    converted.set(source, "store", _store(job["srcregion"]))
    converted.set(source, "bucket_name", job["src"])
    _set_text(converted, source, "prefix", job.get("srcprefix"))
    for region in dict.fromkeys(map(str, there)):
        table = ("routes", route, f"destination-{_store(region)}")
        converted.set(table, "store", _store(region))
        converted.set(table, "bucket_name", job["dest"])
        _set_text(converted, table, "bucket_suffix", regions.get(region, {}).get("suffix"))
        _set_text(converted, table, "prefix", job.get("destprefix"))
        converted.set(table, "delete", True)
        converted.set(table, "server_side_encryption", "AES256")
        converted.set(table, "storage_class", "REDUCED_REDUNDANCY")
        if region not in regions:
            converted.remark(table, "s3sync.regions does not name its region, so the bucket's name has no suffix")
    return {job["srcregion"], *map(str, there)}


def _store(region: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]", "-", region)


def _set_text(converted: Converted, path: tuple[str, ...], key: str, value: object) -> None:
    if isinstance(value, str) and value:
        converted.set(path, key, value)


def _convert_region(converted: Converted, region: Mapping[str, Any], name: str, account: Mapping[str, Any]) -> None:
    path = ("stores", _store(name))
    converted.set(path, "region", name)
    converted.set(path, "signature_version", "s3v4")
    pair = region.get("access"), region.get("secret")
    if not pair[0]:
        pair = account.get("accessKeyId"), account.get("secretAccessKey")
    if all(isinstance(key, str) and key for key in pair):
        converted.set(path, "aws_access_key_id", str(pair[0]))
        converted.set(path, "aws_secret_access_key", str(pair[1]))
    else:
        converted.remark(
            path, "no credentials in the old file: boto3's own chain (environment, profile, role) is asked"
        )


def _convert_times(converted: Converted, settings: Mapping[str, Any]) -> None:
    interval_s = _mapping(settings.get("fullsync")).get("interval", settings.get("fullsync-interval"))
    initial = " --no-initial" if settings.get("skip-fullsync") else ""
    if interval_s:
        how = f"run s3s3 listen --reconcile-interval {interval_s}{initial}, or s3s3 bucket --interval {interval_s}"
        converted.leave((), "fullsync.interval", f"it is an option of the commands: {how}")
    elif initial:
        converted.leave((), "skip-fullsync", "s3s3 listen compares nothing unless --reconcile-interval says so")


def _convert_sqs(converted: Converted, sqs: Mapping[str, Any]) -> None:
    if not sqs:
        converted.set(["pubsub"], "url", "")
        converted.remark(["pubsub"], "s3sync had no Redis; name one here for s3s3 listen. s3s3 bucket works without")
        return
    converted.table("pubsub")
    converted.remark(["pubsub"], "s3s3 listen needs a Redis for its queue; url is redis://localhost:6379/0 unless set")
    for key in ("url", "region"):
        if FILE.inner("sqs") is None:
            converted.leave((), f"s3sync.sqs.{key}", "this version takes no notices from SQS", str(sqs.get(key)))
        else:
            _set_text(converted, ("sqs",), key, sqs.get(key))
