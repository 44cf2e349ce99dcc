"""The declaration is whole and sound: what is made from it can rely on that."""

from __future__ import annotations

from dataclasses import fields

import pytest

from s3s3.config import PubSub, WorkerSettings
from s3s3.config.schema import DESTINATION, FILE, PUBSUB, SOURCE, WORKER, all_tables
from s3s3.config.schema_types import Key, Kind, Table
from s3s3.config.value_types import parse

ALL_KEYS = [(table, key) for table in all_tables() for key in table.keys]


def id_of(value: object) -> str:
    return value.name if isinstance(value, Table | Key) else str(value)


@pytest.mark.parametrize(("table", "key"), ALL_KEYS, ids=id_of)
def test_every_key_has_a_line_of_documentation(table: Table, key: Key) -> None:
    assert key.doc.endswith((".", '"')) and "\n" not in key.doc


@pytest.mark.parametrize(("table", "key"), ALL_KEYS, ids=id_of)
def test_every_default_and_example_is_a_value_that_the_key_takes(table: Table, key: Key) -> None:
    for value in (key.default, key.example):
        if value is not None:
            parse(key, value)


@pytest.mark.parametrize(("table", "key"), ALL_KEYS, ids=id_of)
def test_every_key_without_a_default_has_an_example(table: Table, key: Key) -> None:
    assert key.default is not None or key.example is not None


@pytest.mark.parametrize(("table", "key"), ALL_KEYS, ids=id_of)
def test_every_number_has_bounds(table: Table, key: Key) -> None:
    if key.kind in (Kind.INTEGER, Kind.NUMBER, Kind.NUMBER_BY_HOUR, Kind.DURATION):
        assert key.at_least is not None and key.at_most is not None


@pytest.mark.parametrize("table", all_tables(), ids=id_of)
def test_no_key_is_declared_twice_in_a_table_or_looks_like_another_key_s_file(table: Table) -> None:
    names = [
        name for key in table.keys for name in ({key.name, f"{key.name}_file"} if key.kind.is_text else {key.name})
    ]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("table", all_tables(), ids=id_of)
def test_hints_are_for_names_that_are_not_keys(table: Table) -> None:
    assert not set(table.hints) & set(table.key_names)


@pytest.mark.parametrize(("table", "record"), [(PUBSUB, PubSub), (WORKER, WorkerSettings)])
def test_the_records_of_the_configuration_have_the_keys_of_their_table(table: Table, record: type) -> None:
    assert {field.name for field in fields(record)} == set(table.key_names)


def test_every_table_with_a_name_that_starts_with_dest_is_a_destination() -> None:
    assert [FILE.inner_table(name) for name in ("dest", "dest-a", "destination.b")] == [DESTINATION] * 3
    assert FILE.inner_table("source") is SOURCE
    assert FILE.inner_table("des") is None
