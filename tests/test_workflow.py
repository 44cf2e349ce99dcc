"""What runs outside of this repository: the public CI, dependabot, Read the Docs, pre-commit."""

from __future__ import annotations

import re
import subprocess
from configparser import RawConfigParser
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
WORKFLOW = ROOT / ".github" / "workflows" / "ci.yml"
FILES = [*ROOT.glob(".*.yaml"), *(ROOT / ".github").rglob("*.yml")]


def jobs() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = yaml.safe_load(WORKFLOW.read_text())["jobs"]
    return found


def supported_pythons() -> list[str]:
    parsed = RawConfigParser()
    parsed.read(ROOT / "setup.cfg")
    return re.findall(r"Python :: (3\.\d+)", parsed["metadata"]["classifiers"])


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_the_file_is_yaml(path: Path) -> None:
    assert isinstance(yaml.safe_load(path.read_text()), dict)


def test_every_command_of_the_workflow_exists() -> None:
    commands = [line for job in jobs().values() for step in job["steps"] for line in step.get("run", "").splitlines()]
    ours = [line for line in commands if line.startswith(("make ", ".ci/"))]
    assert {"make check", "make test ARGS=--long", ".ci/run"} <= set(ours)
    for line in ours:
        if line.startswith("make "):
            subprocess.run(["make", "-n", *line.split()[1:]], cwd=ROOT, check=True, capture_output=True)
        else:
            subprocess.run(["sh", "-n", line.split()[0]], cwd=ROOT, check=True)
    (build,) = [line for line in commands if line.startswith("docker build")]
    assert (ROOT / build.split("--file ")[1].split()[0]).exists()


def test_the_workflow_and_test_all_run_each_supported_python() -> None:
    pythons = supported_pythons()
    matrix = jobs()["test"]["strategy"]["matrix"]
    assert matrix["python"] == pythons
    assert {(each["python"], each["libraries"]) for each in matrix["include"]} == {
        (pythons[0], "oldest"), (pythons[-1], "newest"),
    }  # fmt: skip
    assert f"for version in {' '.join(pythons)}; do" in (ROOT / ".ci" / "test-all").read_text()
    assert (
        f"for python in python3 {' '.join(f'python{version}' for version in reversed(pythons))}; do"
        in (ROOT / ".ci" / "venv").read_text()
    )


def test_what_the_workflow_sets_is_read_by_the_script_that_installs() -> None:
    script = (ROOT / ".ci" / "venv").read_text()
    for job in jobs().values():
        for name, value in job.get("env", {}).items():
            assert name in script or name == "UV_RESOLUTION"
            assert name != "CONSTRAINTS" or ".ci/constraints.txt" in value


def test_every_job_ends_and_can_only_read() -> None:
    assert yaml.safe_load(WORKFLOW.read_text())["permissions"] == {"contents": "read"}
    assert all(0 < job["timeout-minutes"] <= 120 for job in jobs().values())


def test_pre_commit_has_the_ruff_of_ci() -> None:
    repositories = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    (ruff,) = [each["rev"] for each in repositories if "ruff" in each["repo"]]
    assert f"ruff=={ruff.removeprefix('v')}" in (ROOT / ".ci" / "constraints.txt").read_text().splitlines()


def test_read_the_docs_installs_an_extra_that_exists() -> None:
    read_the_docs = yaml.safe_load((ROOT / ".readthedocs.yaml").read_text())
    parsed = RawConfigParser()
    parsed.read(ROOT / "setup.cfg")
    for install in read_the_docs["python"]["install"]:
        assert set(install["extra_requirements"]) <= set(parsed["options.extras_require"])
    assert (ROOT / read_the_docs["sphinx"]["configuration"]).exists()
