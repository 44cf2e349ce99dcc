from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from s3s3 import __version__
from s3s3.scripts import bucket, cache, cli, jobs, listen, main, publish
from tests.scripts.command import Main, run


@pytest.mark.parametrize(
    ("command", "arguments", "words"),
    [
        (jobs.main, ("retry",), ("usage: s3s3 jobs retry", "--all", "--config", "a named key is not a dead letter")),
        (jobs.main, (), ("ACTION", "put dead letters back on the queue", "Redis is unreachable")),
        (cache.main, ("evict",), ("usage: s3s3 cache evict", "low_fill", "a named object is not cached")),
        (bucket.main, (), ("every object is proven to be equal", "a dry run found differences")),
    ],
)
def test_each_action_has_help_and_exit_statuses_of_its_own(
    command: Main, arguments: tuple[str, ...], words: tuple[str, ...]
) -> None:
    done = run(command, *arguments, "--help")
    assert done.status == 0
    assert [word for word in words if word not in done.out] == []
    assert max(map(len, done.out.splitlines())) <= 80


@pytest.mark.parametrize("verb", main.VERBS)
def test_what_prints_a_table_prints_json_and_every_command_can_be_quiet(verb: str) -> None:
    if verb in ("completion", "convert", "demo"):
        return
    text = run(importlib.import_module(f"s3s3.scripts.{verb}").main, "--help").out
    assert ("--json" in text) is (verb in ("bucket", "publish", "explain", "jobs", "check", "cache"))
    assert "--quiet" in text or verb == "config"


@pytest.mark.parametrize("arguments", [("--version", "--json"), ("--json", "--version")])
def test_the_versions_are_printed_as_json(arguments: tuple[str, ...]) -> None:
    assert run(main.main, *arguments).json == {"s3s3": __version__, "python": sys.version.split()[0]}
    assert run(main.main, "--version").out == f"s3s3 {__version__}\n"


def test_help_without_a_failure_status_does_not_mention_one() -> None:
    assert "\n  1  " not in run(jobs.main, "pause", "--help").out


@pytest.mark.parametrize(
    ("command", "arguments", "meant"),
    [
        (main.main, ("bukcet",), "did you mean bucket?"),
        (main.main, ("--verson",), "unknown verb '--verson'; see s3s3 --help"),
        (jobs.main, ("retr",), "did you mean retry?"),
        (jobs.main, ("retry", "--rout", "x", "k"), "unrecognized arguments: --rout; did you mean --route?"),
        (jobs.main, ("drop", "--destinaton=x", "k"), "did you mean --destination?"),
        (cache.main, ("evikt",), "did you mean evict?"),
        (listen.main, ("--log-format", "jsn"), "did you mean json?"),
        (publish.main, ("k", "--xyz"), "unrecognized arguments: --xyz\n"),
    ],
)
def test_a_misspelt_word_is_wrong_usage_and_the_nearest_is_named(
    command: Main, arguments: tuple[str, ...], meant: str
) -> None:
    done = run(command, *arguments)
    assert done.status == cli.WRONG_USAGE
    assert meant in done.err


class TestJobs:
    def test_options_before_and_after_the_action_count(self) -> None:
        parser = jobs.command_line()
        for arguments in (["--route", "r", "--config", "f", "list"], ["list", "--config", "f", "--route", "r"],
                          ["--config", "f", "--route", "r"]):  # fmt: skip
            parsed = parser.parse_args(arguments)
            assert (parsed.action, parsed.route, parsed.config, parsed.limit) == ("list", "r", "f", 20), arguments

    def test_keys_may_be_anywhere_among_the_options_and_after_two_dashes(self) -> None:
        arguments = ["retry", "a", "--route", "r", "b", "--", "--all"]
        parsed = cli.parse_with_keys(jobs.command_line(), arguments)
        assert (parsed.keys, parsed.all, parsed.route) == (["a", "b", "--all"], False, "r")

    @pytest.mark.parametrize("arguments", [("pause", "k"), ("list", "--", "k"), ("pause", "--all"), ("list", "--all")])
    def test_keys_for_an_action_without_keys_are_wrong_usage(self, arguments: tuple[str, ...]) -> None:
        assert run(jobs.main, *arguments).status == cli.WRONG_USAGE

    @pytest.mark.parametrize("arguments", [("retry",), ("drop",), ("retry", "--all", "k")])
    def test_either_keys_or_all_are_required(self, arguments: tuple[str, ...]) -> None:
        done = run(jobs.main, *arguments)
        assert done.status == cli.WRONG_USAGE
        assert "name the keys of the dead letters, or use --reason or --all" in done.err


def test_the_package_can_be_run(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-m", "s3s3", "--version"], cwd=tmp_path, env=environment, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    assert done.stdout.startswith("s3s3 ")
