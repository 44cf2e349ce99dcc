"""Load and validate the TOML file; the settings dataclasses.

from s3s3 import config
settings = config.load("s3s3.toml")
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from .addresses import redacted_url
from .overlaps import config_warnings, overlap, with_buckets
from .settings import (
    DEFAULT_ROUTE,
    Config,
    HttpSettings,
    PubSub,
    SqsSettings,
    StreamSettings,
    WebhookSettings,
    WorkerSettings,
)

__all__ = ["DEFAULT_ROUTE", "Config", "ConfigError", "HttpSettings", "PubSub", "SqsSettings", "StreamSettings",
           "WebhookSettings", "WorkerSettings", "config_warnings", "from_tables", "load", "overlap", "redacted_url",
           "with_buckets"]  # fmt: skip


def load(
    path: str | Path | None = None,
    environ: Mapping[str, str] | None = None,
    *,
    http_bind: tuple[str, str] | None = None,
    secrets_of: Collection[str] | None = None,
) -> Config:
    """Find the configuration file, validate it and return its settings.

    Args:
        path: the file; None: $S3S3_CONFIG, else the first that exists of ./s3s3.toml, /usr/local/etc/s3s3.toml and
            /etc/s3s3/s3s3.toml.
        environ: the environment, for values of the form "${NAME}"; None: os.environ.
        http_bind: replaces `[http] bind`: the option or variable that set it, and its value.
        secrets_of: the outer tables whose secrets are used; None: all. Those of other tables may be missing in the
            environment, or in files that cannot be read.

    Raises:
        ConfigError: there is no file, or it is invalid; all problems are listed.
    """
    from . import building, toml_file  # noqa: PLC0415 - pydantic takes 0.1 s to import, and --help needs no file

    environ = os.environ if environ is None else environ
    return building.build(toml_file.read(path, environ), environ, http_bind, secrets_of)


def from_tables(tables: Mapping[str, Any], environ: Mapping[str, str] | None = None) -> Config:
    """Validate a configuration that a program has built, and return its settings.

        config.from_tables({"source": {"bucket_name": "a"}, "destination": {"bucket_name": "b"}})

    Args:
        tables: tables and keys as in the TOML file. A relative path is relative to the working directory.
        environ: the environment, for values of the form "${NAME}"; None: os.environ.

    Raises:
        ConfigError: the configuration is invalid; all problems are listed.
    """
    from . import building, toml_file  # noqa: PLC0415

    environ = os.environ if environ is None else environ
    return building.build(toml_file.ConfigFile(Path("configuration"), "", tables), environ)
