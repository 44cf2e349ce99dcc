"""An nginx before a store, as an ingress, a web server or a cache."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from s3s3.scripts.demo.servers import is_listening
from tests.conftest import missing
from tests.integration.commands import eventually

_CONF = """
daemon off; worker_processes 1; pid {folder}/pid; {user}
events {{}}
http {{
    {temp_paths}
    access_log off;
    {servers}
}}
"""


@contextmanager
def running_nginx(folder: Path, servers: str, *ports: int) -> Iterator[None]:
    """Run nginx with these directives of its `http` block, which listen on `ports`."""
    found = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    if found is None:
        missing("nginx is not installed (apt-get install nginx-light)")
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temp_paths = " ".join(f"{kind}_temp_path {folder / kind};" for kind in kinds)
    user = "user root;" if os.geteuid() == 0 else ""
    (folder / "nginx.conf").write_text(_CONF.format(folder=folder, user=user, temp_paths=temp_paths, servers=servers))
    process = subprocess.Popen([found, "-p", folder, "-c", folder / "nginx.conf", "-e", folder / "error.log"])
    try:
        eventually(lambda: all(is_listening(port) for port in ports), "nginx serves")
        yield
    finally:
        process.terminate()
        process.wait(30)
