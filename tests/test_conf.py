"""What has s3s3 run: the templates for supervisord, systemd and cron."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from configparser import RawConfigParser
from pathlib import Path

import pytest

from s3s3.scripts.templates import supervisord_conf
from s3s3.tasks import DRAIN_S

HERE = Path(__file__).parents[1]
SUPERVISORD, CONF = HERE / "supervisord", HERE / "conf"
UNITS = sorted(CONF.glob("s3s3-*.*r*"))
PROGRAMS = Path(sys.prefix) / "bin"

MAX_DRAIN_S = DRAIN_S + 10
"""--drain-s unless told otherwise, and what Redis may take to hear of it."""


def read(text: str) -> RawConfigParser:
    conf = RawConfigParser(strict=False)  # systemd takes a key several times
    conf.optionxform = str  # type: ignore[assignment,method-assign]
    conf.read_string(text)
    return conf


def supervised() -> list[tuple[str, RawConfigParser]]:
    return [(path.name, read(path.read_text())) for path in sorted(SUPERVISORD.glob("*.conf"))]


def command_lines() -> dict[str, str]:
    """Every command line that the templates hold, by where it stands."""
    found = {}
    for name, conf in supervised():
        for section in conf.sections():
            if conf.has_option(section, "command"):
                found[f"{name} {section}"] = conf[section]["command"]
    for path in CONF.glob("*.service"):
        found[path.name] = read(path.read_text())["Service"]["ExecStart"].replace("/usr/local/bin/", "")
    for line in (CONF / "s3s3.crontab").read_text().splitlines():
        if line[:1].isdigit():
            found["s3s3.crontab"] = line.partition("flock --nonblock /etc/s3s3/s3s3.toml ")[2].partition(" 2>&1 |")[0]
    return found


def test_there_is_a_command_in_every_template() -> None:
    assert len(command_lines()) == 8
    assert all(line.split()[0] in ("s3s3", "s3s3tick") for line in command_lines().values())


@pytest.mark.parametrize("line", sorted(set(command_lines().values())))
def test_every_command_line_is_one_that_s3s3_takes(line: str) -> None:
    command, *arguments = shlex.split(line.replace("s3s3tick", "s3s3 bucket"))
    nowhere = ["--config", "/there/is/no/such/file.toml"]
    ended = subprocess.run(
        [PROGRAMS / command, *arguments, *nowhere], capture_output=True, text=True, timeout=60, check=False
    )
    assert "usage:" not in ended.stderr
    assert ended.stderr.startswith("/there/is/no/such/file.toml: no such configuration file")


def test_the_printed_supervisord_conf_is_the_one_in_the_folder_and_says_the_same_as_its_parts() -> None:
    assert (SUPERVISORD / "supervisord.conf").read_text() == supervisord_conf()
    whole = read(supervisord_conf())
    for part in ("s3s3listen.conf", "s3s3bucket-tick.conf"):
        conf = read((SUPERVISORD / part).read_text())
        (section,) = conf.sections()
        of_part, of_whole = dict(conf[section]), dict(whole[section])
        of_whole.pop("directory")
        of_whole["stderr_logfile"] = of_whole["stderr_logfile"].replace("%(here)s", "/var/log/supervisor")
        assert of_part == of_whole


def test_supervisord_waits_longer_than_copies_may_drain() -> None:
    waits = [conf.getint(section, "stopwaitsecs") for _, conf in supervised() for section in conf.sections()
             if conf.has_option(section, "command")]  # fmt: skip
    assert len(waits) == 5
    assert min(waits) > MAX_DRAIN_S


def test_systemd_waits_longer_than_copies_may_drain_and_starts_a_listener_again() -> None:
    listen, bucket = (read((CONF / f"s3s3-{verb}.service").read_text())["Service"] for verb in ("listen", "bucket"))
    assert int(listen["TimeoutStopSec"]) > MAX_DRAIN_S
    assert int(bucket["TimeoutStopSec"]) > MAX_DRAIN_S
    assert listen["Restart"] == "always"


def test_both_services_are_confined_alike() -> None:
    listen, bucket = ((CONF / f"s3s3-{verb}.service").read_text() for verb in ("listen", "bucket"))
    confinement = listen.partition("# Objects that must wait")[2].partition("\n\n[Install]")[0]
    for setting in ("NoNewPrivileges=yes", "ProtectSystem=strict", "PrivateTmp=yes", "DynamicUser=yes"):
        assert setting in confinement
    assert bucket.rstrip().endswith(confinement)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze here")
def test_systemd_finds_no_fault_with_the_units(tmp_path: Path) -> None:
    assert len(UNITS) == 3
    for unit in UNITS:
        text = unit.read_text().replace("/usr/local/bin/s3s3", f'"{sys.executable}"')
        (tmp_path / unit.name).write_text(text)
    command = ["systemd-analyze", "verify", "--man=no", *(str(tmp_path / unit.name) for unit in UNITS)]
    verified = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (verified.returncode, verified.stderr) == (0, "")


def test_cron_would_take_every_line_of_the_crontab() -> None:
    lines = [line for line in (CONF / "s3s3.crontab").read_text().splitlines() if line and not line.startswith("#")]
    assert re.fullmatch(r"PATH=\S+", lines[0])
    assert re.fullmatch(r"([\d*/,-]+ ){5} s3s3  flock --nonblock [^%]+", lines[1]), "cron reads a % as an end of line"
    assert len(lines) == 2


def test_flock_leaves_a_run_alone_that_is_under_way(tmp_path: Path) -> None:
    file = tmp_path / "s3s3.toml"
    file.write_text("")
    file.chmod(0o400)
    again = ["flock", "--nonblock", str(file), "echo", "a second run"]
    ended = subprocess.run(["flock", "--nonblock", file, *again], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (1, "", "")
