"""What real bash completes."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest

from s3s3.scripts.completion import main
from s3s3.scripts.main import VERBS


@pytest.fixture(scope="module")
def script() -> str:
    done = subprocess.run(
        [sys.executable, "-m", "s3s3.scripts.main", "completion", "bash"], capture_output=True, text=True, check=True
    )
    return done.stdout


def completed(script: str, *words: str) -> set[str]:
    """Have bash complete the last word, as readline does."""
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("there is no bash here")
    asked = script + (
        'COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _s3s3 "$1" "${@: -1}" "${@: -2:1}"\n'
        "printf '%s\\n' \"${COMPREPLY[@]}\""
    )
    done = subprocess.run([bash, "-eu", "-c", asked, "bash", *words], capture_output=True, text=True, check=True)
    assert not done.stderr
    return set(done.stdout.split())


def test_the_verbs_are_completed(script: str) -> None:
    assert completed(script, "s3s3", "") == set(VERBS)
    assert completed(script, "s3s3", "c") == {"cache", "check", "completion", "convert"}


def test_the_options_of_each_verb_are_completed(script: str) -> None:
    assert completed(script, "s3s3", "bucket", "--d") == {"--dry-run", "--dest-bucket", "--distributed", "--drain-s"}
    assert "--reconcile-interval" in completed(script, "/usr/bin/s3s3listen", "--")
    for verb in VERBS:
        assert "--help" in completed(script, "s3s3", verb, "--h")


def test_words_and_values_to_choose_from_are_completed(script: str) -> None:
    assert completed(script, "s3s3", "jobs", "re") >= {"retry", "resume"}
    assert completed(script, "s3s3", "listen", "--log-format", "") == {"plain", "json"}
    assert completed(script, "s3s3bucket", "--log-format", "j") == {"json"}


def test_after_an_option_that_takes_anything_the_shell_completes_names_of_files(script: str) -> None:
    assert completed(script, "s3s3", "bucket", "--report", "") == set()
    assert "complete -o default -F _s3s3 s3s3" in script


def test_for_zsh_it_is_what_its_bash_emulation_reads(capsys: pytest.CaptureFixture[str], script: str) -> None:
    assert main(["zsh"]) == 0
    said = capsys.readouterr().out
    assert said.endswith(script)
    assert "bashcompinit" in said
