"""`s3s3 cache`: the cache's directory, for those who look after it. It may be done beside processes that serve."""

from __future__ import annotations

import argparse
import json
import time

from .. import config
from ..config.mirror import CacheSettings
from ..errors import ConfigError
from ..mirror.cache.directory import CacheDirectory
from ..mirror.cache.eviction import cache_directory, disk_space, disk_usage
from ..mirror.cache.inspection import cache_stats, verify
from ..mirror.cache.writer import sweep
from ..monitoring.formatting import count_noun, duration_text, size_text
from . import command
from .key_input import parse_with_keys
from .output import printable


def main(argv: list[str] | None = None) -> int:
    """Do what the arguments say; return the exit status."""
    parser = command_line()
    arguments = parse_with_keys(parser, argv)
    if arguments.action != "evict" and (arguments.keys or arguments.all):
        parser.error(f"{arguments.action} takes no keys and no --all")
    if arguments.keys and arguments.all:
        parser.error("evict: either keys or --all")
    command.start_log(arguments)
    return command.exit_status(lambda: _cache(arguments))


def command_line() -> argparse.ArgumentParser:
    """Return what reads the command's arguments."""
    parser = command.parser("cache", "Look at the cache's directory, make room in it, verify what it holds.")
    parser.add_argument(
        "action", nargs="?", default="stat", choices=("stat", "evict", "verify"),
        help="stat (the default): how much there is; evict: remove the named objects, or those that nobody has asked "
        "for the longest until the disk is down to low_fill; verify: read everything and remove what is damaged",
    )  # fmt: skip
    parser.add_argument("keys", metavar="KEY", nargs="*", help="objects to evict")
    parser.add_argument("--all", action="store_true", help="evict everything")
    parser.add_argument("--json", action="store_true", help="stat as JSON, for programs")
    return parser


def _cache(arguments: argparse.Namespace) -> int:
    settings = config.load(arguments.config)
    cache = settings.mirror.cache
    if cache is None:
        raise ConfigError([f"{settings.path}: no cache: there is no table [mirror.cache]"])
    if not cache.directory.is_dir():
        raise ConfigError([f"[mirror.cache] directory: {cache.directory} is not there; s3s3 mirror makes it"])
    folder = cache_directory(cache)
    folder.create()
    if arguments.action == "stat":
        return _stat(folder, cache, as_json=arguments.json)
    if arguments.action == "verify":
        return _verify(folder)
    return _evict_keys(folder, arguments.keys) if arguments.keys else _evict(folder, cache, all_of_it=arguments.all)


def _stat(folder: CacheDirectory, settings: CacheSettings, *, as_json: bool) -> int:
    kept, disk = cache_stats(folder), disk_usage(folder.directory)
    fill = disk.used_bytes / max(disk.size_bytes, 1)
    idle_s = time.time() - kept.oldest_access_s if kept.objects else 0.0
    if as_json:
        print(json.dumps({"objects": kept.objects, "size_bytes": kept.size_bytes, "downloads": kept.downloads,
                          "oldest_access_s": round(kept.oldest_access_s, 3), "disk_size_bytes": disk.size_bytes,
                          "disk_used_bytes": disk.used_bytes, "disk_fill": round(fill, 4)}))  # fmt: skip
        return command.OK
    print(f"{folder.directory}: {count_noun(kept.objects, 'object')}, {size_text(kept.size_bytes)}")
    print(f"being downloaded: {kept.downloads}")
    if kept.objects:
        print(f"not asked for the longest: {duration_text(idle_s)}")
    print(f"the disk is {fill:.1%} full; objects are removed from {settings.max_fill:.0%} on, "
          f"down to {settings.low_fill:.0%}")  # fmt: skip
    return command.OK


def _evict(folder: CacheDirectory, settings: CacheSettings, *, all_of_it: bool) -> int:
    evicted = disk_space(folder, settings).evict(0.0 if all_of_it else None)
    swept = sweep(folder)
    print(f"removed {count_noun(evicted.objects, 'object')}, {size_text(evicted.size_bytes)}"
          + (f", and {count_noun(swept, 'file')} that dead processes had left" if swept else ""))  # fmt: skip
    return command.OK


def _evict_keys(folder: CacheDirectory, keys: list[str]) -> int:
    missing = 0
    for key in keys:
        stored = folder.open(key)
        if stored is None:
            missing += 1
            print(f"{printable(key)}: is not kept")
            continue
        stored.close()
        folder.remove(folder.name(key), stored.metadata)
        print(f"{printable(key)}: removed")
    return command.SOME_FAILED if missing else command.OK


def _verify(folder: CacheDirectory) -> int:
    objects = damaged = 0
    for name, about, wrong in verify(folder):
        objects += 1
        if wrong:
            damaged += 1
            folder.remove(name, about)
            print(f"{printable(about.key)}: removed: {wrong}")
    print(f"verified {count_noun(objects, 'object')}, {damaged} of them damaged")
    return command.SOME_FAILED if damaged else command.OK
