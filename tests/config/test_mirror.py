"""The tables of the HTTP fronts."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from s3s3.model import Secret
from tests.config.configurations import SOUND, loaded, problems_in

PROXY = """
[mirror.proxy]
source = "https://origin.example.org/files/"
[mirror.proxy.destination]
host = "ceph.example.org"
bucket_name = "files"
"""

REDIRECT = """
[mirror.redirect]
allowed_patterns = ["^https://artifacts\\\\.example\\\\.org/"]
purge_token = "${TOKEN}"
[mirror.redirect.s3.us-west-1]
bucket_name = "artifacts"
[mirror.redirect.ceph.here]
host = "ceph.example.org"
bucket_name = "artifacts"
acl = "public-read"
"""

TOKEN = {"TOKEN": "t"}


def only_problem(text: str) -> str:
    errors = problems_in(text, TOKEN)
    assert len(errors) == 1, errors
    return errors[0]


def test_a_file_may_hold_nothing_but_mirrors() -> None:
    config = loaded(PROXY)
    assert config.routes == ()
    proxy = config.mirror.proxy
    assert proxy is not None and config.mirror.redirect is None
    assert (proxy.host, proxy.port, proxy.max_wait_s, proxy.private) == ("127.0.0.1", 9191, 90, ())
    assert (proxy.destination.name, proxy.destination.table) == (
        "mirror.proxy.destination",
        "[mirror.proxy.destination]",
    )
    assert proxy.route.name == "mirror.proxy"


def test_a_command_that_needs_a_route_says_so() -> None:
    config = loaded(PROXY)
    with pytest.raises(Exception, match=r"no route; add the tables \[source\]"):
        config.need_routes()
    loaded(SOUND + PROXY).need_routes()


def test_a_redirect_front_has_destinations_by_service_and_region() -> None:
    redirect = loaded(REDIRECT, TOKEN).mirror.redirect
    assert redirect is not None
    aws, ceph = redirect.destinations["s3", "us-west-1"], redirect.destinations["ceph", "here"]
    assert (aws.region, aws.name) == ("us-west-1", "mirror.redirect.s3.us-west-1")
    assert (ceph.region, ceph.acl) == ("us-east-1", "public-read")
    assert (redirect.https_only, redirect.max_wait_s, redirect.lifespan_days, redirect.purge_token) == (
        True, 28, 1, Secret("t"))  # fmt: skip
    assert redirect.patterns[0].match("https://artifacts.example.org/x")
    assert not redirect.patterns[0].match("https://artifacts.example.org.evil.org/x")


def test_the_routes_of_mirrors_have_the_namespace() -> None:
    mirror = loaded(PROXY + REDIRECT + '[pubsub]\nnamespace = "other"\n', TOKEN).mirror
    assert {route.namespace for route in mirror.routes} == {"other"}
    assert len(mirror.routes) == 3


@pytest.mark.parametrize(
    ("written", "read"),
    [("true", ("0.0.0.0/0", "::/0")), ("false", ()), ('["127.0.0.1/32", "fd00::/8"]', ("127.0.0.1/32", "fd00::/8"))],
)
def test_private_addresses_are_allowed_altogether_or_by_network(written: str, read: tuple[str, ...]) -> None:
    text = PROXY.replace("[mirror.proxy.dest", f"allow_private = {written}\n[mirror.proxy.dest")
    proxy = loaded(text).mirror.proxy
    assert proxy is not None and proxy.private == tuple(map(ip_network, read))


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ('"^https://artifacts\\\\.example\\\\.org/"', '"https://artifacts/"', 'begin with "^" and end with "/"'),
        ('"^https://artifacts\\\\.example\\\\.org/"', '"^https://artifacts"', 'write "^https://artifacts/"'),
        ('"^https://artifacts\\\\.example\\\\.org/"', '"^https://(artifacts/"', "unterminated subpattern"),
        ('["^https://artifacts\\\\.example\\\\.org/"]', "[]", "at least one pattern"),
        ('"^https://artifacts\\\\.example\\\\.org/"', '"^a{99999999999}/"', "the repetition number is too large"),
        ("[mirror.redirect]", "[mirror.redirect]\nallow_private = 1", "true, false or a list of networks"),
        ("[mirror.redirect]", '[mirror.redirect]\nallow_private = ["10.0.0.1/8"]', "has host bits set"),
        ("[mirror.redirect]", "[mirror.redirect]\nmax_wait = 5", "did you mean the key max_wait_s?"),
        ('bucket_name = "artifacts"\n[', "[", "bucket_name is missing"),
    ],
)
def test_problems_of_a_redirect_front(old: str, new: str, problem: str) -> None:
    assert old in REDIRECT
    assert problem in only_problem(REDIRECT.replace(old, new))


@pytest.mark.parametrize(
    ("source", "problem"),
    [("ftp://origin/", "must be a URL"), ("https://u:p@origin/", "must be a URL"), ("origin/", "must be a URL"),
     ("https://origin/files", 'ends with "/"'), ("https://[/", "must be a URL"), ("https://[::1/", "must be a URL"),
     ("https://origin:port/", "must be a URL")],
)  # fmt: skip
def test_problems_of_a_proxys_source(source: str, problem: str) -> None:
    assert problem in only_problem(PROXY.replace("https://origin.example.org/files/", source))


def test_a_front_without_a_destination_has_nowhere_to_put_copies() -> None:
    assert "no [mirror.proxy.destination] table" in only_problem(PROXY.partition("[mirror.proxy.dest")[0])
    assert "no [mirror.redirect.s3.REGION] table" in only_problem(REDIRECT.partition("[mirror.redirect.s3")[0])


def test_a_mirror_writes_to_no_place_that_another_writes_to() -> None:
    other = REDIRECT.replace('bucket_name = "artifacts"\nacl', 'bucket_name = "files"\nacl')
    assert "has the bucket and prefix of [mirror.proxy.destination]" in only_problem(PROXY + other)
    taken = SOUND.replace("swift.example.org", "ceph.example.org").replace('"images"', '"files"')
    assert any("has the bucket and prefix of" in problem for problem in problems_in(taken + PROXY))


def test_no_route_takes_a_mirrors_name() -> None:
    named = SOUND.replace("[", '[routes."mirror.x".')
    assert 'names that begin with "mirror." are reserved for mirrors' in only_problem(named)


CACHE = """
[mirror.cache]
directory = "/var/cache/s3s3"
[mirror.cache.store]
host = "ceph.example.org"
bucket_name = "files"
"""


def test_a_cache_and_its_store() -> None:
    cache = loaded(CACHE).mirror.cache
    assert cache is not None
    assert (cache.host, cache.port, str(cache.directory)) == ("127.0.0.1", 9192, "/var/cache/s3s3")
    assert (cache.max_fill, cache.low_fill, cache.revalidate_s, cache.streams) == (0.9, 0.8, 300, False)
    assert (cache.store.name, cache.store.bucket_name) == ("mirror.cache.store", "files")


PAIRS = """
[mirror.cache.keys.reader]
aws_access_key_id = "READER"
aws_secret_access_key = "${TOKEN}"
[mirror.cache.keys.old]
aws_access_key_id = "OLD"
aws_secret_access_key = "old"
"""


def test_a_caches_clients_may_have_keys_of_their_own() -> None:
    without, with_pairs = loaded(CACHE).mirror.cache, loaded(CACHE + PAIRS, TOKEN).mirror.cache
    assert without is not None
    assert with_pairs is not None
    assert without.keys == ()
    assert with_pairs.keys == (("READER", Secret("t")), ("OLD", Secret("old")))
    assert "'t'" not in repr(with_pairs)
    twice = CACHE + PAIRS.replace('"OLD"', '"READER"')
    assert "[mirror.cache.keys.old] aws_access_key_id: is already used in [mirror.cache.keys.reader]" in only_problem(
        twice
    )
    the_stores = CACHE + 'aws_access_key_id = "OLD"\naws_secret_access_key = "x"\n' + PAIRS
    assert "aws_access_key_id: is already used in [mirror.cache.store]" in only_problem(the_stores)
    half = CACHE + PAIRS.replace('aws_secret_access_key = "old"\n', "")
    assert "aws_secret_access_key is missing" in only_problem(half)


def test_a_cache_may_be_of_a_bucket_that_others_write_to() -> None:
    loaded(CACHE + PROXY)


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ('directory = "/var/cache/s3s3"\n', "", "directory is missing"),
        ("[mirror.cache]", '[mirror.cache]\nmiss = "wait"', '"redirect" or "stream"'),
        ("[mirror.cache]", "[mirror.cache]\nmax_fill = 0.5", "low_fill: must be at most max_fill, 0.5, not 0.8"),
        ("[mirror.cache]", "[mirror.cache]\nmax_fill = 90", "max_fill"),
        ("[mirror.cache]", '[mirror.cache]\naccel_prefix = "x"', 'must begin and end with "/", not "x"'),
        ('host = "ceph.example.org"\n', "port = 7480\n", "given without host"),
        ("[mirror.cache.store]", "[mirror.cache.stor]", "did you mean [mirror.cache.store]?"),
    ],
)
def test_problems_of_a_cache(old: str, new: str, problem: str) -> None:
    assert old in CACHE
    assert problem in only_problem(CACHE.replace(old, new))
