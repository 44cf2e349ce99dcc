"""`s3s3 cache`: show, evict or verify cached objects; safe while `s3s3 mirror` serves from the same directory."""

from __future__ import annotations

import argparse
import json
import time

from .. import config
from ..config.mirror import CacheSettings
from ..errors import ConfigError
from ..mirror.cache.directory import CacheDirectory
from ..mirror.cache.eviction import DiskSpace, cache_directory, disk_usage
from ..mirror.cache.inspection import cache_stats, verify
from ..mirror.cache.writer import sweep
from ..monitoring.formatting import count_noun, duration_text, size_text
from . import cli, command
from .output import printable


def main(argv: list[str] | None = None) -> int:
    """Run the action; return the exit status."""
    parser = command_line()
    arguments = cli.parse_with_keys(parser, argv)
    if arguments.keys and arguments.all:
        parser.error("evict: either keys or --all")
    command.start_log(arguments)
    return command.exit_status(lambda: _cache(arguments))


def command_line() -> cli.CommandParser:
    """Return the parser of the command's arguments."""
    parser = cli.parser("cache", "Show, evict or verify the objects in the mirror's cache.", {})
    parser.add_argument("--json", action="store_true", help="print JSON")
    actions = cli.Actions(parser, "stat")
    stat = actions.add("stat", "show what the cache holds", {})
    stat.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print JSON")
    evict = actions.add(
        "evict", "remove the named objects, or the least recently used ones until the disk is filled to low_fill",
        {cli.SOME_FAILED: "a named object is not cached"},
    )  # fmt: skip
    evict.add_argument("keys", metavar="KEY", nargs="*", help="objects to remove")
    evict.add_argument("--all", action="store_true", help="remove everything")
    actions.add(
        "verify", "read every object and remove damaged ones", {cli.SOME_FAILED: "damaged objects were removed"}
    )
    return parser


def _cache(arguments: argparse.Namespace) -> int:
    settings = config.load(arguments.config, secrets_of=())
    cache = settings.mirror.cache
    if cache is None:
        raise ConfigError([f"{settings.path}: no cache: add a table [mirror.cache]"])
    if not cache.directory.is_dir():
        raise ConfigError([f"[mirror.cache] directory: {cache.directory} does not exist; s3s3 mirror creates it"])
    directory = cache_directory(cache)
    directory.create()
    if arguments.action == "stat":
        return _stat(directory, cache, as_json=arguments.json)
    if arguments.action == "verify":
        return _verify(directory, quiet=arguments.quiet)
    if arguments.keys:
        return _evict_keys(directory, arguments.keys, quiet=arguments.quiet)
    evicted = DiskSpace(directory, cache.max_fill, cache.low_fill).evict(0.0 if arguments.all else None)
    swept = sweep(directory)
    leftovers = f", and {count_noun(swept, 'leftover file')} of ended processes" if swept else ""
    if not arguments.quiet:
        print(f"removed {count_noun(evicted.objects, 'object')}, {size_text(evicted.size_bytes)}{leftovers}")
    return cli.OK


def _stat(directory: CacheDirectory, settings: CacheSettings, *, as_json: bool) -> int:
    stats, disk = cache_stats(directory), disk_usage(directory.directory)
    fill = disk.used_bytes / max(disk.size_bytes, 1)
    if as_json:
        print(json.dumps({"objects": stats.objects, "size_bytes": stats.size_bytes, "downloads": stats.downloads,
                          "oldest_access_s": round(stats.oldest_access_s, 3), "disk_size_bytes": disk.size_bytes,
                          "disk_used_bytes": disk.used_bytes, "disk_fill": round(fill, 4)}))  # fmt: skip
        return cli.OK
    print(f"{directory.directory}: {count_noun(stats.objects, 'object')}, {size_text(stats.size_bytes)}")
    print(f"downloads in progress: {stats.downloads}")
    if stats.objects:
        print(f"least recently used: {duration_text(time.time() - stats.oldest_access_s)} ago")
    print(f"disk: {fill:.1%} full; eviction starts at {settings.max_fill:.0%} and stops at {settings.low_fill:.0%}")
    return cli.OK


def _evict_keys(directory: CacheDirectory, keys: list[str], *, quiet: bool) -> int:
    missing = 0
    for key in keys:
        cached = directory.open(key)
        if cached is None:
            missing += 1
            print(f"{printable(key)}: not cached")
            continue
        cached.close()
        directory.remove(directory.name(key), cached.metadata)
        if not quiet:
            print(f"{printable(key)}: removed")
    return cli.SOME_FAILED if missing else cli.OK


def _verify(directory: CacheDirectory, *, quiet: bool) -> int:
    objects = damaged = 0
    for name, metadata, problem in verify(directory):
        objects += 1
        if problem:
            damaged += 1
            directory.remove(name, metadata)
            print(f"{printable(metadata.key)}: removed: {problem}")
    if damaged or not quiet:
        print(f"verified {count_noun(objects, 'object')}, {damaged} damaged")
    return cli.SOME_FAILED if damaged else cli.OK
