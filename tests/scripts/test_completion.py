"""Completion by a real bash."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from s3s3.scripts.completion import main
from s3s3.scripts.main import VERBS
from tests.scripts.command import config_file, run
from tests.scripts.test_jobs import dead_letter

#: What readline sets before it calls a completion function (bash manual, "Programmable Completion").
COMPLETE = """
source "$1"
COMP_LINE=$2; COMP_POINT=${#COMP_LINE}; COMP_TYPE=9
_python_argcomplete "${COMP_LINE%% *}"
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def bash_script() -> str:
    """What `s3s3 completion bash` prints."""
    command = [sys.executable, "-m", "s3s3.scripts.main", "completion", "bash"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.fixture
def commands(tmp_path: Path, bash_script: str) -> Path:
    """A folder with the console scripts, and the script that completes them."""
    for name, module in (("s3s3", "main"), ("s3s3bucket", "bucket"), ("s3s3listen", "listen")):
        script = tmp_path / name
        script.write_text(f"#!{sys.executable}\nfrom s3s3.scripts.{module} import main\nraise SystemExit(main())\n")
        script.chmod(0o755)
    (tmp_path / "completion.bash").write_text(bash_script)
    return tmp_path


def completed(commands: Path, line: str) -> set[str]:
    """Return what bash offers for the last word of a command line."""
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("bash is not installed")
    done = subprocess.run(
        [bash, "-c", COMPLETE, "bash", "completion.bash", line],
        capture_output=True, text=True, check=True, cwd=commands,
        env={**os.environ, "PATH": f"{commands}:{os.environ['PATH']}", "S3S3_CONFIG": str(commands / "s3s3.toml")},
    )  # fmt: skip
    assert not done.stderr
    return {word.strip() for word in done.stdout.splitlines() if word.strip()}


def test_verbs_are_completed(commands: Path) -> None:
    assert completed(commands, "s3s3 ") >= set(VERBS)
    assert completed(commands, "s3s3 c") == {"cache", "check", "completion", "config", "convert"}


@pytest.mark.long
def test_options_of_each_verb_are_completed(commands: Path) -> None:
    options = {"--dry-run", "--dest-bucket", "--distributed", "--drain-timeout"}
    assert completed(commands, "s3s3 bucket --d") == options
    for verb in VERBS:
        assert "--help" in completed(commands, f"s3s3 {verb} --h")


def test_options_of_commands_that_are_one_verb_are_completed(commands: Path) -> None:
    assert "--reconcile-interval" in completed(commands, "s3s3listen --")
    assert completed(commands, "s3s3bucket --log-format j") == {"json"}


def test_arguments_and_values_with_choices_are_completed(commands: Path) -> None:
    assert completed(commands, "s3s3 jobs re") >= {"retry", "resume"}
    assert completed(commands, "s3s3 listen --log-format ") == {"plain", "json"}


def test_file_names_are_completed(commands: Path) -> None:
    assert completed(commands, "s3s3 bucket --report s3s3b") == {"s3s3bucket"}


@pytest.mark.long
def test_routes_and_destinations_are_completed_from_the_configuration(commands: Path) -> None:
    assert completed(commands, "s3s3 jobs --route d") == set(), "there is no configuration"
    config_file(commands, "")
    assert completed(commands, "s3s3 jobs --route d") == {"default"}
    assert completed(commands, "s3s3 jobs pause --destination ") == {"dest-ceph", "dest-swift"}
    assert completed(commands, "s3s3bucket --route ") == {"default"}


@pytest.mark.long
@pytest.mark.real
def test_keys_of_dead_letters_are_completed_from_the_queue(commands: Path, redis_url: str) -> None:
    config_file(commands, redis_url)
    dead_letter(redis_url, "images/a.fits", "images/b.fits")
    dead_letter(redis_url, "raw.fits", destination="dest-swift")
    assert completed(commands, "s3s3 jobs retry images/") == {"images/a.fits", "images/b.fits"}
    assert completed(commands, "s3s3 jobs drop --destination dest-swift ") >= {"raw.fits"}
    assert "images/a.fits" not in completed(commands, "s3s3 jobs drop --destination dest-swift ")


def test_without_redis_no_keys_are_completed(commands: Path) -> None:
    config_file(commands, "redis://127.0.0.1:9")
    assert completed(commands, "s3s3 jobs retry k") == set()


def test_a_script_is_printed_for_each_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    scripts = {shell: run(main, shell).out for shell in ("bash", "zsh", "fish")}
    assert "complete -o nospace" in scripts["bash"]
    assert "compinit" in scripts["zsh"]
    assert "function __fish_s3s3listen_complete" in scripts["fish"]
    monkeypatch.setenv("SHELL", "/usr/bin/fish")
    assert run(main).out == scripts["fish"]
    assert run(main, "tcsh").status == 2


def test_argcomplete_is_imported_only_to_complete() -> None:
    code = "import sys; from s3s3.scripts import bucket, main; sys.exit('argcomplete' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
