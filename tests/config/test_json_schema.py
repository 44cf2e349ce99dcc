"""The JSON Schema accepts what `load` accepts."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from jsonschema import Draft202012Validator

from s3s3.config.json_schema import json_schema
from s3s3.config.kinds import keys_of
from s3s3.config.tables import all_tables
from tests.config.test_config import EXAMPLES, sound_tables

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

CONF = Path(__file__).parents[2] / "conf"
SCHEMA = json_schema()
VALIDATOR = Draft202012Validator(SCHEMA)


def problems(text: str) -> list[str]:
    return [error.message for error in VALIDATOR.iter_errors(tomllib.loads(text))]


def test_the_schema_in_conf_is_up_to_date() -> None:
    assert json.loads((CONF / "s3s3.schema.json").read_text()) == SCHEMA, "s3s3 config schema > conf/s3s3.schema.json"


@pytest.mark.parametrize("path", sorted(CONF.glob("*.toml")), ids=lambda path: path.name)
def test_it_accepts_every_example(path: Path) -> None:
    text = path.read_text()
    assert text.startswith("#:schema ./s3s3.schema.json\n")
    assert problems(text) == []
    assert problems(re.sub(r"^#(?=\w+ = |\[)", "", text, flags=re.MULTILINE)) == []


def checked_by_taplo(path: Path) -> subprocess.CompletedProcess[str]:
    """What an editor's TOML language server finds; it reads the schema that the first line names."""
    taplo = shutil.which("taplo", path=Path(sys.executable).parent)
    if taplo is None:
        pytest.skip("taplo has no wheel for this platform")
    return subprocess.run([taplo, "check", "--no-auto-config", path], check=False, capture_output=True, text=True)


@pytest.mark.parametrize("path", sorted(CONF.glob("*.toml")), ids=lambda path: path.name)
def test_an_editor_accepts_every_example(path: Path) -> None:
    done = checked_by_taplo(path)
    assert done.returncode == 0, done.stderr


def test_an_editor_marks_the_key_that_is_not_a_setting(tmp_path: Path) -> None:
    shutil.copy(CONF / "s3s3.schema.json", tmp_path)
    path = tmp_path / "s3s3.toml"
    path.write_text((CONF / "s3s3-minimal.toml").read_text().replace("bucket_name", "bucket_nme", 1))
    done = checked_by_taplo(path)
    assert done.returncode == 1
    assert "'bucket_nme' was unexpected" in done.stderr


@EXAMPLES
@given(sound_tables())
def test_it_accepts_every_valid_configuration(tables: dict[str, dict[str, Any]]) -> None:
    assert [error.message for error in VALIDATOR.iter_errors(tables)] == []


SOUND = '[source]\nbucket_name = "a"\n[destination]\n'


@pytest.mark.parametrize(
    "text",
    [SOUND + 'bucket_name_file = "x"\nport = "${PORT}"\nis_secure = "${S}"',
     SOUND + 'store = "x"\n[stores.x]\nport = 80',
     SOUND + 'bucket_name = "b"\nmax_bytes_per_s = { "08:00-18:00" = "20 MiB" }\n[worker]\nlease_s = "5m"'],
)  # fmt: skip
def test_it_accepts_variables_files_and_shared_keys(text: str) -> None:
    assert problems(text) == []


@pytest.mark.parametrize(
    "line", ["prot = 1", "port = 0", 'port = "many"', 'is_secure = "yes"', 'signature_version = "v4"', "prefix = 1"]
)
def test_it_refuses_unknown_keys_and_values_of_wrong_types(line: str) -> None:
    assert problems(f'{SOUND}bucket_name = "b"\n{line}\n')


def test_a_bucket_needs_a_name() -> None:
    assert problems(SOUND + 'host = "h"\n')


def test_every_key_has_a_description() -> None:
    for table in all_tables().values():
        properties = SCHEMA["$defs"][table.__name__]["properties"]
        assert all(properties[name]["description"] for name in keys_of(table))
