"""Stores and routes by name, and what routes must not do to each other."""

from __future__ import annotations

from itertools import permutations

import pytest

from s3s3 import config
from s3s3.model import Secret
from tests.config.configurations import SOUND, loaded, problems_in

STORES = """
[stores.ceph]
host = "ceph.example.org"
port = 7480
is_secure = false
aws_access_key_id = "A"
aws_secret_access_key = "B"
bucket_name = "images"
verify_md5 = true
[stores.swift]
host = "swift.example.org"
aws_access_key_id = "C"
aws_secret_access_key = "${SECRET}"
"""


def route(name: str, source: str, *destinations: str, keys: str = "") -> str:
    """A route between places such as "a/x/": bucket and prefix."""
    return f"[routes.{name}]\n{keys}\n" + "".join(
        f'[routes.{name}.{table}]\nhost = "ceph"\nbucket_name = "{place.partition("/")[0]}"\n'
        f'prefix = "{place.partition("/")[2]}"\n'
        for table, place in [("source", source), *((f"dest-{n}", place) for n, place in enumerate(destinations))]
    )


def only_problem(text: str) -> str:
    errors = problems_in(text, {"SECRET": "D"})
    assert len(errors) == 1, errors
    return errors[0].partition(": ")[2]


# -- stores


def test_endpoints_share_the_keys_of_their_store_and_their_own_win() -> None:
    text = f"""{STORES}
[source]
store = "ceph"
prefix = "raw/"
[destination]
store = "swift"
bucket_name = "copy"
is_secure = false
[destination-near]
store = "ceph"
bucket_name = "near"
verify_md5 = false
"""
    (one,) = loaded(text, {"SECRET": "D"}).routes
    source, (far, near) = one.source, one.destinations
    assert (source.host, source.port, source.bucket_name) == ("ceph.example.org", 7480, "images")
    assert (source.access_key_id, source.secret_access_key) == ("A", Secret("B"))
    assert (source.is_secure, source.prefix, source.verify_md5) == (False, "raw/", True)
    assert (far.host, far.port, far.is_secure, far.bucket_name) == ("swift.example.org", None, False, "copy")
    assert (far.access_key_id, far.secret_access_key) == ("C", Secret("D"))
    assert (near.bucket_name, near.verify_md5, near.port) == ("near", False, 7480)


def test_a_store_may_stand_below_those_that_share_it() -> None:
    text = SOUND + 'store = "late"\n[stores.late]\nport = 81\n'
    assert loaded(text).routes[0].destinations[0].port == 81


def test_an_unknown_store_is_answered_with_the_most_similar_one_and_no_key_is_missing() -> None:
    text = STORES + '[source]\nstore = "cehp"\n[destination]\nbucket_name = "b"\nstore = "cloud"\n'
    first, second = problems_in(text, {"SECRET": "D"})
    assert first.endswith('[source] store: [stores.cehp] does not exist; did you mean "ceph"?')
    assert second.endswith("[destination] store: [stores.cloud] does not exist; add [stores.cloud]")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('store = "${NOPE}"', "store: environment variable NOPE is not set"),
        ("store = 5", "store: must be text in quotes, not 5"),
        ("store = ['x']", "store: must be text in quotes, not a list"),
        ('store = ""', 'store: must be at least one character, not ""; leave it out for the default'),
        ('stor = "x"', "stor: unknown key; did you mean store?"),
    ],
)
def test_keys_that_an_invalid_store_may_supply_are_not_missing(line: str, expected: str) -> None:
    assert (
        only_problem(f'{SOUND}[dest-2]\n{line}\nport = 80\n[stores.x]\nbucket_name = "b"\n') == f"[dest-2] {expected}"
    )


def test_a_problem_in_a_store_is_reported_once_at_the_store() -> None:
    text = (
        SOUND
        + 'store = "x"\n[destination-2]\nbucket_name = "c"\nstore = "x"\n[stores.x]\nhost = "h"\nport = "y"\nprot = 1\n'
    )
    assert [problem.partition(": ")[2] for problem in problems_in(text)] == [
        '[stores.x] port: must be a whole number, not "y"',
        "[stores.x] prot: unknown key; did you mean port?",
    ]


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ("include = ['*']", "[stores.x] include: unknown key here; it belongs in [source]"),
        ("acl = 'private'", "[stores.x] acl: unknown key here; it belongs in [destination]"),
        ("store = 'x'", "[stores.x] store: unknown key here; it belongs in [source]"),
        ("[stores.x.y]", "[stores.x] y: unknown key; echo_s3s3_toml_template prints all keys"),
        ("aws_access_key_id = 'A'", "[stores.x] aws_access_key_id: given without aws_secret_access_key; "
                                    "give both, or neither to use boto3's credential chain"),
    ],
)  # fmt: skip
def test_what_a_store_does_not_take_is_reported(keys: str, expected: str) -> None:
    assert only_problem(f'{SOUND}store = "x"\n[stores.x]\n{keys}\n') == expected


def test_half_a_pair_of_credentials_is_not_filled_up_from_a_store() -> None:
    store = '[stores.x]\naws_access_key_id = "B"\naws_secret_access_key = "C"\n'
    text = f'{SOUND}store = "x"\naws_access_key_id = "A"\n{store}'
    assert only_problem(text).startswith("[destination] aws_access_key_id: given without aws_secret_access_key")


# -- routes


def test_routes_stand_beside_the_default_one_with_channels_of_their_own() -> None:
    text = SOUND + route("raw", "a/x/", "b/y/", "c", keys='channel = "new"')
    text += route("old.1", "a/z/", "d").replace("routes.old.1", 'routes."old.1"') + '[pubsub]\nchannel = "all"\n'
    routes = loaded(text).routes
    assert [(one.name, one.channel, one.destination_names) for one in routes] == [
        ("default", "all", ("destination",)),
        ("raw", "new", ("dest-0", "dest-1")),
        ("old.1", "all", ("dest-0",)),
    ]
    assert [one.prefix for one in (routes[1].source, *routes[1].destinations)] == ["x/", "y/", ""]


def test_a_file_of_named_routes_needs_no_other() -> None:
    (one,) = loaded(route("default", "a", "b")).routes
    assert one.name == "default"
    assert "[source] defines a route of this name" in only_problem(SOUND + route("default", "a", "b"))


def test_a_second_default_route_is_reported_beside_an_overlap() -> None:
    first = SOUND.replace("swift", "ceph")
    twice = first + route("default", "x", "y")
    assert [problem.partition(": ")[2] for problem in problems_in(twice)] == [
        "[destination]: has the bucket and prefix of [source]; give it its own bucket or prefix",
        "[routes.default]: [source] defines a route of this name; rename [routes.default]",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[routes.raw]", ["[routes.raw]: no [routes.raw.source] table: the bucket to copy from",
                          "[routes.raw]: no [routes.raw.destination] table: a bucket to copy to; its name must "
                          "begin with dest"]),
        ("[routes.raw.sorce]\nbucket_name='a'\n[routes.raw.dest]\nbucket_name='b'",
         ["[routes.raw.sorce]: unknown table; did you mean [routes.raw.source]?"]),
        ("[routes]\nraw = 1", ["[routes.raw]: must be a table, [routes.raw], not a number"]),
        ("[routes.'ä'.source]\nbucket_name='a'\n[routes.'ä'.dest]\nbucket_name='b'",
         ["[routes.'ä']: a name may contain only letters, digits, _ . and -"]),
        ("[routes.raw]\nhost='x'\n[routes.raw.source]\nbucket_name='a'\n[routes.raw.dest]\nbucket_name='b'",
         ["[routes.raw] host: unknown key here; it belongs in [routes.raw.source]"]),
        ("[routes.raw]\nchanel='x'\n[routes.raw.source]\nbucket_name='a'\n[routes.raw.dest]\nprot=1",
         ["[routes.raw] chanel: unknown key; did you mean channel?", "[routes.raw.dest]: bucket_name is missing",
          "[routes.raw.dest] prot: unknown key; did you mean port?"]),
        ("[routes.raw.source]\nbucket_name='a'\n[routes.raw.dest.x]\nbucket_name='b'",
         ["[routes.raw.dest] x: unknown table within [routes.raw.dest]; "
          "write [routes.raw.'dest.x'] for a name with a dot", "[routes.raw.dest]: bucket_name is missing"]),
    ],
)  # fmt: skip
def test_problems_in_a_route_are_reported_with_its_whole_name(text: str, expected: list[str]) -> None:
    errors = problems_in(f"{SOUND}{text}\n")
    assert [problem.partition(": ")[2] for problem in errors] == expected
    assert all(int(problem.split(":")[1]) > SOUND.count("\n") for problem in errors)


# -- what they must not do to each other


def test_two_routes_that_write_the_same_keys_are_refused_by_both_names() -> None:
    message = only_problem(route("one", "a", "x/y/") + route("two", "b", "z", "x/y/"))
    assert message == (
        "[routes.two.dest-1]: has the bucket and prefix of [routes.one.dest-0]; give it its own bucket or prefix"
    )
    message = only_problem(SOUND + '[routes.r.source]\nbucket_name = "b"\n[routes.r.dest]\nhost = "swift.example.org"\n'
                         'bucket_name = "images"\nprefix = "r/"\n')  # fmt: skip
    assert message.startswith("[routes.r.dest]: overlaps, in the same bucket, with [destination]; give it")


CIRCLES = [
    [("one", "a", "b"), ("two", "b", "a")],
    [("one", "a/x/", "b"), ("two", "b/y/", "a/x/z/")],
    [("one", "a", "b"), ("two", "b", "c"), ("three", "c", "a")],
    [("one", "a", "b"), ("two", "b", "c"), ("three", "c", "d"), ("four", "d/p/", "a/q/")],
    [("one", "a", "n", "b"), ("two", "b", "m", "a")],
]


@pytest.mark.parametrize("cycle", CIRCLES)
def test_a_cycle_of_routes_is_refused_by_the_names_of_all(cycle: list[tuple[str, ...]]) -> None:
    for order in permutations(cycle):
        message = only_problem("".join(route(*one) for one in [*order, ("other", "o", "p")]))
        assert "form a cycle" in message
        assert all(f" {name}," in message or f" {name} form" in message for name, *_ in cycle)
        assert message.count("overlaps [routes.") == len(cycle)
        assert "other" not in message


def test_two_cycles_are_two_problems() -> None:
    text = route("one", "a", "b", "c") + route("two", "b", "a/2/") + route("three", "c", "a/3/")
    assert len(problems_in(text)) == 2


CHAINS = [
    [("one", "a", "b"), ("two", "b", "c")],
    [("one", "a", "b/in/"), ("two", "b", "c")],
    [("one", "a", "b"), ("two", "b/in/", "c"), ("three", "b/other/", "d"), ("four", "c", "e")],
    [("one", "a/x/", "b/x/"), ("two", "b/y/", "a/y/")],
    [("one", "a", "b"), ("two", "a", "c"), ("three", "a/x/", "d")],
]


@pytest.mark.parametrize("chain", CHAINS)
def test_a_chain_that_does_not_close_and_sources_that_overlap_are_accepted(chain: list[tuple[str, ...]]) -> None:
    for order in permutations(chain):
        assert len(loaded("".join(route(*one) for one in order)).routes) == len(chain)


def test_deletions_where_another_route_takes_its_objects_from_cause_a_warning() -> None:
    def warnings_for(first: str, second: str, delete: str = "delete = true\n") -> list[str]:
        return config.config_warnings(loaded(route("one", "a", first) + delete + route("two", second, "c")))

    for second in ("b", "b/x/"):
        (warning,) = warnings_for("b", second)
        assert warning.startswith("[routes.one.dest-0] has delete = true and contains [routes.two.source]: ")
    assert (
        warnings_for("b/in/", "b")
        == warnings_for("b/in/", "b/out/")
        == warnings_for("b", "d")
        == warnings_for("b", "b", "")
        == []
    )


def test_marks_of_two_routes_that_could_mean_the_same_key_are_refused() -> None:
    marks = "[pubsub]\nmark_done = true\n"
    message = only_problem(marks + route("one", "a", "b") + route("two", "c/x/", "d"))
    expected = 'routes one and two would set the same marker on channel "backup"; use two channels'
    assert message == f"[pubsub] mark_done: {expected}"
    assert loaded(marks + route("one", "a/y/", "b") + route("two", "c/x/", "d")).pubsub.mark_done
    assert loaded(marks + route("one", "a", "b") + route("two", "c", "d", keys='channel = "d"')).pubsub.mark_done
