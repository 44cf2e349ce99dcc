"""Run the s3s3 commands as processes."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import NamedTuple

from prometheus_client.parser import text_string_to_metric_families

from .process import Process, ServerFailed
from .servers import HOST, http_status
from .verification import ObjectTotals

BUCKET_TIMEOUT_S = 120
CHECK_TIMEOUT_S = 60
METRICS_TIMEOUT_S = 10
LOG_LINES = 10

_S3S3 = (sys.executable, "-m", "s3s3.scripts.main")


class Listener:
    """An `s3s3 listen` process with its status page at `port`."""

    def __init__(self, config: Path, port: int, log: Path) -> None:
        self._url = f"http://{HOST}:{port}/metrics"
        self._read_lines = 0
        self.process = Process(
            "s3s3 listen",
            [*_S3S3, "listen", "--config", config],
            log=log,
            ready=lambda: http_status(port, "/healthz") == 200,
        )

    def copied(self) -> dict[str, ObjectTotals]:
        """Return what it has copied to each destination since its start, from its metrics.

        Raises:
            ServerFailed: the process has ended.
        """
        try:
            with urllib.request.urlopen(self._url, timeout=METRICS_TIMEOUT_S) as response:
                page = response.read().decode()
        except OSError as error:
            raise ServerFailed(self.with_log("does not answer")) from error
        found: dict[str, dict[str, int]] = {"s3s3_copies_total": {}, "s3s3_copy_bytes_total": {}}
        for family in text_string_to_metric_families(page):
            for sample in family.samples:
                if sample.name in found and sample.labels.get("outcome", "copied") == "copied":
                    found[sample.name][sample.labels["destination"]] = int(sample.value)
        objects, size_bytes = found.values()
        return {name: ObjectTotals(count, size_bytes.get(name, 0)) for name, count in objects.items()}

    def new_messages(self) -> list[str]:
        """Return the log messages since the last call, without times and levels."""
        lines = self._log_lines()
        new, self._read_lines = lines[self._read_lines :], len(lines)
        return [line.split(" ", 3)[-1] for line in new]

    def with_log(self, problem: str) -> str:
        """Return an error message about the listener with the end of its log."""
        last = (f"    {line}" for line in self._log_lines()[-LOG_LINES:])
        return "\n".join([f"s3s3 listen {problem}; last lines of its log:", *last])

    def _log_lines(self) -> list[str]:
        return self.process.log.read_text(errors="replace").splitlines()


def run_check(config: Path) -> list[str]:
    """Run `s3s3 check`; return the destinations that verify copies themselves.

    Raises:
        ServerFailed: it did not end within `CHECK_TIMEOUT_S`, or found a problem.
    """
    command = [*_S3S3, "check", "--config", str(config), "--json"]
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=CHECK_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise ServerFailed(f"s3s3 check did not end within {CHECK_TIMEOUT_S} s") from error
    if run.returncode != 0:
        raise ServerFailed(f"s3s3 check found a problem:\n{run.stdout or run.stderr}")
    [route] = json.loads(run.stdout)["routes"]
    return [store["name"] for store in route["stores"] if store["content_md5_enforced"] and store["etag_is_md5"]]


class BucketRun(NamedTuple):
    """The result of `s3s3 bucket`. `counts` has the outcomes by destination from the summary."""

    status: int
    output: str
    counts: dict[str, dict[str, int]]


def run_bucket(config: Path) -> BucketRun:
    """Run `s3s3 bucket`.

    Raises:
        ServerFailed: it did not end within `BUCKET_TIMEOUT_S`.
    """
    report = config.parent / "report.jsonl"
    command = [*_S3S3, "bucket", "--config", str(config), "--report", str(report)]
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=BUCKET_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise ServerFailed(f"s3s3 bucket did not end within {BUCKET_TIMEOUT_S} s") from error
    last_line = report.read_text().splitlines()[-1:] if report.exists() else []
    summary = json.loads(last_line[0]).get("summary", {}) if last_line else {}
    return BucketRun(run.returncode, run.stdout or run.stderr, summary.get("destinations", {}))
