"""The declaration is complete and valid: what is generated from it can rely on that."""

from __future__ import annotations

import re
from dataclasses import fields
from typing import Any

import pytest
from annotated_types import Ge, Le
from pydantic.fields import FieldInfo

from s3s3.config import PubSub, WorkerSettings, from_tables
from s3s3.config.kinds import Table, bare, keys_of, kind_of
from s3s3.config.reader import FILE_SUFFIX
from s3s3.config.tables import PubSubTable, WorkerTable, all_tables
from s3s3.config.value_types import toml_default

ALL_KEYS = {
    f"{table.__name__}.{name}": (table, field)
    for table in all_tables().values()
    for name, field in keys_of(table).items()
}


@pytest.fixture(params=ALL_KEYS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_every_key_is_documented_in_one_line(name: str) -> None:
    description = ALL_KEYS[name][1].description
    assert description and description.endswith((".", '"')) and "\n" not in description


def test_every_default_and_example_is_a_valid_value(name: str) -> None:
    table, field = ALL_KEYS[name]
    key = name.partition(".")[2]
    for value in [toml_default(field.get_default()), *(field.examples or [])]:
        if value is not None:
            errors = [error for error in problems_of(table, {key: value}) if error["loc"] == (key,)]
            assert not [error for error in errors if "given without" not in error["msg"]]


def problems_of(table: type[Table], content: dict[str, Any]) -> list[Any]:
    from pydantic import ValidationError  # noqa: PLC0415

    try:
        table.model_validate(content)
    except ValidationError as error:
        return error.errors()
    return []


def test_every_key_without_a_default_has_an_example(name: str) -> None:
    field = ALL_KEYS[name][1]
    assert field.get_default() not in (None, ()) or field.examples


def test_every_number_has_bounds(name: str) -> None:
    field: FieldInfo = ALL_KEYS[name][1]
    if bare(field.annotation) in (int, float) and kind_of(field).words != "a size":
        assert [type(one) for one in field.metadata if isinstance(one, Ge | Le)] == [Ge, Le]


@pytest.mark.parametrize("table", dict.fromkeys(all_tables().values()))
def test_no_key_looks_like_the_file_of_another(table: type[Table]) -> None:
    names = keys_of(table)
    assert not [name for name in names if f"{name}{FILE_SUFFIX}" in names]


@pytest.mark.parametrize("table", dict.fromkeys(all_tables().values()))
def test_hints_are_for_names_that_are_not_keys(table: type[Table]) -> None:
    assert not set(table.hints) & set(table.model_fields)


@pytest.mark.parametrize(("table", "record"), [(PubSubTable, PubSub), (WorkerTable, WorkerSettings)])
def test_the_settings_have_the_keys_of_their_table(table: type[Table], record: type) -> None:
    assert {field.name for field in fields(record)} == set(table.model_fields)


def test_every_kind_of_table_is_documented() -> None:
    for table in all_tables().values():
        assert re.match(r"[A-Z].*\.", table.__doc__ or "")


def test_a_table_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        WorkerTable.model_construct().concurrency = 1


def test_a_program_can_build_a_configuration() -> None:
    settings = from_tables({"source": {"bucket_name": "a"}, "destination": {"bucket_name": "${B}"}}, {"B": "b"})
    assert settings.routes[0].destinations[0].bucket_name == "b"
