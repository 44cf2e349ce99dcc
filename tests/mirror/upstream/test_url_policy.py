"""Which URLs and addresses are allowed."""

from __future__ import annotations

import re
from ipaddress import ip_network

import pytest

from s3s3.errors import StoreUnavailable, UrlForbidden
from s3s3.mirror.upstream.url_policy import UrlRules, is_allowed, parse_url, redact_query

PRIVATE = [
    "127.0.0.1", "127.8.9.10", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "169.254.169.254",
    "100.64.0.1", "0.0.0.0", "192.0.2.1", "198.18.0.1", "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255",
    "::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "fd12:3456::1", "ff02::1", "2001:db8::1",
    "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::127.0.0.1",
    "64:ff9b::127.0.0.1", "64:ff9b::a9fe:a9fe", "2002:7f00:1::", "2002:a00:1::1", "2001:0:a00:1::f5ff:fffe",
]  # fmt: skip
PUBLIC = ["8.8.8.8", "93.184.216.34", "172.32.0.1", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"]


@pytest.mark.parametrize("address", PRIVATE)
def test_a_private_address_is_refused(address: str) -> None:
    assert not is_allowed(address)
    assert is_allowed(address, [ip_network("0.0.0.0/0"), ip_network("::/0")])


@pytest.mark.parametrize("address", PUBLIC)
def test_a_public_address_is_allowed(address: str) -> None:
    assert is_allowed(address)


def test_allowing_a_network_allows_no_other() -> None:
    networks = [ip_network("10.1.0.0/16")]
    assert is_allowed("10.1.2.3", networks)
    assert is_allowed("::ffff:10.1.2.3", networks)
    assert not is_allowed("10.2.2.3", networks)
    assert not is_allowed("::1", networks)
    assert not is_allowed("2002:a02:1::1", [*networks, ip_network("2002::/16")]), "it leads to 10.2.0.1"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://Example.ORG/a?b=c#d", ("https://example.org/a?b=c", "example.org", 443)),
        ("HTTP://example.org", ("http://example.org/", "example.org", 80)),
        ("http://example.org:80/", ("http://example.org/", "example.org", 80)),
        ("https://example.org:8443/\u00fc b%20c", ("https://example.org:8443/%C3%BC%20b%20c", "example.org", 8443)),
        ("http://[::1]:8080/x", ("http://[::1]:8080/x", "::1", 8080)),
    ],
)  # fmt: skip
def test_parsing_a_url(url: str, expected: tuple[str, str, int]) -> None:
    parsed = parse_url(url)
    assert (parsed.url, parsed.host, parsed.port) == expected


@pytest.mark.parametrize(
    "url",
    ["", "x", "//example.org/", "ftp://example.org/", "http:///x", "http://user@example.org/", "http://u:p@example.org/",
     "http://example.org:99999/", "http://example.org:x/", "http://exa mple.org/", "http://evil.org\\.example.org/",
     "http://ex\u00e4mple.org/", "http://[::1/", "http://[fe80::1%25eth0]/", "http://example.org%2f@evil.org/",
     "javascript:alert(1)", "http://2130706433/", "http://127.1/", "http://0177.0.0.1/", "http://127.0.0.1./"],
)  # fmt: skip
def test_invalid_urls_are_refused(url: str) -> None:
    with pytest.raises(UrlForbidden):
        parse_url(url)


@pytest.mark.parametrize("odd", ["http://example.org/\r\nHost: evil.org", "http://example.org/\x00", "http://a.org/\n"])
def test_a_url_cannot_add_a_line_to_the_request(odd: str) -> None:
    url = parse_url(odd).url
    assert url.isprintable()
    assert " " not in url


def test_patterns_and_https() -> None:
    rules = UrlRules(patterns=[re.compile(r"^https?://artifacts\.example\.org/")], https_only=True)
    assert rules.check_url("https://artifacts.example.org/x").is_secure
    for url in ("http://artifacts.example.org/x", "https://artifacts.example.org.evil.org/",
                "https://evil.org/https://artifacts.example.org/", "https://artifactsxexample.org/"):  # fmt: skip
        with pytest.raises(UrlForbidden):
            rules.check_url(url)


async def test_a_name_with_a_private_address_is_refused() -> None:
    async def both(host: str, port: int) -> list[str]:
        return ["93.184.216.34", "127.0.0.1"]

    with pytest.raises(UrlForbidden, match=r"127\.0\.0\.1"):
        await UrlRules(resolve=both).addresses("example.org", 80)


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "localhost"])
async def test_the_configured_source_may_be_private_on_its_own_port_only(host: str) -> None:
    rules = UrlRules(trusted=(host.strip("[]"), 8080))
    url = rules.check_url(f"http://{host}:8080/")
    assert set(await rules.addresses(url.host, url.port)) <= {"127.0.0.1", "::1"}
    with pytest.raises(UrlForbidden):
        await rules.addresses(rules.check_url(f"http://{host}:8081/").host, 8081)


@pytest.mark.parametrize("host", ["127.0.0.1", "[::ffff:10.0.0.1]", "169.254.169.254"])
def test_an_address_in_a_url_is_checked(host: str) -> None:
    with pytest.raises(UrlForbidden, match="not a public Internet address"):
        UrlRules().check_url(f"http://{host}/")


async def test_an_unknown_name_is_retriable_and_names_no_store() -> None:
    async def none(host: str, port: int) -> list[str]:
        raise OSError("no such name")

    with pytest.raises(StoreUnavailable) as raised:
        await UrlRules(resolve=none).addresses("example.org", 80)
    assert raised.value.store == "", "an unknown name is not a failure of the source"


def test_a_query_is_not_shown() -> None:
    assert redact_query("https://example.org/x?Signature=secret") == "https://example.org/x?***"
