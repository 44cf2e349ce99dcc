"""Run the commands of a page's ```console blocks, and compare what they print with what the page shows."""

from __future__ import annotations

import difflib
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]

#: What differs from run to run.
VARYING = (
    (r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(\.\d+)?(Z| UTC|[+-]\d\d:\d\d)?", "TIME"),
    (r"TIME to TIME", "TIME"),
    (r"request_id=\S+", "request_id=ID"),
    (r"127\.0\.0\.1:\d+|\w+\.example\.org:\d+", "HOST"),
    (r"HOST/(bucket-\w+|images(-backup)?)", "HOST/BUCKET"),
    (r"(m\d\d\.fits, )+m\d\d\.fits", "KEYS"),
    (r"/\S*/s3s3\.toml", "FILE"),
    (r"duration_s=[\d.]+", "duration_s=N"),
    (r"\b[\d.]+ (ms|s|μs)\b", "DURATION"),
    (r" +", " "),
)


def console_blocks(page: Path, after: str = "", before: str = "") -> list[tuple[str, str]]:
    """The commands on a page, between two texts, each with the output that the page shows."""
    text = page.read_text()
    assert after in text
    assert before in text
    part = text[text.index(after) : text.index(before) if before else None]
    found = re.findall(r"^```console\n\$ (.*?)\n(.*?)^```$", part, re.DOTALL | re.MULTILINE)
    assert len(found) > 2
    return found


def check_block(command: str, output: str, config: Path, instead: Mapping[str, str] | None = None) -> None:
    """Run a command as written; fail if it prints something else than the page shows."""
    program = config.parent / "s3s3"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m s3s3 "$@"\n')
    program.chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{config.parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(REPOSITORY),
        "S3S3_CONFIG": str(config),
    }
    for written, meant in (instead or {}).items():
        command = command.replace(written, meant)
    done = subprocess.run(
        ["bash", "-c", command], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    printed, shown = _normal(done.stdout + done.stderr), _normal(output)
    difference = "\n".join(difflib.ndiff(shown, printed))
    assert printed == shown, f"$ {command}\n{done.stdout}{done.stderr}\n{difference}"


def _normal(text: str) -> list[str]:
    for pattern, replacement in VARYING:
        text = re.sub(pattern, replacement, text)
    return [line.strip() for line in text.splitlines()]
