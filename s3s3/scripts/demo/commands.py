"""s3s3's own commands, as the demonstration runs them: real processes, of which it knows what anybody can know."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import NamedTuple

from prometheus_client.parser import text_string_to_metric_families

from .judge import Held
from .process import Process, ServerFailed
from .servers import HOST, http_status

BUCKET_TIMEOUT_S = 120
METRICS_TIMEOUT_S = 10
LAST_LINES = 10

_S3S3 = (sys.executable, "-m", "s3s3.scripts.main")


class Listener:
    """A process `s3s3 listen`, whose status page is at `port`."""

    def __init__(self, config: Path, port: int, log: Path) -> None:
        self._url = f"http://{HOST}:{port}/metrics"
        self._told_lines = 0
        self.process = Process(
            "s3s3 listen",
            [*_S3S3, "listen", "--config", config],
            log=log,
            ready=lambda: http_status(port, "/healthz") == 200,
        )

    def copied(self) -> dict[str, Held]:
        """Return how much it has copied to each destination since its start, as its metrics tell.

        Raises:
            ServerFailed: it has ended.
        """
        try:
            with urllib.request.urlopen(self._url, timeout=METRICS_TIMEOUT_S) as answer:
                page = answer.read().decode()
        except OSError as error:
            raise ServerFailed(self.obituary("does not answer any more")) from error
        found: dict[str, dict[str, int]] = {"s3s3_copies_total": {}, "s3s3_copy_bytes_total": {}}
        for family in text_string_to_metric_families(page):
            for sample in family.samples:
                if sample.name in found and sample.labels.get("outcome", "copied") == "copied":
                    found[sample.name][sample.labels["destination"]] = int(sample.value)
        objects, size_bytes = found.values()
        return {name: Held(count, size_bytes.get(name, 0)) for name, count in objects.items()}

    def new_messages(self) -> list[str]:
        """Return what it has logged since this was last asked, without times and levels."""
        lines = self._log_lines()
        new, self._told_lines = lines[self._told_lines :], len(lines)
        return [line.split(" ", 3)[-1] for line in new]

    def obituary(self, what: str) -> str:
        """Return what is to be said of it when something is wrong, with the end of its log."""
        last = (f"    {line}" for line in self._log_lines()[-LAST_LINES:])
        return "\n".join([f"s3s3 listen {what}; the end of its log:", *last])

    def _log_lines(self) -> list[str]:
        return self.process.log.read_text(errors="replace").splitlines()


class BucketRun(NamedTuple):
    """What `s3s3 bucket` said. `counts` are outcomes by destination, of its report's summary."""

    status: int
    output: str
    counts: dict[str, dict[str, int]]


def run_bucket(config: Path) -> BucketRun:
    """Run `s3s3 bucket` to its end.

    Raises:
        ServerFailed: it takes too long.
    """
    report = config.parent / "report.jsonl"
    command = [*_S3S3, "bucket", "--config", str(config), "--report", str(report)]
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=BUCKET_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise ServerFailed(f"s3s3 bucket has not ended within {BUCKET_TIMEOUT_S} s") from error
    last_line = report.read_text().splitlines()[-1:] if report.exists() else []
    summary = json.loads(last_line[0]).get("summary", {}) if last_line else {}
    return BucketRun(run.returncode, run.stdout or run.stderr, summary.get("destinations", {}))
