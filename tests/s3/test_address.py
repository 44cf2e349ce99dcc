"""Addresses of endpoints, in path style and virtual-host style."""

from __future__ import annotations

from typing import Any

import pytest

from s3s3.model import Endpoint
from s3s3.s3.address import Address


def endpoint(**changed: Any) -> Endpoint:
    return Endpoint(**{"name": "source", "bucket_name": "bucket", **changed})


@pytest.mark.parametrize(
    ("settings", "connects_to", "host_header", "path", "resource"),
    [
        ({"host": "h", "is_secure": False}, ("h", 80), "h", "/bucket/k", "/bucket/k"),
        ({"host": "h", "is_secure": True}, ("h", 443), "h", "/bucket/k", "/bucket/k"),
        ({"host": "h", "port": 7480, "is_secure": False}, ("h", 7480), "h:7480", "/bucket/k", "/bucket/k"),
        ({"host": "h", "port": 80, "is_secure": True}, ("h", 80), "h:80", "/bucket/k", "/bucket/k"),
        ({"host": "::1", "port": 7480}, ("::1", 7480), "[::1]:7480", "/bucket/k", "/bucket/k"),
        ({"host": "h", "path_style": False}, ("bucket.h", 443), "bucket.h", "/k", "/bucket/k"),
        (
            {"region": "eu-west-1"},
            ("s3.eu-west-1.amazonaws.com", 443),
            "s3.eu-west-1.amazonaws.com",
            "/bucket/k",
            "/bucket/k",
        ),
        (
            {"region": "cn-north-1", "path_style": False},
            ("bucket.s3.cn-north-1.amazonaws.com.cn", 443),
            "bucket.s3.cn-north-1.amazonaws.com.cn",
            "/k",
            "/bucket/k",
        ),
        ({"host": "h", "bucket_name": "tenant:b"}, ("h", 443), "h", "/tenant%3Ab/k", "/tenant%3Ab/k"),
    ],
)
def test_the_address_of_an_endpoint(
    settings: dict[str, Any], connects_to: tuple[str, int], host_header: str, path: str, resource: str
) -> None:
    address = Address.of(endpoint(**settings))
    target = address.target("k")
    assert ((address.host, address.port), address.host_header) == (connects_to, host_header)
    assert (target.path, target.resource) == (path, resource)


@pytest.mark.parametrize(
    ("settings", "host_header", "path", "resource", "url"),
    [
        ({}, "p", "/storage/v1/s3/bucket/k", "/storage/v1/s3/bucket/k", "https://p"),
        ({"path_style": False}, "bucket.p", "/storage/v1/s3/k", "/bucket/storage/v1/s3/k", "https://bucket.p"),
    ],
)
def test_the_path_of_the_stores_url_begins_every_path(
    settings: dict[str, Any], host_header: str, path: str, resource: str, url: str
) -> None:
    address = Address.of(endpoint(host="p", base_path="/storage/v1/s3", **settings))
    target = address.target("k")
    assert (address.host_header, target.path, target.resource, address.url) == (host_header, path, resource, url)


def test_the_zone_of_an_ipv6_address_is_not_part_of_the_host_header() -> None:
    address = Address.of(endpoint(host="fe80::1%eth0", port=7480))
    assert (address.host, address.host_header) == ("fe80::1%eth0", "[fe80::1]:7480")
