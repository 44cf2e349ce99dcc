"""What s3s3 is shipped as: wheel and sdist, the image, what Compose and Kubernetes run."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from configparser import RawConfigParser
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from s3s3 import __version__
from s3s3.scripts.main import VERBS

ROOT = Path(__file__).parents[1]
CONTAINER = ROOT / "conf" / "container"
MANIFESTS = sorted((ROOT / "conf" / "kubernetes").glob("*.yaml"))

OLDEST_AND_NEWEST_KUBERNETES = ["1.25", "1.33"]


def setup_cfg() -> RawConfigParser:
    parsed = RawConfigParser()
    parsed.read(ROOT / "setup.cfg")
    return parsed


def instructions() -> list[tuple[str, str]]:
    """The image's instructions, as (name, rest)."""
    lines = [line for line in (CONTAINER / "Containerfile").read_text().splitlines() if line and line[0] != "#"]
    return [(name, rest) for name, _, rest in (line.partition(" ") for line in lines)]


def documents() -> list[dict[str, Any]]:
    return [document for path in MANIFESTS for document in yaml.safe_load_all(path.read_text())]


def pod(document: dict[str, Any]) -> dict[str, Any]:
    spec = document["spec"]
    if document["kind"] == "CronJob":
        spec = spec["jobTemplate"]["spec"]
    found: dict[str, Any] = spec["template"]["spec"]
    return found


def services() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = yaml.safe_load((CONTAINER / "compose.yml").read_text())["services"]
    return found


def of_s3s3() -> dict[str, dict[str, Any]]:
    return {name: service for name, service in services().items() if service["image"] == "s3s3"}


# -- wheel and sdist


@pytest.mark.long
@pytest.mark.timeout(300)
def test_the_wheel_that_the_sdist_gives_installs_and_runs(tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in listed.splitlines():
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, checkout / name)
    # As `make docs` does.
    subprocess.run([sys.executable, "-m", "sphinx", "-Q", "-b", "man", "docs", "docs/_build/man"],
                   cwd=checkout, check=True, env={**os.environ, "PYTHONPATH": str(checkout)})  # fmt: skip
    subprocess.run(["sh", ".ci/completion", sys.executable, "docs/_build/completion"], cwd=checkout, check=True)
    (checkout / "conf" / "container" / "secrets.env").write_text("KEY=hush")
    subprocess.run([sys.executable, "-m", "build", "--outdir", tmp_path, checkout], check=True)
    data_files = {name for name in listed.splitlines() if name.startswith("s3s3/") and not name.endswith(".py")}
    assert "s3s3/queue/lua/claim.lua" in data_files
    shared = {name for name in listed.splitlines() if name.startswith(("conf/", "supervisord/"))}
    (sdist,), (wheel,) = tmp_path.glob("*.tar.gz"), tmp_path.glob("*.whl")
    with tarfile.open(sdist) as archive:
        packed = archive.getnames()
    assert {f"s3s3-{__version__}/{name}" for name in data_files | shared | {"CHANGELOG.md"}} <= set(packed)
    assert not [name for name in packed if name.endswith("secrets.env")]
    packed = zipfile.ZipFile(wheel).namelist()
    assert data_files <= set(packed)
    assert not [name for name in packed if name.startswith(("tests/", "bench/"))]
    share = f"s3s3-{__version__}.data/data/share/"
    assert {name.removeprefix(share) for name in packed if name.startswith(share)} == {
        *(f"s3s3/{name}" for name in shared),
        "doc/s3s3/CHANGELOG.md", "man/man1/s3s3.1", "man/man5/s3s3.toml.5", "bash-completion/completions/s3s3",
        "zsh/site-functions/_s3s3", "fish/vendor_completions.d/s3s3.fish",
    }  # fmt: skip

    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    for option, what in (("--requirement", CONTAINER / "requirements.txt"), ("--no-deps", wheel)):
        subprocess.run([python, "-m", "pip", "install", "--quiet", option, what], check=True)
    subprocess.run([python, "-m", "pip", "check"], check=True)
    shown = subprocess.run([tmp_path / "venv/bin/s3s3", "--version"], capture_output=True, text=True, check=True)
    assert shown.stdout == f"s3s3 {__version__}\n"
    for name in setup_cfg()["options.entry_points"]["console_scripts"].split("\n")[1:]:
        command = tmp_path / "venv/bin" / name.partition(" = ")[0]
        subprocess.run([command, "--help"], cwd=tmp_path, check=True, capture_output=True)


# -- the image


def pins(path: Path, environment: dict[str, str]) -> dict[str, str]:
    """The versions in a file that `make constraints` wrote."""
    lines = [Requirement(line) for line in path.read_text().splitlines() if not line.startswith("#")]
    here = [line for line in lines if line.marker is None or line.marker.evaluate(environment)]
    return {canonicalize_name(line.name): str(line.specifier).removeprefix("==") for line in here}


@pytest.mark.parametrize("python", ["3.10", "3.11", "3.12", "3.13", "3.14"])
def test_the_versions_for_ci_suit_every_extra(python: str) -> None:
    environment = {"python_version": python, "python_full_version": f"{python}.0"}
    versions = pins(ROOT / ".ci" / "constraints.txt", environment)
    sections = setup_cfg()["options"]["install_requires"], *setup_cfg()["options.extras_require"].values()
    wanted = [Requirement(line) for text in sections for line in text.split("\n")[1:] if not line.startswith("#")]
    for one in wanted:
        if one.marker is None or one.marker.evaluate(environment):
            assert one.specifier.contains(versions[canonicalize_name(one.name)]), f"{one}: run make constraints"


def test_each_requirement_has_a_floor_and_ends_before_the_major_version_after_the_tested_one() -> None:
    environment = {"python_version": "3.10", "python_full_version": "3.10.0"}
    tested = pins(ROOT / ".ci" / "constraints.txt", environment)
    for one in install_requires():
        major = int(tested[canonicalize_name(one.name)].partition(".")[0])
        bounds = {bound.operator: bound.version for bound in one.specifier}
        assert set(bounds) == {">=", "<"}, one
        assert bounds["<"] == str(major + 1), one


def install_requires() -> list[Requirement]:
    return [Requirement(line) for line in setup_cfg()["options"]["install_requires"].split("\n")[1:]]


def test_the_image_has_all_that_s3s3_needs_at_versions_that_suit_it() -> None:
    wanted = install_requires()
    python = re.search(r"python:(\d\.\d+)", (CONTAINER / "Containerfile").read_text())[1]  # type: ignore[index]
    of_the_image = {"python_version": python, "python_full_version": f"{python}.0"}
    versions = pins(CONTAINER / "requirements.txt", of_the_image)
    for one in wanted:
        if one.marker is None or one.marker.evaluate(of_the_image):
            assert one.specifier.contains(versions[canonicalize_name(one.name)]), f"{one}: run make constraints"


def test_what_the_image_copies_is_there_and_what_it_runs_is_installed() -> None:
    for name, rest in instructions():
        if name == "COPY" and not rest.startswith("--from"):
            *sources, _ = rest.split()
            assert [source for source in sources if not (ROOT / source).exists()] == []
    found = dict(instructions())
    assert found["ENTRYPOINT"] == '["s3s3"]'
    assert found["CMD"] == '["listen"]'


@pytest.mark.long
def test_what_the_image_copies_suffices_to_install_s3s3(tmp_path: Path) -> None:
    for name, rest in instructions():
        if name == "COPY" and not rest.startswith("--from"):
            *sources, target = rest.split()
            for source in sources:
                copied = tmp_path / target / ("" if (ROOT / source).is_dir() else Path(source).name)
                copied.parent.mkdir(parents=True, exist_ok=True)
                copy = shutil.copytree if (ROOT / source).is_dir() else shutil.copy
                copy(ROOT / source, copied)
    build = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--wheel-dir",
        str(tmp_path / "wheel"),
        str(tmp_path),
    ]
    subprocess.run(build, check=True)
    assert len(list((tmp_path / "wheel").iterdir())) == 1


def test_an_arbitrary_user_can_write_to_the_folders_for_data() -> None:
    """Of group 0, as OpenShift and `podman run --user` choose it."""
    (made,) = [rest for name, rest in instructions() if name == "RUN" and rest.startswith("install -d")]
    options = made.split()
    assert options[options.index("-g") + 1] == "0"
    assert options[options.index("-m") + 1] == "770"


def test_the_image_is_not_roots() -> None:
    names = [name for name, _ in instructions()]
    assert names.index("USER") < names.index("ENTRYPOINT")
    assert int(dict(instructions())["USER"].partition(":")[0]) > 0


# -- Compose


def test_compose_runs_verbs_of_s3s3_with_nothing_that_can_be_written() -> None:
    assert {"listen", "bucket", "mirror"} <= set(of_s3s3())
    for service in of_s3s3().values():
        assert service["command"][0] in VERBS
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["build"]["context"] == "../.."
        assert service["stop_grace_period"] == "90s"


def test_compose_gives_the_mirrors_a_place_that_the_image_has_and_volumes_that_there_are() -> None:
    (made,) = [rest for name, rest in instructions() if name == "RUN" and rest.startswith("install -d")]
    text = yaml.safe_load((CONTAINER / "compose.yml").read_text())
    for service in of_s3s3().values():
        for volume in service["volumes"]:
            name, where = volume.split(":")[:2]
            if not name.startswith("."):
                assert name in text["volumes"]
                assert where in made.split()


def test_git_ignores_the_files_with_secrets_that_compose_reads() -> None:
    (env_file,) = {service["env_file"] for service in of_s3s3().values()}
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    assert {f"/conf/container/{env_file}", "/conf/container/s3s3.toml"} <= set(ignored)


def test_the_queue_that_compose_keeps_outlives_a_restart() -> None:
    command = services()["redis"]["command"]
    assert command[command.index("--appendonly") + 1] == "yes"
    assert command[command.index("--maxmemory-policy") + 1] == "noeviction"


# -- releases


def test_the_release_script_is_valid_shell_and_is_run_by_make() -> None:
    script = ROOT / ".ci" / "release"
    subprocess.run(["sh", "-n", script], check=True)
    assert "Not run by .ci/run" in script.read_text().splitlines()[1]
    output = subprocess.run(["make", "-n", "release"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert ".ci/release" in output


# -- Kubernetes


@pytest.mark.parametrize("version", OLDEST_AND_NEWEST_KUBERNETES)
def test_the_manifests_are_what_kubernetes_takes(version: str) -> None:
    assert {document["kind"] for document in documents()} >= {"Deployment", "CronJob"}
    for document in documents():
        kubernetes_validate.validate(document, version, strict=True)


def test_every_pod_runs_a_verb_of_this_version_as_nobody_and_writes_to_its_spool_alone() -> None:
    for document in documents():
        spec = pod(document)
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["terminationGracePeriodSeconds"] > 60
        volumes = {volume["name"] for volume in spec["volumes"]}
        for container in spec["containers"]:
            assert container["image"] == f"s3s3:{__version__}"
            assert container["args"][0] in VERBS
            assert container["securityContext"]["readOnlyRootFilesystem"] is True
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes


def test_the_configuration_in_a_pod_can_be_read_by_its_user_and_by_no_other() -> None:
    for document in documents():
        spec = pod(document)
        (secret,) = [volume["secret"] for volume in spec["volumes"] if "secret" in volume]
        assert secret["defaultMode"] == 0o440
        assert spec["securityContext"]["fsGroup"] == spec["securityContext"]["runAsGroup"] != 0


def test_kubernetes_restarts_a_pod_for_its_own_health_only() -> None:
    probed = [each for document in documents() for each in pod(document)["containers"] if "livenessProbe" in each]
    assert probed
    for container in probed:
        assert container["livenessProbe"]["httpGet"]["path"] == "/healthz"
        assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
