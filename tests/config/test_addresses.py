from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.asyncio import Redis

from s3s3.config.addresses import host_advice, is_host, is_ipv6, is_port, redacted_url, redis_url_advice


@pytest.mark.parametrize("text", ["ceph", "ceph.example.org", "ceph.example.org.", "127.0.0.1", "a_b", "[::1]"])
def test_host_names_and_addresses_are_hosts(text: str) -> None:
    assert is_host(text)


@pytest.mark.parametrize(
    "text", ["", ".", "a..b", "-a", "a:1", "a/b", "http://a", "a b", "müller", "a@b", "[::g]", "a\n", "a" * 64]
)
def test_other_texts_are_not_hosts(text: str) -> None:
    assert not is_host(text)


def test_an_ipv6_address_is_one_with_and_without_brackets() -> None:
    assert is_ipv6("::1")
    assert not is_ipv6("[::1]")
    assert not is_ipv6("127.0.0.1")


@pytest.mark.parametrize(("text", "is_one"), [("1", True), ("65535", True), ("0", False), ("65536", False),
                                              ("", False), ("-1", False), ("٣", False), ("1\n", False)])  # fmt: skip
def test_a_port_is_a_number_from_1_to_65535(text: str, is_one: bool) -> None:
    assert is_port(text) is is_one


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("ceph:7480", 'write host = "ceph", port = 7480, and is_secure = false if it is not HTTPS'),
        ("[::1]:80", 'write host = "::1", port = 80, and is_secure = false if it is not HTTPS'),
        ("ceph/images", 'write host = "ceph", or "https://ceph/images" if the store\'s URL has this path'),
        ("https://ceph/?a=b", "without scheme, port and path"),
        ("https://", "without scheme, port and path"),
        ("ceph:many", "without scheme, port and path"),
        ("[::1", "without scheme, port and path"),
    ],
)
def test_a_host_that_is_a_url_is_taken_apart(text: str, advice: str) -> None:
    assert host_advice(text) == advice


def test_advice_on_a_host_with_credentials_does_not_show_them() -> None:
    assert "hunter2" not in host_advice("https://key:hunter2@ceph")


SOUND_URLS = [
    "redis://localhost:6379/0", "redis://localhost", "redis://[::1]:6379/1", "rediss://user:p%2Fw@redis/2?db=3",
    "redis://:password@redis:6379/0", "unix:///run/redis.sock", "unix://user:pw@/run/redis.sock?db=1",
]  # fmt: skip


@pytest.mark.parametrize(
    "url",
    [
        *SOUND_URLS, "redis+sentinel://:pw@a:26379,b:26379/mymaster/0", "rediss+sentinel://a/mymaster",
        "redis+cluster://a:7000", "rediss+cluster://:pw@a:7000/0",
    ],
)  # fmt: skip
def test_every_form_of_redis_url_is_well_formed(url: str) -> None:
    assert redis_url_advice(url) == ""


@pytest.mark.parametrize("url", SOUND_URLS)
def test_redis_py_takes_the_urls_that_are_well_formed(url: str) -> None:
    Redis.from_url(url)


@pytest.mark.parametrize(
    ("url", "part"),
    [
        ("localhost", "begin it with one of redis, rediss, unix"),
        ("http://localhost", "begin it with one of"),
        ("redis:", "begin it with one of"),
        ("redis://", "HOST:PORT"),
        ("redis:///0", "HOST:PORT"),
        ("redis://host:0", "HOST:PORT"),
        ("redis://host:port/0", "HOST:PORT"),
        ("redis://a,b/0", "HOST:PORT"),
        ("redis://host/zero", "database number"),
        ("redis://host/0#x", "database number"),
        ("redis://host?db", "NAME=VALUE"),
        ("redis://[::1/0", "NAME=VALUE"),
        ("redis://:a/b@host/0", "%2F"),
        ("redis://u:12#w@host/0", "%2F"),
        ("redis://u:12?w@host/0", "%2F"),
        ("unix://run/redis.sock", "unix:///"),
        ("unix://", "unix:///"),
        ("redis+sentinel://a:26379", "names the service"),
        ("redis+sentinel://a:26379,:1/mymaster", "HOST:PORT"),
        ("redis+cluster://a/3", "only database 0"),
    ],
)
def test_a_redis_url_that_is_not_well_formed_gets_advice(url: str, part: str) -> None:
    assert part in redis_url_advice(url)


PASSWORDS = st.text("xyzXYZ0189/@#?:&=%+ ", min_size=1).map(lambda text: f"SECRET{text}SECRET")


@given(PASSWORDS, st.sampled_from(["redis://{}:{}@host:6379/0", "redis://{}{}@h", "unix://{}:{}@/s", "{}:{}@host"]))
def test_neither_advice_nor_the_redacted_url_holds_the_password(password: str, form: str) -> None:
    url = form.format("user", password)
    assert "SECRET" not in redis_url_advice(url)
    assert "SECRET" not in redacted_url(url)
    assert "user" not in redacted_url(url)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://localhost:6379/0", "redis://localhost:6379/0"),
        ("redis://:pw@localhost:6379/0", "redis://***@localhost:6379/0"),
        ("redis://localhost/0?password=pw", "redis://localhost/0?***"),
        ("", ""),
    ],
)
def test_a_redacted_url_still_says_where(url: str, shown: str) -> None:
    assert redacted_url(url) == shown
