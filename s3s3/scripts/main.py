"""`s3s3 VERB`: run the module of a verb, which alone is imported."""

from __future__ import annotations

import gc
import importlib
import json
import os
import sys

from .. import __version__
from .cli import OK, WRONG_USAGE, suggestion

#: Allocations between two garbage collections during the start. Modules and their classes are kept; collecting cycles
#: among them took 5 percent of the CPU time of a start.
START_GC_THRESHOLD = 200_000

VERBS = {
    "listen": "run the daemon: copy every object announced by a notification",
    "bucket": "compare whole buckets and copy what differs",
    "publish": "put keys on the queue",
    "explain": "show what became of a key, what would be done now, and why",
    "jobs": "show and manage the queue and its dead letters",
    "mirror": "serve copies over HTTP, and create missing ones",
    "cache": "show, evict or verify the objects in the mirror's cache",
    "check": "try every store and Redis, and report problems",
    "config": "validate or show the configuration; print its schema or a template",
    "convert": "print an old INI file as TOML",
    "completion": "print a shell completion script for bash, zsh or fish",
    "demo": "run a self-contained demonstration on this machine",
}


def usage() -> str:
    """Return the text of `s3s3 --help`."""
    verbs = "\n".join(f"  {verb:<12}{description}" for verb, description in VERBS.items())
    return f"""usage: s3s3 VERB [options]

Replicate individual objects from one S3-compatible store to others, and verify
every copy.

{verbs}

Run s3s3 VERB --help for the options and exit statuses of a verb."""


def versions() -> dict[str, str]:
    """Return the versions to name in a bug report."""
    return {"s3s3": __version__, "python": sys.version.split()[0]}


def main(argv: list[str] | None = None) -> int:
    """Run the command named by the first argument; return its exit status."""
    if "_ARGCOMPLETE" in os.environ:
        importlib.import_module(".completion", __package__).complete_command_line(VERBS)
    arguments = sys.argv[1:] if argv is None else argv
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage(), file=sys.stdout if arguments else sys.stderr)
        return OK if arguments else WRONG_USAGE
    if arguments[0] == "--version" or arguments == ["--json", "--version"]:
        print(json.dumps(versions()) if "--json" in arguments else f"s3s3 {__version__}")
        return OK
    if arguments[0] not in VERBS:
        print(f"s3s3: unknown verb {arguments[0]!r}{suggestion(arguments[0], VERBS)}; see s3s3 --help", file=sys.stderr)
        return WRONG_USAGE
    gc.set_threshold(START_GC_THRESHOLD)
    status: int = importlib.import_module(f".{arguments[0]}", __package__).main(arguments[1:])
    return status


if __name__ == "__main__":
    sys.exit(main())
