"""Create buckets and set lifecycle rules on real stores."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import pytest

from s3s3.model import Secret
from s3s3.s3 import BucketAdmin, Store
from s3s3.scripts.demo.swift_server import SwiftServer
from tests.real.ceph_server import CephServer

if TYPE_CHECKING:
    from mypy_boto3_s3.type_defs import LifecycleRuleTypeDef

pytestmark = pytest.mark.real


async def test_a_bucket_is_created_once_and_swift_has_no_lifecycle_rules(swift: SwiftServer) -> None:
    buckets = BucketAdmin(swift.endpoint(f"made-{uuid.uuid4().hex[:8]}"))
    assert await buckets.create()
    assert not await buckets.create()
    assert not await buckets.expire_after(1)
    await buckets.close()


@pytest.mark.parametrize("version", ["s3", "s3v4"])
async def test_ceph_reports_the_expiry_of_an_object_and_other_rules_stay(
    ceph: CephServer, version: Literal["s3", "s3v4"]
) -> None:
    name = f"made-{uuid.uuid4().hex[:8]}"
    endpoint = replace(ceph.endpoint(name), signature_version=version, prefix="mirrored/",
                       region="default" if version == "s3v4" else "us-east-1")  # fmt: skip
    buckets = BucketAdmin(endpoint)
    assert await buckets.create()
    other: LifecycleRuleTypeDef = {
        "ID": "other",
        "Filter": {"Prefix": "tmp/"},
        "Status": "Enabled",
        "Expiration": {"Days": 9},
    }
    client = ceph.boto3_client()
    client.put_bucket_lifecycle_configuration(Bucket=name, LifecycleConfiguration={"Rules": [other]})
    assert await buckets.expire_after(3)
    assert await buckets.expire_after(2)
    await buckets.close()
    rules = {rule["ID"]: rule for rule in client.get_bucket_lifecycle_configuration(Bucket=name)["Rules"]}
    assert rules["s3s3-mirror"]["Expiration"]["Days"] == 2
    assert rules["s3s3-mirror"]["Filter"]["Prefix"] == "mirrored/"
    assert rules["other"]["Expiration"]["Days"] == 9
    client.put_object(Bucket=name, Key="mirrored/key", Body=b"content")
    async with Store(endpoint) as store:
        info = await store.head("key")
        assert info is not None
        assert info.expires_ms is not None
        assert 1 < (info.expires_ms - store.source_time_ms()) / 86_400_000 <= 3


async def test_a_bucket_of_another_account_is_not_created(swift: SwiftServer, new_bucket: Callable[..., str]) -> None:
    buckets = BucketAdmin(replace(swift.endpoint(new_bucket(swift)), secret_access_key=Secret("wrong")))
    with pytest.raises(Exception, match="aws_secret_access_key"):
        await buckets.create()
    await buckets.close()
