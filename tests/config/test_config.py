from __future__ import annotations

import dataclasses
import errno
import inspect
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
from annotated_types import Ge, Le
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic.fields import FieldInfo

from s3s3 import config
from s3s3.config import Config, ConfigError, HttpSettings, PubSub, WorkerSettings
from s3s3.config.kinds import Table, bare, keys_of, kind_of
from s3s3.config.tables import Bucket, Destination, HttpTable, PubSubTable, Source, WorkerTable, all_tables
from s3s3.config.toml_file import named
from s3s3.model import Endpoint, Route, Secret
from tests.config.configurations import SOUND, loaded, problems_in

HERE = Path(__file__).parents[2]
EXAMPLES = settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow], deadline=None)


def test_the_smallest_file_gets_every_default() -> None:
    loaded_config = loaded('[source]\nbucket_name = "a"\n[destination]\nbucket_name = "b"\n')
    source = Endpoint("source", "a", host=None, port=None, is_secure=True, path_style=True, signature_version="s3",
                      region="us-east-1", verify_md5=False)  # fmt: skip
    assert loaded_config.routes == (
        Route("default", source, (dataclasses.replace(source, name="destination", bucket_name="b"),), channel="backup"),
    )
    assert loaded_config.pubsub == PubSub(Secret("redis://localhost:6379/0"), "backup", "s3s3", False, True, 3600)
    assert loaded_config.worker == WorkerSettings(32, 8, 60, None, 8 * 1024**3)
    assert loaded_config.http == HttpSettings("127.0.0.1", 9180)


def test_every_key_arrives_where_it_is_used(tmp_path: Path) -> None:
    (tmp_path / "spool").mkdir()
    (tmp_path / "s3s3.toml").write_text("""
[source]
host = "ceph"
port = 7480
is_secure = false
aws_access_key_id = "A"
aws_secret_access_key = "B"
bucket_name = "images"
prefix = "raw/"
include = ["*.fits", "*.txt"]
exclude = ["tmp/*"]
calling_format = "SubdomainCallingFormat"
signature_version = "s3v4"
region = "default"
verify_md5 = true
[dest-one]
bucket_name = "images"
bucket_suffix = "-eu"
storage_class = "STANDARD_IA"
acl = "private"
server_side_encryption = "AES256"
[dest-two]
bucket_name = "copy"
[pubsub]
url = "rediss://:pw@redis/1"
channel = "other"
mark_done = true
backfill = false
backfill_margin_s = 1.5
[worker]
concurrency = 4
max_attempts = 2
lease_s = 10
spool_dir = "spool"
spool_bytes = "1 GiB"
[http]
bind = "[::1]:8080"
""")
    assert config.load(tmp_path / "s3s3.toml", {}) == Config(
        path=tmp_path / "s3s3.toml",
        routes=(
            Route(
                "default",
                Endpoint("source", "images", "ceph", 7480, False, "A", Secret("B"), prefix="raw/", path_style=False,
                         signature_version="s3v4", region="default", verify_md5=True),
                (
                    Endpoint("dest-one", "images-eu", storage_class="STANDARD_IA", acl="private",
                             server_side_encryption="AES256"),
                    Endpoint("dest-two", "copy"),
                ),
                ("*.fits", "*.txt"),
                ("tmp/*",),
                "other",
            ),
        ),
        pubsub=PubSub(Secret("rediss://:pw@redis/1"), "other", "s3s3", True, False, 1.5),
        worker=WorkerSettings(4, 2, 10, tmp_path / "spool", 1024**3),
        http=HttpSettings("::1", 8080),
    )  # fmt: skip


def test_an_empty_url_and_an_empty_bind_turn_redis_and_the_status_page_off() -> None:
    loaded_config = loaded(SOUND + '[pubsub]\nurl = ""\n[http]\nbind = ""\n')
    assert (loaded_config.pubsub.url, loaded_config.http) == (Secret(""), None)


def test_nothing_in_a_configuration_can_be_changed() -> None:
    loaded_config = loaded(SOUND)
    for record in (loaded_config, loaded_config.pubsub, loaded_config.worker, loaded_config.http):
        assert dataclasses.is_dataclass(record)
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(record, dataclasses.fields(record)[0].name, None)


@pytest.mark.parametrize("given_key", ["aws_access_key_id", "aws_secret_access_key"])
def test_half_a_key_pair_is_a_problem(given_key: str) -> None:
    (problem,) = problems_in(f'{SOUND}{given_key} = "A"\n')
    assert problem.startswith(f"s3s3.toml:9: [destination] {given_key}: given without ")


def test_a_port_without_a_host_is_a_problem() -> None:
    (problem,) = problems_in(SOUND.replace('host = "swift.example.org"', "port = 80"))
    assert "given without host" in problem


@pytest.mark.parametrize("host", ["10.0.0.1", "[::1]"])
def test_a_bucket_in_front_of_an_ip_address_is_a_problem(host: str) -> None:
    text = SOUND.replace("swift.example.org", host)
    assert loaded(text)
    (problem,) = problems_in(text + 'calling_format = "SubdomainCallingFormat"')
    assert "[destination] calling_format: virtual-host style does not work with an IP address" in problem


def test_a_spool_directory_that_is_not_there_is_a_problem_of_what_spools_only() -> None:
    settings = loaded(SOUND + '[worker]\nspool_dir = "/nowhere/at/all"\n')
    with pytest.raises(ConfigError) as raised:
        settings.need_spool_dir()
    (problem,) = raised.value.problems
    assert problem.endswith("s3s3.toml: [worker] spool_dir: '/nowhere/at/all' is not a directory; create it")


def test_a_full_disk_is_no_problem_of_the_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(**_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    settings = loaded(SOUND)
    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    settings.need_spool_dir()


def test_without_a_writable_temporary_directory_the_setting_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = loaded(SOUND)
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: ["/nowhere"])
    with pytest.raises(ConfigError, match=r"\[worker\] spool_dir: no temporary directory is writable"):
        settings.need_spool_dir()


def endpoints(source: str, *destinations: str) -> str:
    tables = [f"[source]\n{source}\n", *(f"[dest{i}]\n{text}\n" for i, text in enumerate(destinations))]
    return "".join(tables).replace(";", "\n")


OVERLAPS = [
    ('host="ceph";bucket_name="a"', 'host="ceph";bucket_name="a"'),
    ('host="ceph";bucket_name="a"', 'host="CEPH.";bucket_name="a";port=443'),
    ('host="ceph";bucket_name="a";is_secure=false', 'host="ceph";bucket_name="a";port=80'),
    ('host="ceph";bucket_name="a"', 'host="ceph";bucket_name="a";prefix="copy/"'),
    ('host="ceph";bucket_name="a";prefix="raw/"', 'host="ceph";bucket_name="a"'),
    ('host="ceph";bucket_name="a";prefix="raw"', 'host="ceph";bucket_name="a";prefix="raw-copy"'),
    ('host="ceph";bucket_name="ab"', 'host="ceph";bucket_name="a";bucket_suffix="b"'),
    ('bucket_name="a"', 'bucket_name="a";region="eu-west-1"'),
    ('bucket_name="a"', 'bucket_name="a";host="s3.eu-west-1.amazonaws.com"'),
]
APART = [
    ('host="ceph";bucket_name="a"', 'host="swift";bucket_name="a"'),
    ('host="ceph";bucket_name="a"', 'host="ceph";bucket_name="b"'),
    ('host="ceph";bucket_name="a"', 'host="ceph";bucket_name="a";port=7480'),
    ('host="ceph";bucket_name="a";prefix="raw/"', 'host="ceph";bucket_name="a";prefix="copy/"'),
    ('host="ceph";bucket_name="a"', 'host="ceph";bucket_name="a";bucket_suffix="-eu"'),
    ('bucket_name="a"', 'bucket_name="a";host="notamazonaws.com"'),
]


@pytest.mark.parametrize(("one", "other"), OVERLAPS)
def test_a_destination_within_its_source_is_refused(one: str, other: str) -> None:
    (problem,) = problems_in(endpoints(one, other))
    assert "[dest0]: " in problem
    assert "[source]; give it its own bucket or prefix" in problem


@pytest.mark.parametrize(("one", "other"), OVERLAPS)
def test_two_destinations_that_overlap_are_refused(one: str, other: str) -> None:
    (problem,) = problems_in(endpoints('host="elsewhere";bucket_name="a"', one, other))
    assert "[dest1]: " in problem
    assert "[dest0]; give it its own bucket or prefix" in problem


@pytest.mark.parametrize(("one", "other"), APART)
def test_endpoints_that_share_no_key_are_accepted(one: str, other: str) -> None:
    assert loaded(endpoints(one, other))
    assert loaded(endpoints('host="elsewhere";bucket_name="a"', other, one))


@pytest.mark.parametrize("problem", ["prefix=5", 'hots="ceph"', 'bucket_nam="a"', 'port="x";host="swift"'])
def test_where_an_endpoint_is_cannot_be_compared_while_that_has_a_fault(problem: str) -> None:
    name = "" if problem.startswith("bucket") else 'bucket_name="a";'
    assert len(problems_in(endpoints('bucket_name="a"', f"{name}{problem}"))) == 1


def test_all_problems_are_reported_together_in_the_order_of_the_file() -> None:
    errors = problems_in("""[source]
host = "ceph:7480"
verify_md5 = "yes"

[destination]
bucket_name = "images"
signature_version = "v4"
prot = 80
port = 80
max_requests_per_s = 0

[webhok]
""")
    assert [problem.split(": ")[:2] for problem in errors] == [
        ["s3s3.toml:1", "[source]"],
        ["s3s3.toml:2", "[source] host"],
        ["s3s3.toml:3", "[source] verify_md5"],
        ["s3s3.toml:7", "[destination] signature_version"],
        ["s3s3.toml:8", "[destination] prot"],
        ["s3s3.toml:9", "[destination] port"],
        ["s3s3.toml:10", "[destination] max_requests_per_s"],
        ["s3s3.toml:12", "[webhok]"],
    ]


# What follows makes configurations from the schema.


def toml(tables: Mapping[str, Any]) -> str:
    """Write tables as TOML; what is no table goes first, as a key."""
    loose = [f"{quoted(name)} = {literal(value)}" for name, value in tables.items() if not isinstance(value, dict)]
    lines = []
    for name, table in tables.items():
        if isinstance(table, dict):
            lines += [f"[{quoted(name)}]", *(f"{quoted(key)} = {literal(value)}" for key, value in table.items())]
    return "\n".join([*loose, *lines]) + "\n"


def quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def literal(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(literal, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{quoted(key)} = {literal(item)}' for key, item in value.items())}}}"
    return quoted(value) if isinstance(value, str) else str(value).lower()


WORDS = st.text("abcXYZ019-_", min_size=1, max_size=12)
HOSTS = WORDS.filter(lambda text: not text.startswith("-"))
UNICODE = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).filter(
    lambda text: "${" not in text
)
SIZES = st.one_of(st.integers(1, 2**50), st.builds("{} {}".format, st.integers(1, 999), st.sampled_from(["KiB", "GB"])))
ADDRESSES = st.just("") | st.builds("{}:{}".format, HOSTS | st.just("[::1]"), st.integers(1, 65535))
URLS = st.just("") | st.builds("redis://:{}@{}:{}/0".format, WORDS, HOSTS, st.integers(1, 65535))

VALUES = {
    "text": WORDS, "text, a secret": WORDS, "a host name or a URL": HOSTS, "true or false": st.booleans(),
    "a size": SIZES, "the path of a file": st.just("s3s3.toml"),
    "a list of texts": st.lists(UNICODE, max_size=3), "an address": ADDRESSES, "a Redis URL": URLS,
}  # fmt: skip

BY_NAME = {"spool_dir": st.just(tempfile.gettempdir()), "prefix": UNICODE | st.just("")}

WRONG_TYPES: dict[str, list[Any]] = {
    "true or false": ["true", 1, 0.5, [], {}],
    "a whole number": ["1", True, 1.5, [1], {}],
    "a number": ["1", False, [1], {}],
    "a duration": ["soon", False, [1], {}],
    "a size": [True, 1.5, ["1 GiB"], {}],
    "a list of texts": ["*", 1, True, [1], {}],
    "a size, or a table of hours": [True, 1.5, ["1 GiB"], {"8-9": "1 GiB"}],
    "a number, or a table of hours": ["100", True, [100], {"8-9": 100}],
}
NO_TEXT: list[Any] = [1, True, 1.5, ["a"], {}, {"a": 1}]


def values_of(name: str, field: FieldInfo) -> st.SearchStrategy[Any]:
    kind = kind_of(field)
    if get_origin(bare(field.annotation)) is Literal:
        return st.sampled_from(get_args(bare(field.annotation)))
    if name in BY_NAME:
        return BY_NAME[name]
    at_least = next((one.ge for one in field.metadata if isinstance(one, Ge)), 65_536)
    at_most = next((one.le for one in field.metadata if isinstance(one, Le)), 2**50)
    if kind.words in ("a whole number", "a number", "a duration"):
        whole = st.integers(at_least, at_most)  # type: ignore[arg-type]
        return whole if kind.words == "a whole number" else whole | st.floats(at_least, at_most)  # type: ignore[arg-type]
    if kind.words == "a size" and at_least > 1:  # type: ignore[operator]
        return st.integers(at_least, 2**50)  # type: ignore[arg-type]
    if kind.is_by_hour:
        rates = st.integers(65_536, 10**6)
        return rates | rates.map(lambda rate: {"22:00-06:30": rate})
    return VALUES[kind.words]


@st.composite
def table_contents(draw: st.DrawFn, table: type[Table], number: int) -> dict[str, Any]:
    """The keys of one table, with values. The number keeps endpoints apart."""
    keys = {name: field for name, field in keys_of(table).items() if name != "store"}
    chosen = [name for name, field in keys.items() if field.is_required() or draw(st.booleans())]
    content = {name: draw(values_of(name, keys[name])) for name in chosen}
    if "client_key_file" in content:
        content["client_cert_file"] = "s3s3.toml"
    if issubclass(table, Bucket):
        content["bucket_name"] = f"bucket{number}."
        content["host"] = draw(HOSTS)
        if ("aws_access_key_id" in content) != ("aws_secret_access_key" in content):
            content |= {"aws_access_key_id": "A", "aws_secret_access_key": "B"}
        if content.get("copy_acl"):
            content.pop("acl", None)
    return content


TABLES: dict[str, type[Table]] = {"source": Source, "pubsub": PubSubTable, "worker": WorkerTable, "http": HttpTable}


@st.composite
def sound_tables(draw: st.DrawFn) -> dict[str, dict[str, Any]]:
    """Tables that are all right, in any order."""
    names = draw(st.lists(st.text("abc.-_", max_size=5).map("dest{}".format), min_size=1, max_size=3, unique=True))
    wanted: dict[str, type[Table]] = {"source": Source, **dict.fromkeys(names, Destination)}
    wanted |= {name: table for name, table in TABLES.items() if name != "source" and draw(st.booleans())}
    order = draw(st.permutations(list(wanted)))
    return {name: draw(table_contents(wanted[name], number)) for number, name in enumerate(order)}


def table_named(name: str) -> type[Table]:
    return Destination if name.startswith("dest") else TABLES[name]


@EXAMPLES
@given(sound_tables())
def test_every_sound_configuration_loads(tables: dict[str, dict[str, Any]]) -> None:
    route = loaded(toml(tables)).routes[0]
    assert set(route.destination_names) == {name for name in tables if name.startswith("dest")}
    for endpoint in (route.source, *route.destinations):
        written = tables[endpoint.name]
        assert endpoint.bucket_name == written["bucket_name"] + written.get("bucket_suffix", "")
        assert endpoint.prefix == written.get("prefix", "")
        assert endpoint.port == written.get("port")
        found = endpoint.secret_access_key.get_secret_value() if endpoint.secret_access_key else None
        assert found == written.get("aws_secret_access_key")


@pytest.mark.long
@EXAMPLES
@given(sound_tables(), st.data())
def test_a_value_of_a_wrong_type_is_exactly_one_problem_that_names_it(
    tables: dict[str, dict[str, Any]], data: st.DataObject
) -> None:
    name = data.draw(st.sampled_from(sorted(tables)))
    pair = ("aws_access_key_id", "aws_secret_access_key")
    keys = {key: field for key, field in keys_of(table_named(name)).items() if key in tables[name] or key not in pair}
    key = data.draw(st.sampled_from(sorted(keys)))
    tables[name][key] = data.draw(st.sampled_from(WRONG_TYPES.get(kind_of(keys[key]).words, NO_TEXT)))
    (problem,) = problems_in(toml(tables))
    assert f": [{named(name)}] {key}: must be " in problem
    assert problem.startswith("s3s3.toml:")


@pytest.mark.long
@EXAMPLES
@given(sound_tables(), st.data())
def test_an_unknown_key_is_exactly_one_problem_that_names_it(
    tables: dict[str, dict[str, Any]], data: st.DataObject
) -> None:
    name = data.draw(st.sampled_from(sorted(tables)))
    known = set(keys_of(table_named(name)))
    known |= {f"{key}_file" for key in known}
    near = st.sampled_from(sorted(known)).flatmap(lambda key: st.sampled_from([f"{key}x", key[1:], key.upper()]))
    unknown = data.draw((UNICODE | WORDS | near).filter(lambda text: text not in known))
    tables[name][unknown] = data.draw(st.sampled_from(["text", 1, True, []]))
    (problem,) = problems_in(toml(tables))
    assert f": [{named(name)}] {named(unknown)}: unknown key" in problem


@pytest.mark.long
@EXAMPLES
@given(sound_tables(), st.data())
def test_a_misspelled_key_is_exactly_one_problem_that_names_the_right_one(
    tables: dict[str, dict[str, Any]], data: st.DataObject
) -> None:
    name = data.draw(st.sampled_from(sorted(name for name in tables if tables[name])))
    key = data.draw(st.sampled_from(sorted(tables[name])))
    tables[name][f"{key}s"] = tables[name].pop(key)
    (problem,) = problems_in(toml(tables))
    assert problem.endswith(f": [{named(name)}] {key}s: unknown key; did you mean {key}?")


@EXAMPLES
@given(sound_tables(), (UNICODE | WORDS).filter(lambda name: not name.startswith("dest")))
def test_an_unknown_table_is_exactly_one_problem_that_names_it(tables: dict[str, dict[str, Any]], name: str) -> None:
    if name not in {path[0] for path in all_tables()}:
        (problem,) = problems_in(toml({**tables, name: {}}))
        assert f": [{named(name)}]: unknown table; " in problem


ANYTHING: st.SearchStrategy[Any] = st.recursive(
    st.booleans() | st.integers() | st.floats() | UNICODE | st.sampled_from(["", "${HOME}", "${}", "a@b", "redis://", "://"]),
    lambda inner_table: st.lists(inner_table, max_size=3) | st.dictionaries(UNICODE | WORDS, inner_table, max_size=3),
    max_leaves=5,
)  # fmt: skip
NAMES = st.sampled_from(
    sorted({name for table in all_tables().values() for key in keys_of(table) for name in (key, f"{key}_file")})
)
TABLE_NAMES = st.sampled_from([*sorted({path[-1] for path in all_tables()}), "dest.a"])
ANY_TABLES = st.dictionaries(
    TABLE_NAMES | UNICODE, st.dictionaries(NAMES | UNICODE, ANYTHING, max_size=8) | ANYTHING, max_size=5
)


def loads_or_is_refused(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "s3s3.toml"
        path.write_bytes(content)
        try:
            assert isinstance(config.load(path, {"HOME": "/root"}), Config)
        except config.ConfigError as error:
            assert error.problems
            assert all(problem.startswith(f"{path}:") and "\n" not in problem for problem in error.problems)


@EXAMPLES
@given(
    st.binary()
    | st.text("[]\"'=.# \n{}abc19", max_size=60).map(str.encode)
    | ANY_TABLES.map(lambda tables: toml(tables).encode())
)
def test_nothing_but_a_configuration_error_ever_comes_of_a_file(content: bytes) -> None:
    loads_or_is_refused(content)


@EXAMPLES
@given(st.data())
def test_nothing_but_a_configuration_error_ever_comes_of_a_damaged_template(data: st.DataObject) -> None:
    content = bytearray((HERE / "conf" / "s3s3.toml").read_bytes().replace(b"\n#", b"\n"))
    for _ in range(data.draw(st.integers(1, 5))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    loads_or_is_refused(bytes(content))


SECRETS = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=8, max_size=40).map(
    lambda text: f"Sk{text}kS"
)
PLACES = [
    "[dest]\nbucket_name='b'\naws_access_key_id='A'\naws_secret_access_key={quoted}",
    "[dest]\nbucket_name='b'\naws_access_key_id={quoted}\naws_secret_access_key={quoted}",
    "[dest]\nbucket_name='b'\naws_access_key_id='A'\naws_secret_access_key='${{SECRET}}'",
    "[dest]\nbucket_name='b'\naws_access_key_id='A'\naws_secret_access_key_file='secret'",
    "[dest]\nbucket_name='b'\n[pubsub]\nurl={url}",
    "[dest]\nbucket_name='b'\n[pubsub]\nurl='${{URL}}'",
]
FAULTY_PLACES = [
    *(f"{place}\nprot=1" for place in PLACES),
    "[dest]\nbucket_name='b'\naws_access_key_id='A'\naws_secret_access_key={raw}",
    "[dest]\nbucket_name='b'\naws_access_key_id='A'\naws_secret_access_key=[{quoted}]",
    "[dest]\nbucket_name='b'\naws_access_key_id='A'\naws_secret_access_key=\"{raw}",
    "[dest]\nbucket_name=b\naws_access_key_id=A\naws_secret_access_key={raw}",
    "[dest]\nbucket_name='b'\naws_access_key_id='A'\naws_secret_access_key_file={quoted}",
    "[dest]\nbucket_name='b'\naws_access_key_id='A'\naws_secret_acess_key={quoted}",
    "[dest]\nbucket_name='b'\naws_access_key_id='A'\naws_secret_access_key={quoted}\naws_secret_access_key_file='x'",
    "[dest]\nbucket_name='b'\naws_secret_access_key={quoted}",
    "[dest]\nbucket_name='b'\nport='${{SECRET}}'\nhost='${{SECRET}}/'",
    "[dest]\nbucket_name='b'\nhost={host}",
    "[dest]\nbucket_name={host}",
    "[dest]\nbucket_name='b'\n[pubsub]\nurl={quoted}",
    "[dest]\nbucket_name='b'\n[pubsub]\npassword={quoted}",
    "[dest]\nbucket_name='b'\n[worker]\naws_secret_access_key={quoted}",
    "[dest]\nbucket_name='b'\n[webhook]\ntoken={quoted}",
]


@settings(parent=EXAMPLES, max_examples=200)
@given(SECRETS, st.sampled_from(PLACES + FAULTY_PLACES))
def test_no_secret_is_ever_shown(secret: str, place: str) -> None:
    url = f"redis://:{secret}@localhost:6379/0"
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "secret").write_text(secret)
        path = Path(folder) / "s3s3.toml"
        text = place.format(raw=secret, quoted=quoted(secret), url=quoted(url), host=quoted(f"https://k:{secret}@ceph"))
        path.write_text(f"[source]\nbucket_name = 'a'\n{text}\n")
        try:
            settings = config.load(path, {"SECRET": secret, "URL": url})
            reported = (
                f"{settings} {settings!r} {settings.pubsub.url} {settings.routes[0].destinations[0].secret_access_key}"
            )
        except config.ConfigError as error:
            reported = f"{error} {error!r} {error.problems} {error.__cause__!r} {error.__context__!r}"
    assert secret not in reported
    assert secret not in reported.replace("\\\\", "\\")
    assert "Sk" not in reported


@pytest.mark.parametrize("place", PLACES)
def test_the_places_that_secrets_are_taken_from_do_work(place: str, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("hunter2")
    (tmp_path / "s3s3.toml").write_text(
        "[source]\nbucket_name = 'a'\n" + place.format(quoted='"hunter2"', url='"redis://:hunter2@localhost"')
    )
    loaded_config = config.load(tmp_path / "s3s3.toml", {"SECRET": "hunter2", "URL": "redis://:hunter2@localhost"})
    secrets = (loaded_config.routes[0].destinations[0].secret_access_key, loaded_config.pubsub.url)
    assert any(secret and "hunter2" in secret.get_secret_value() for secret in secrets)
    assert "hunter2" not in repr(loaded_config)


def test_another_address_replaces_that_of_the_status_page(tmp_path: Path) -> None:
    file = tmp_path / "s3s3.toml"
    file.write_text(SOUND + '[http]\nbind = ""\ntoken = "T"\n')
    assert config.load(file, {}, http_bind=("--http", "[::1]:9181")).http == HttpSettings("::1", 9181, Secret("T"))
    assert config.load(file, {}, http_bind=("--http", "")).http is None
    for text in ("9181", "localhost", "127.0.0.1:0", ":9181"):
        with pytest.raises(config.ConfigError, match="--http: must be HOST:PORT"):
            config.load(file, {}, http_bind=("--http", text))


def test_another_address_must_not_be_that_of_the_webhook(tmp_path: Path) -> None:
    file = tmp_path / "s3s3.toml"
    file.write_text(SOUND + '[webhook]\nbind = "127.0.0.1:8000"\ntoken = "0123456789abcdef"\n')
    with pytest.raises(config.ConfigError, match="is also the address of \\[http\\]"):
        config.load(file, {}, http_bind=("--http", "127.0.0.1:8000"))


@pytest.mark.parametrize("function", [config.load, config.from_tables])
def test_a_signature_in_documentation_does_not_show_the_environment(function: Callable[..., Config]) -> None:
    assert os.environ["PATH"] not in str(inspect.signature(function))


def test_values_are_from_the_environment_of_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("S3S3_TEST_BUCKET", "images")
    source = {"bucket_name": "${S3S3_TEST_BUCKET}"}
    built = config.from_tables({"source": source, "destination": {"bucket_name": "b"}})
    assert built.routes[0].source.bucket_name == "images"
    file = tmp_path / "s3s3.toml"
    file.write_text('[source]\nbucket_name = "${S3S3_TEST_BUCKET}"\n[destination]\nbucket_name = "b"\n')
    assert config.load(file).routes[0].source.bucket_name == "images"
