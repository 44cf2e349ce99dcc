"""`s3s3 VERB`."""

from __future__ import annotations

import importlib
import os
import sys

from .. import __version__
from .command import EXIT_STATUSES, OK, WRONG_USAGE

VERBS = {
    "listen": "copy what notices name, for ever",
    "bucket": "compare whole buckets and copy what differs",
    "publish": "put keys on the queue",
    "jobs": "look at the queue and its dead letters, retry, drop, pause, resume",
    "mirror": "serve copies over HTTP, and make those that are missing",
    "cache": "look at the cache's directory, make room in it, verify it",
    "check": "try every store and Redis, and say what is wrong",
    "convert": "print an old INI file as TOML",
    "completion": "print a shell completion script for bash, zsh or fish",
    "demo": "show everything here, with real parts and no configuration",
}


def usage() -> str:
    """Return what `s3s3 --help` prints."""
    lines = [
        "usage: s3s3 VERB [options]",
        "",
        "Copies named objects from one S3-compatible store to others, verified.",
        "",
    ]
    lines += [f"  {verb:<12}{does}" for verb, does in VERBS.items()]
    return "\n".join([*lines, "", "`s3s3 VERB --help` explains each.", "", EXIT_STATUSES])


def main(argv: list[str] | None = None) -> int:
    """Run the command that the first argument names; return its exit status."""
    if "_ARGCOMPLETE" in os.environ:
        importlib.import_module(".completion", __package__).complete_command_line(VERBS)
    arguments = sys.argv[1:] if argv is None else argv
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage(), file=sys.stdout if arguments else sys.stderr)
        return OK if arguments else WRONG_USAGE
    if arguments[0] == "--version":
        print(f"s3s3 {__version__}")
        return OK
    if arguments[0] not in VERBS:
        print(f"s3s3: there is no {arguments[0]!r}; the verbs are {', '.join(VERBS)}", file=sys.stderr)
        return WRONG_USAGE
    command = importlib.import_module(f".{arguments[0]}", __package__)
    status: int = command.main(arguments[1:])
    return status


if __name__ == "__main__":
    sys.exit(main())
