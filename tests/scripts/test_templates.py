from __future__ import annotations

import configparser
import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import pytest

from s3s3 import config
from s3s3.config.kinds import Table, keys_of
from s3s3.config.tables import HttpTable, PubSubTable, Source, WorkerTable
from s3s3.scripts.templates import echo_supervisord_conf, echo_toml_template, supervisord_conf, toml_template
from s3s3.tasks import DRAIN_S

ROOT = Path(__file__).parents[2]


def test_the_template_is_a_valid_configuration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert echo_toml_template([]) == 0
    file = tmp_path / "s3s3.toml"
    file.write_text(capsys.readouterr().out)
    loaded = config.load(file, environ={})
    assert loaded.routes[0].destination_names == ("destination",)


def uncommented(folder: Path) -> Path:
    """Write the template with every key, and the files that it names; return its path."""
    text = re.sub(r"^#(?=\w+ = |\[)", "", toml_template(), flags=re.MULTILINE).replace("/etc/s3s3/", "")
    for name in re.findall(r'_file = "(.*)"', text):
        (folder / name).touch()
    path = folder / "s3s3.toml"
    path.write_text(text)
    return path


def test_the_template_stays_valid_with_every_key_uncommented(tmp_path: Path) -> None:
    route = config.load(uncommented(tmp_path), environ={}).routes[0]
    assert (route.include, route.source.port) == (("*.fits",), 7480)
    assert route.destinations[0].bucket_name == "images-copy"


def test_commented_out_keys_show_the_defaults(tmp_path: Path) -> None:
    as_printed = tmp_path / "printed.toml"
    as_printed.write_text(toml_template())
    printed, active = config.load(as_printed, environ={}), config.load(uncommented(tmp_path), environ={})
    assert (printed.pubsub, printed.worker) == (active.pubsub, active.worker)
    assert printed.http and active.http
    assert printed.http == dataclasses.replace(active.http, token=None, allowed_hosts=()), "these two show examples"


def test_the_template_has_every_key() -> None:
    tables: dict[str, type[Table]] = {"source": Source, "pubsub": PubSubTable, "worker": WorkerTable, "http": HttpTable}
    for name, table in tables.items():
        part = toml_template().partition(f"[{name}]\n")[2]
        part = re.split(r"\n#?\[", part)[0]
        assert set(re.findall(r"^#?(\w+) = ", part, flags=re.MULTILINE)) == set(keys_of(table))


def test_the_template_fits_into_100_columns() -> None:
    assert max(map(len, toml_template().splitlines())) <= 100


def test_the_file_in_conf_equals_the_template() -> None:
    assert (ROOT / "conf" / "s3s3.toml").read_text() == toml_template(), "echo_s3s3_toml_template > conf/s3s3.toml"


def test_the_file_in_supervisord_equals_the_template() -> None:
    assert (ROOT / "supervisord" / "supervisord.conf").read_text() == supervisord_conf()


@pytest.mark.parametrize("path", sorted((ROOT / "conf").glob("*.toml")), ids=lambda path: path.name)
def test_every_configuration_in_conf_is_valid(path: Path) -> None:
    assert config.load(path, environ={}).routes[0].destinations


def test_supervisord_waits_longer_than_a_drain(capsys: pytest.CaptureFixture[str]) -> None:
    assert echo_supervisord_conf([]) == 0
    conf = configparser.RawConfigParser(inline_comment_prefixes=(";",))
    conf.read_string(capsys.readouterr().out)
    programs = [name for name in conf.sections() if name.startswith(("program:", "eventlistener:"))]
    assert "program:s3s3listen" in programs
    assert all(conf.getint(program, "stopwaitsecs") > DRAIN_S for program in programs)


@pytest.mark.parametrize("function", ["echo_toml_template", "echo_supervisord_conf"])
def test_the_commands_exit_with_0(function: str) -> None:
    code = f"import sys; from s3s3.scripts.templates import {function}; sys.exit({function}())"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout
