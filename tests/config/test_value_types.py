from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3s3.config import ConfigError, from_tables
from s3s3.config.kinds import Table, keys_of, kind_of
from s3s3.config.reader import literal
from s3s3.config.tables import Destination, HttpTable, PubSubTable, Source, WorkerTable
from s3s3.config.value_types import nearest, toml_repr, type_of
from s3s3.model import Secret

Key = tuple[type[Table], str]

CONCURRENCY: Key = (WorkerTable, "concurrency")
LEASE: Key = (WorkerTable, "lease_s")
MAX_DELETE: Key = (Destination, "max_delete")
SPOOL: Key = (WorkerTable, "spool_bytes")
IS_SECURE: Key = (Source, "is_secure")
PREFIX: Key = (Source, "prefix")
BIND: Key = (HttpTable, "bind")

NAMES = {Source: "source", Destination: "destination", WorkerTable: "worker", HttpTable: "http", PubSubTable: "pubsub"}


def parse(key: Key, value: object) -> object:
    table, name = key
    required = {"bucket_name": "a"} if table in (Source, Destination) else {}
    return getattr(table.model_validate({**required, name: value}), name)


def wrong(key: Key, value: object) -> str:
    table, name = NAMES[key[0]], key[1]
    tables: dict[str, dict[str, object]] = {"source": {"bucket_name": "a"}, "destination": {"bucket_name": "b"}}
    tables.setdefault(table, {})[name] = value
    with pytest.raises(ConfigError) as raised:
        from_tables(tables)
    (problem,) = raised.value.problems
    return problem.removeprefix(f"configuration: [{table}] {name}: ")


@pytest.mark.parametrize(
    ("value", "size_bytes"),
    [("8 GiB", 8 * 1024**3), ("512MiB", 512 * 1024**2), ("1.5 KiB", 1536), ("20 MB", 20_000_000), ("7 B", 7),
     ("1024", 1024), (4096, 4096), ("1 tib", 1024**4)],
)  # fmt: skip
def test_a_size_is_a_number_and_a_unit_or_a_number_of_bytes(value: object, size_bytes: int) -> None:
    assert parse(SPOOL, value) == size_bytes


@pytest.mark.parametrize(
    "value", ["8 G", "GiB", "-1 GiB", "8  GiB", "8 GiB ", "1e3", "", 0, -1, "0.1 B", 1.5, True, []]
)
def test_other_sizes_are_refused(value: object) -> None:
    assert "must be a size" in wrong(SPOOL, value)


@given(st.integers(1, 2**40), st.sampled_from([("KiB", 1024), ("MiB", 1024**2), ("GB", 10**9)]))
def test_sizes_are_exact_however_large(number: int, unit: tuple[str, int]) -> None:
    assert parse(SPOOL, f"{number} {unit[0]}") == number * unit[1]


@pytest.mark.parametrize("value", [True, False, 1.0, "32", None, 0, 10_001, 10**400])
def test_only_whole_numbers_in_range_are_accepted(value: object) -> None:
    assert wrong(CONCURRENCY, value).startswith("must be a whole number")


def test_true_is_not_a_number_and_1_is_not_a_boolean() -> None:
    assert wrong(CONCURRENCY, True) == "must be a whole number, not true"
    assert wrong(IS_SECURE, 1) == "must be true or false, not 1"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1.1, True, "0.5", 10**400])
def test_a_number_is_finite_and_in_range(value: object) -> None:
    assert wrong(MAX_DELETE, value).startswith("must be a number")


def test_a_number_may_have_decimals() -> None:
    assert parse(MAX_DELETE, 0.25) == 0.25


@pytest.mark.parametrize(
    ("value", "seconds"),
    [(90, 90), (1.5, 1.5), ("90", 90), ("90s", 90), ("5m", 300), ("1.5h", 5400), ("1d", 86_400), ("2.5", 2.5)],
)
def test_a_duration_is_a_number_of_seconds_or_has_a_unit(value: object, seconds: float) -> None:
    assert parse(LEASE, value) == seconds


@pytest.mark.parametrize("value", ["", "5 m", "-5m", "5M", "1h30m", "1e3", "fast", True, [], None])
def test_other_durations_are_refused(value: object) -> None:
    assert wrong(LEASE, value).startswith('must be a duration such as 90, "90s", "5m", "36h" or "7d"')


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 0.5, "0.5s", "2d", 10**400])
def test_a_duration_is_finite_and_in_range(value: object) -> None:
    assert wrong(LEASE, value).startswith("must be a duration from 1 to 86400 s")


def test_an_invalid_choice_is_answered_with_the_most_similar_one() -> None:
    calling_format, signature = (Source, "calling_format"), (Source, "signature_version")
    assert wrong(signature, "v4") == 'must be "s3" or "s3v4", not "v4"; did you mean "s3v4"?'
    assert 'did you mean "OrdinaryCallingFormat"?' in wrong(calling_format, "boto.s3.connection.OrdinaryCallingFormat")
    assert wrong(signature, "xyz").endswith('not "xyz"')


def test_text_may_be_empty_only_where_the_key_allows_it() -> None:
    assert parse(PREFIX, "") == ""
    assert wrong((Source, "region"), "") == 'must be at least one character, not ""; leave it out for the default'
    assert wrong((Source, "bucket_name"), "") == 'must be at least one character, not ""'


def test_a_prefix_takes_every_character_up_to_1024_bytes() -> None:
    assert parse(PREFIX, "ü\n" * 341) == "ü\n" * 341
    assert "at most 1,024 bytes" in wrong(PREFIX, "ü" * 513)


@pytest.mark.parametrize("name", ["aws_access_key_id", "bucket_name", "region", "host"])
def test_what_goes_into_a_header_has_no_control_characters(name: str) -> None:
    assert "control characters" in wrong((Source, name), "a\nb")


def test_a_bucket_s_name_and_suffix_have_no_slash() -> None:
    assert "into prefix" in wrong((Source, "bucket_name"), "images/raw")
    assert "into prefix" in wrong((Destination, "bucket_suffix"), "/raw")


@pytest.mark.parametrize(
    ("value", "host"), [("ceph", "ceph"), ("[::1]", "::1"), ("::1", "::1"), ("10.0.0.1", "10.0.0.1")]
)
def test_a_host_has_no_brackets(value: str, host: str) -> None:
    assert parse((Source, "host"), value) == host


@pytest.mark.parametrize(
    ("value", "address"),
    [
        ("127.0.0.1:9180", ("127.0.0.1", 9180)),
        ("[::1]:9180", ("::1", 9180)),
        ("localhost:1", ("localhost", 1)),
        ("", None),
    ],
)
def test_an_address_is_host_and_port_or_none(value: str, address: object) -> None:
    assert parse(BIND, value) == address


@pytest.mark.parametrize(
    "value", ["9180", ":9180", "localhost", "localhost:0", "localhost:65536", "::1:9180", "a b:1", 9180]
)
def test_other_addresses_are_refused(value: object) -> None:
    assert wrong(BIND, value).startswith("must be ")


@pytest.mark.parametrize("value", ["*.fits", ["*.fits", 1], [""], {}, 5])
def test_globs_are_a_list_of_texts(value: object) -> None:
    assert 'include = ["*.fits"]' in wrong((Source, "include"), value)


def test_secrets_and_redis_urls_become_secrets() -> None:
    assert isinstance(parse((HttpTable, "token"), "hunter2"), Secret)
    assert isinstance(parse((PubSubTable, "url"), "redis://:pw@localhost"), Secret)
    assert parse((PubSubTable, "url"), "") == Secret("")


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [(IS_SECURE, "False", False), (IS_SECURE, "true", True), (IS_SECURE, "yes", "yes"), (CONCURRENCY, "12", 12),
     (CONCURRENCY, "1.5", 1.5), (CONCURRENCY, "-3", -3), (LEASE, "1.5", 1.5), (LEASE, "nan", "nan"),
     (SPOOL, "12", 12), (SPOOL, "1 GiB", "1 GiB"), (PREFIX, "12", "12"), (PREFIX, "true", "true"),
     (CONCURRENCY, "9" * 50, "9" * 50)],
)  # fmt: skip
def test_text_from_the_environment_becomes_what_the_key_takes(key: Key, text: str, value: object) -> None:
    table, name = key
    found = text if kind_of(keys_of(table)[name]).is_text else literal(text)
    assert found == value
    assert type(found) is type(value)


def test_values_are_shown_short_and_printable() -> None:
    assert toml_repr("a" * 100) == f'"{"a" * 40}..."'
    assert toml_repr("\x1b[31m") == "'\\x1b[31m'"
    assert toml_repr(10**5000) == "a number of more than 64 bits"
    assert (toml_repr(True), toml_repr(1.5), toml_repr([1]), toml_repr({})) == ("true", "1.5", "a list", "a table")


def test_every_kind_of_toml_value_has_a_name() -> None:
    values: tuple[object, ...] = ("", True, 1, 1.5, [], {}, None)
    assert [type_of(value) for value in values] == [
        "text", "true or false", "a number", "a number", "a list", "a table", "a date or time",
    ]  # fmt: skip


def test_the_nearest_word_ignores_case_and_bears_any_length() -> None:
    assert nearest("Host", ["host", "port"]) == "host"
    assert nearest("zzz", ["host", "port"]) is None
    assert nearest("p" * 1_000_000, ["host", "port"]) is None
