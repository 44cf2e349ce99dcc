"""A real Prometheus."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import urllib.parse
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.conftest import missing
from tests.integration.commands import eventually

ALERTS = Path(__file__).parents[2] / "conf" / "prometheus" / "alerts.yml"


def program(name: str) -> str:
    """The path of a program of Debian's package prometheus."""
    found = shutil.which(name)
    if found is None:
        missing(f"{name} is not installed (apt-get install prometheus)")
    return found


class Prometheus:
    """Scrapes the targets every second, as the job "s3s3"."""

    def __init__(self, folder: Path, port: int, targets: list[str]) -> None:
        configuration = folder / "prometheus.yml"
        jobs = [{"job_name": "s3s3", "static_configs": [{"targets": targets}]}]
        settings = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(ALERTS)],
            "scrape_configs": jobs,
        }
        configuration.write_text(json.dumps(settings))  # JSON is YAML
        self._url = f"http://127.0.0.1:{port}/api/v1"
        self._command = [
            program("prometheus"), f"--config.file={configuration}", f"--storage.tsdb.path={folder / 'tsdb'}",
            f"--web.listen-address=127.0.0.1:{port}", "--log.level=error",
        ]  # fmt: skip
        self._log = folder / "prometheus.log"

    def __enter__(self) -> Prometheus:
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def get(self, path: str, **parameters: str) -> Any:
        """The data that its API returns, or None while it does not respond."""
        assert self._process.poll() is None, self._log.read_text()
        try:
            with urllib.request.urlopen(
                f"{self._url}/{path}?{urllib.parse.urlencode(parameters)}", timeout=10
            ) as response:
                return json.load(response)["data"]
        except ConnectionError:
            return None
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{path} {parameters}: {error.read().decode()}") from error
        except urllib.error.URLError:
            return None

    def series(self, query: str) -> list[dict[str, Any]]:
        """The result of an instant query."""
        found = self.get("query", query=query)
        return found["result"] if found else []

    def wait_for(self, query: str) -> list[dict[str, Any]]:
        """Return the result of a query once it is not empty."""
        found: list[dict[str, Any]] = eventually(lambda: self.series(query), query, 30, 0.2)
        return found
