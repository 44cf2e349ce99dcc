"""Debian's nginx with the configuration in conf/, with other addresses and directories."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path

import trustme

from s3s3.scripts.demo.servers import is_listening
from tests.conftest import missing
from tests.integration.commands import eventually

CONF = Path(__file__).parents[2] / "conf" / "nginx" / "s3s3.conf"


class Nginx(AbstractContextManager["Nginx"]):
    """Serves the configuration's host names at `port` with TLS, at `plain_port` without.

    Args:
        frontends: ports of the front ends, by upstream name.
    """

    def __init__(
        self,
        directory: Path,
        authority: trustme.CA,
        port: int,
        plain_port: int,
        frontends: Mapping[str, int],
        cache: Path,
    ) -> None:
        self.port, self.plain_port = port, plain_port
        found = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
        if found is None:
            missing("nginx is not installed (apt-get install nginx-light)")
        self._directory = directory
        self._command = [
            found,
            "-p",
            str(directory),
            "-c",
            str(directory / "nginx.conf"),
            "-e",
            str(directory / "error.log"),
        ]
        text = CONF.read_text().replace("/var/cache/s3s3/", f"{cache}/").replace("/var/log/nginx", str(directory))
        for name, default_port in {"s3s3_redirect": 9190, "s3s3_proxy": 9191, "s3s3_cache": 9192}.items():
            text = text.replace(f"127.0.0.1:{default_port}", f"127.0.0.1:{frontends.get(name, 1)}")
        text = text.replace("listen 443 ssl", f"listen 127.0.0.1:{port} ssl")
        text = text.replace("listen 80", f"listen 127.0.0.1:{plain_port}")
        for name in ("cache", "mirror", "files"):
            certificate = authority.issue_cert(f"{name}.example.org", "127.0.0.1")
            chain, key = directory / f"{name}.pem", directory / f"{name}.key"
            chain.write_bytes(b"".join(pem.bytes() for pem in certificate.cert_chain_pems))
            key.write_bytes(certificate.private_key_pem.bytes())
            text = text.replace(f"/etc/ssl/certs/{name}.example.org.pem", str(chain))
            text = text.replace(f"/etc/ssl/private/{name}.example.org.key", str(key))
        user = "user root;" if os.geteuid() == 0 else ""
        paths = "".join(
            f"{kind}_temp_path {directory / kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        (directory / "nginx.conf").write_text(
            f"{user} daemon off; worker_processes 1; pid {directory / 'pid'};\n"
            f"events {{}}\nhttp {{ {paths}\n{text}\n}}\n"
        )

    def __enter__(self) -> Nginx:
        checked = subprocess.run([*self._command, "-t"], capture_output=True, text=True, timeout=30, check=False)
        assert checked.returncode == 0, checked.stderr
        self._process = subprocess.Popen(self._command)
        eventually(lambda: is_listening(self.port), "nginx serves")
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(30)
