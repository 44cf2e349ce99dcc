"""`make` names what is missing on the machine and the command to install it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parents[1]
TOOLS = ["sh", "cat", "cksum", "cut", "dirname", "grep", "head", "id", "mkdir", "sed", "tail", "tr"]

OLD_PYTHON = """#!/bin/sh
[ "$1" = --version ] && echo "Python 3.8.18"
[ "$1" = --version ]
"""
WITHOUT_ENSUREPIP = f"""#!/bin/sh
case "$2" in *ensurepip*) exit 1 ;; esac
exec '{sys.executable}' "$@"
"""


class Checkout:
    """What is needed of a checkout, in a folder with a space in its name, on a machine of few programs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "check out"
        (self.folder / ".ci").mkdir(parents=True)
        for name in (".ci/venv", "setup.cfg", "pyproject.toml"):
            shutil.copy(HERE / name, self.folder / name)
        self.programs = folder / "bin"
        self.programs.mkdir()
        for tool in TOOLS:
            (self.programs / tool).symlink_to(shutil.which(tool) or tool)

    def install(self, name: str, text: str) -> None:
        program = self.programs / name
        program.write_text(text)
        program.chmod(0o755)

    def run(self, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["/bin/sh", self.folder / ".ci" / "venv", ".venv", "demo"],
            env={"PATH": str(self.programs), "GOAL": "demo", "PIP_CONFIG_FILE": os.devnull, **environment},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def make_demo(self, **environment: str) -> str:
        """Return the message printed instead of creating the environment."""
        made = self.run(**environment)
        assert made.returncode == 1
        assert "Traceback" not in made.stderr
        assert not (self.folder / ".venv" / "installed-demo").exists()
        return made.stderr


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


def command_in(message: str) -> str:
    """The one command that a message names."""
    (command,) = (line.strip() for line in message.splitlines() if line.startswith("    "))
    return command


def test_no_python_at_all(checkout: Checkout) -> None:
    output = checkout.make_demo()
    assert "s3s3 needs Python 3.10 or newer; found: none" in output
    assert command_in(output).startswith("make demo PYTHON=")


def test_an_old_python_where_apt_has_a_newer_one(checkout: Checkout) -> None:
    checkout.install("python3", OLD_PYTHON)
    checkout.install("apt-cache", '#!/bin/sh\n[ "$2" = python3.11-venv ]\n')
    output = checkout.make_demo()
    assert "found: Python 3.8.18" in output
    assert command_in(output) == "apt install python3.11-venv"


def test_an_old_python_is_passed_over_for_a_newer_one_which_lacks_the_venv_module(checkout: Checkout) -> None:
    checkout.install("python3", OLD_PYTHON)
    checkout.install("python3.12", WITHOUT_ENSUREPIP)
    output = checkout.make_demo()
    assert "cannot create virtual environments, because its module ensurepip is missing" in output
    assert command_in(output).startswith("make demo PYTHON=")


def test_a_python_that_is_named_and_not_there(checkout: Checkout) -> None:
    output = checkout.make_demo(PYTHON="/no/such/python")
    assert "PYTHON=/no/such/python is not an executable program" in output
    assert command_in(output) == "make demo"


def test_a_python_that_is_named_and_too_old(checkout: Checkout) -> None:
    checkout.install("old python", OLD_PYTHON)
    output = checkout.make_demo(PYTHON="old python")
    assert "PYTHON=old python is Python 3.8.18; s3s3 needs 3.10 or newer" in output


UV_THAT_INSTALLS = f"""#!/bin/sh
[ "$1" = venv ] && exec '{sys.executable}' -m venv --without-pip .venv
echo "$@" >installed
"""


def test_uv_installs_where_it_is_on_path(checkout: Checkout) -> None:
    checkout.install("uv", UV_THAT_INSTALLS)
    checkout.install("python3", WITHOUT_ENSUREPIP)
    output = checkout.run(CONSTRAINTS="pyproject.toml")
    assert output.returncode == 0, output.stderr
    assert "installing into .venv with uv ... done" in output.stderr
    arguments = (checkout.folder / "installed").read_text()
    assert arguments == "pip install --quiet --python .venv/bin/python -e .[demo] --constraint pyproject.toml\n"
    assert (checkout.folder / ".venv" / "installed-demo").exists()


@pytest.mark.long
@pytest.mark.parametrize("has_uv", [False, True])
def test_a_package_index_that_cannot_be_reached(checkout: Checkout, has_uv: bool) -> None:
    if has_uv:
        checkout.install("uv", "#!/bin/sh\nexit 1\n")
    nowhere = {"PIP_INDEX_URL": "http://127.0.0.1:1/simple", "PIP_RETRIES": "1"}
    output = checkout.make_demo(PYTHON=sys.executable, **nowhere)
    assert "cannot reach the package index ([Errno 111] Connection refused)" in output
    assert command_in(output) == "make demo PIP_INDEX_URL=https://HOST/simple"
