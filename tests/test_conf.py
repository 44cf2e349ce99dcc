"""The templates for supervisord, systemd and cron."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from configparser import RawConfigParser
from pathlib import Path

import pytest

from s3s3.scripts import tick
from s3s3.scripts.templates import supervisord_conf
from s3s3.tasks import DRAIN_S

HERE = Path(__file__).parents[1]
SUPERVISORD, CONF = HERE / "supervisord", HERE / "conf"
UNITS = sorted(CONF.glob("s3s3-*.*r*"))
LISTENERS = ("s3s3-listen.service", "s3s3-listen@.service")
PROGRAMS = Path(sys.prefix) / "bin"

#: The default of --drain-timeout, and 10 s for Redis to take the jobs back.
MAX_DRAIN_S = DRAIN_S + 10


def parsed(text: str) -> RawConfigParser:
    conf = RawConfigParser(strict=False)  # systemd allows a key to appear several times
    conf.optionxform = str  # type: ignore[assignment,method-assign]
    conf.read_string(text)
    return conf


def service(name: str) -> dict[str, str]:
    return dict(parsed((CONF / name).read_text())["Service"])


def supervisord_confs() -> list[tuple[str, RawConfigParser]]:
    return [(path.name, parsed(path.read_text())) for path in sorted(SUPERVISORD.glob("*.conf"))]


def command_lines() -> dict[str, str]:
    """Every command line in the templates, by file and section, as the first process of it runs it."""
    found = {}
    for name, conf in supervisord_confs():
        for section in conf.sections():
            if conf.has_option(section, "command"):
                found[f"{name} {section}"] = conf[section]["command"].replace("%(process_num)d", "0")
    for path in CONF.glob("*.service"):
        found[path.name] = service(path.name)["ExecStart"].replace("/opt/s3s3/bin/", "").replace("%i", "9180")
    for line in (CONF / "s3s3.crontab").read_text().splitlines():
        if line[:1].isdigit():
            found["s3s3.crontab"] = line.partition("flock --nonblock /etc/s3s3/s3s3.toml ")[2].partition(" 2>&1 |")[0]
    return found


def test_every_template_has_a_command() -> None:
    assert len(command_lines()) == 9
    assert all(line.split()[0] in ("s3s3", "s3s3tick") for line in command_lines().values())


@pytest.mark.parametrize("line", sorted(set(command_lines().values())))
def test_s3s3_accepts_every_command_line(line: str) -> None:
    command, *arguments = shlex.split(line.replace("s3s3tick", "s3s3 bucket"))
    missing = ["--config", "/there/is/no/such/file.toml"]
    ended = subprocess.run(
        [PROGRAMS / command, *arguments, *missing], capture_output=True, text=True, timeout=60, check=False
    )
    assert "usage:" not in ended.stderr
    assert ended.stderr.startswith("/there/is/no/such/file.toml: no such configuration file")


def test_the_printed_supervisord_conf_matches_the_separate_files() -> None:
    assert (SUPERVISORD / "supervisord.conf").read_text() == supervisord_conf()
    whole = parsed(supervisord_conf())
    for part in ("s3s3listen.conf", "s3s3bucket-tick.conf"):
        conf = parsed((SUPERVISORD / part).read_text())
        (section,) = conf.sections()
        of_part, of_whole = dict(conf[section]), dict(whole[section])
        of_whole.pop("directory")
        of_whole["stderr_logfile"] = of_whole["stderr_logfile"].replace("%(here)s", "/var/log/supervisor")
        assert of_part == of_whole


def test_supervisord_waits_longer_than_a_drain() -> None:
    waits = [conf.getint(section, "stopwaitsecs") for _, conf in supervisord_confs() for section in conf.sections()
             if conf.has_option(section, "command")]  # fmt: skip
    assert len(waits) == 5
    assert min(waits) > MAX_DRAIN_S


def test_systemd_waits_longer_than_a_drain_and_restarts_listeners() -> None:
    assert int(service("s3s3-bucket.service")["TimeoutStopSec"]) > MAX_DRAIN_S
    for name in LISTENERS:
        assert int(service(name)["TimeoutStopSec"]) > MAX_DRAIN_S
        assert service(name)["Restart"] == "always"


def test_a_listener_instance_differs_from_the_single_listener_only_in_its_address() -> None:
    single, instance = map(service, LISTENERS)
    assert instance.pop("ExecStart") == single.pop("ExecStart") + " --http 127.0.0.1:%i"
    assert instance == single


def test_all_services_have_the_same_confinement() -> None:
    *listeners, bucket = ((CONF / name).read_text() for name in (*LISTENERS, "s3s3-bucket.service"))
    for listener in listeners:
        confinement = listener.partition("# Large objects are spooled")[2].partition("\n\n[Install]")[0]
        for setting in ("NoNewPrivileges=yes", "ProtectSystem=strict", "ProtectHome=yes", "PrivateTmp=yes",
                        "DynamicUser=yes"):  # fmt: skip
            assert setting in confinement
        assert bucket.rstrip().endswith(confinement)


def test_services_and_crontab_read_the_variables_that_the_configuration_refers_to() -> None:
    for name in (*LISTENERS, "s3s3-bucket.service"):
        assert service(name)["EnvironmentFile"] == "-/etc/s3s3/s3s3.env", "it may be missing"
    assert "set -a; test ! -e /etc/s3s3/s3s3.env || . /etc/s3s3/s3s3.env;" in (CONF / "s3s3.crontab").read_text()


def test_every_template_compares_once_a_day() -> None:
    timer = dict(parsed((CONF / "s3s3-bucket.timer").read_text())["Timer"])
    assert (timer["OnCalendar"], timer["RandomizedDelaySec"]) == ("daily", "1h")
    manifests = "".join(path.read_text() for path in (CONF / "kubernetes").glob("*.yaml"))
    lines = (CONF / "s3s3.crontab").read_text().splitlines()
    schedules = re.findall(r'schedule: "(.*)"', manifests) + [line[:10] for line in lines if line[:1].isdigit()]
    assert len(schedules) == 2
    assert [schedule for schedule in schedules if not re.fullmatch(r"\d+ \d+ \* \* \*", schedule)] == []
    container = (CONF / "container" / "compose.yml").read_text()
    intervals = re.findall(r"--interval,? (\w+)", "\n".join([container, *command_lines().values()]))
    assert intervals == ["1d", "1d"], "s3s3tick has 1d by default"
    assert tick.command_line().get_default("interval") == 86400


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    assert len(UNITS) == 4
    for unit in UNITS:
        text = unit.read_text().replace("/opt/s3s3/bin/s3s3", f'"{sys.executable}"')
        (tmp_path / unit.name).write_text(text)
    command = ["systemd-analyze", "verify", "--man=no", *(str(tmp_path / unit.name) for unit in UNITS)]
    verified = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (verified.returncode, verified.stderr) == (0, "")


def test_cron_accepts_every_line_of_the_crontab() -> None:
    lines = [line for line in (CONF / "s3s3.crontab").read_text().splitlines() if line and not line.startswith("#")]
    assert re.fullmatch(r"PATH=\S+", lines[0])
    assert re.fullmatch(r"([\d*/,-]+ ){5} s3s3  [^%]+ flock --nonblock [^%]+", lines[1]), "cron ends a line at %"
    assert len(lines) == 2


def test_flock_skips_a_run_while_another_is_running(tmp_path: Path) -> None:
    file = tmp_path / "s3s3.toml"
    file.write_text("")
    file.chmod(0o400)
    second = ["flock", "--nonblock", str(file), "echo", "a second run"]
    ended = subprocess.run(["flock", "--nonblock", file, *second], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (1, "", "")
