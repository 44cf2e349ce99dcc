from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from s3s3.s3 import request


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retry without pauses, which are for real stores."""
    monkeypatch.setattr(request, "INITIAL_BACKOFF_S", 0.001)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate and its key, in one file."""
    path = tmp_path_factory.mktemp("tls") / "certificate.pem"
    key, certificate = path.with_suffix(".key"), path.with_suffix(".crt")
    command = f"openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -keyout {key} -out {certificate}"
    subprocess.run([*command.split(), "-addext", "subjectAltName=IP:127.0.0.1"], check=True, capture_output=True)
    path.write_text(key.read_text() + certificate.read_text())
    return path
