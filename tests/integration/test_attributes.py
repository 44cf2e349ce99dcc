"""Tags and ACLs of objects, between real stores."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from s3s3.errors import StoreRefused, StoreUnavailable
from s3s3.model import MIN_PART_BYTES, Result
from s3s3.s3.attributes import ObjectAttributes
from s3s3.scripts.demo.swift_server import SwiftServer
from tests.integration.test_real_copies import BIG
from tests.integration.test_server_side_copy import between, copy
from tests.real.ceph_server import CephServer

if TYPE_CHECKING:
    from mypy_boto3_s3.type_defs import TagTypeDef

pytestmark = pytest.mark.real
NewBucket = Callable[..., str]

PUBLIC = "http://acs.amazonaws.com/groups/global/AllUsers"
TAGS: list[TagTypeDef] = [{"Key": "plus+&=% \u00e9", "Value": "a/b c"}, {"Key": "empty", "Value": ""}]
IN_PARTS = {"multipart": True, "multipart_threshold_bytes": MIN_PART_BYTES}


def grants_of(client: Any, bucket: str, key: str) -> list[tuple[str, str]]:
    acl = client.get_object_acl(Bucket=bucket, Key=key)
    return sorted(
        (grant["Grantee"].get("ID") or grant["Grantee"]["URI"], grant["Permission"]) for grant in acl["Grants"]
    )


@pytest.mark.parametrize("version", ["s3", pytest.param("s3v4", marks=pytest.mark.long)])
async def test_tags_come_with_the_object_where_that_is_asked_for(
    ceph: CephServer, new_bucket: NewBucket, version: str
) -> None:
    client, there_client = ceph.boto3_client(), ceph.boto3_client(1)
    source = ceph.endpoint(new_bucket(ceph), signature_version=version)
    for key, body in (("small", b"x"), ("big", BIG[: MIN_PART_BYTES + 1])):
        client.put_object(Bucket=source.bucket_name, Key=key, Body=body)
        client.put_object_tagging(Bucket=source.bucket_name, Key=key, Tagging={"TagSet": TAGS})
    for settings, tags in (({"copy_tags": True, **IN_PARTS}, TAGS), ({}, [])):
        there = ceph.endpoint(new_bucket(ceph, 1), "destination", account=1, signature_version=version, **settings)
        async with between(source, there) as stores:
            assert [(await copy(stores, key)).result for key in ("small", "big")] == [Result.COPIED] * 2
        for key in ("small", "big"):
            held = there_client.get_object_tagging(Bucket=there.bucket_name, Key=key)["TagSet"]
            assert sorted(held, key=str) == sorted(tags, key=str)


async def test_a_multipart_object_without_its_tags_is_reported_as_stored(
    ceph: CephServer, new_bucket: NewBucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: object, **__: object) -> None:
        raise StoreUnavailable("away")

    monkeypatch.setattr(ObjectAttributes, "put_tags", refuse)
    source = ceph.endpoint(new_bucket(ceph))
    client = ceph.boto3_client()
    client.put_object(Bucket=source.bucket_name, Key="k", Body=BIG[: MIN_PART_BYTES + 1], Tagging="a=b")
    settings = {"copy_tags": True, "server_side_copy": False, **IN_PARTS}
    there = ceph.endpoint(new_bucket(ceph), "destination", **settings)
    async with between(source, there) as stores:
        failed = await copy(stores, "k")
    assert "without its tags" in failed.reason
    assert isinstance(failed.error, StoreRefused)
    assert not failed.indeterminate


async def test_tags_that_a_store_does_not_take_are_a_failure_that_names_the_setting(
    ceph: CephServer, swift: SwiftServer, new_bucket: NewBucket
) -> None:
    source = ceph.endpoint(new_bucket(ceph))
    there = swift.endpoint(new_bucket(swift), "destination", copy_tags=True, copy_acl=True)
    client = ceph.boto3_client()
    client.put_object(Bucket=source.bucket_name, Key="tagged", Body=b"x", Tagging="a=b")
    client.put_object(Bucket=source.bucket_name, Key="plain", Body=b"x", ACL="public-read")
    async with between(source, there) as stores:
        tagged, plain = await copy(stores, "tagged"), await copy(stores, "plain")
    assert tagged.result is Result.FAILED
    assert "copy_tags" in tagged.reason
    assert "[destination]" in tagged.reason
    assert plain.result is Result.COPIED


async def test_a_source_without_tags_and_acls_of_objects_copies_what_it_has(
    swift: SwiftServer, ceph: CephServer, new_bucket: NewBucket
) -> None:
    source = swift.endpoint(new_bucket(swift))
    there = ceph.endpoint(new_bucket(ceph), "destination", copy_tags=True, copy_acl=True)
    swift.boto3_client().put_object(Bucket=source.bucket_name, Key="k", Body=b"x")
    async with between(source, there) as stores:
        assert (await copy(stores, "k")).result is Result.COPIED
        assert (await copy(stores, "gone")).result is Result.SOURCE_MISSING


@pytest.mark.parametrize("account", [0, 1])
async def test_an_acl_is_copied_if_both_stores_know_its_grantees(
    ceph: CephServer, new_bucket: NewBucket, account: int
) -> None:
    client, there_client = ceph.boto3_client(), ceph.boto3_client(account)
    source = ceph.endpoint(new_bucket(ceph))
    owner = client.get_bucket_acl(Bucket=source.bucket_name)["Owner"]["ID"]
    bucket = new_bucket(ceph, account)
    there_owner = there_client.get_bucket_acl(Bucket=bucket)["Owner"]["ID"]
    named = ceph.boto3_client(1).get_bucket_acl(Bucket=new_bucket(ceph, 1))["Owner"]["ID"]
    client.put_object(Bucket=source.bucket_name, Key="private", Body=b"x")
    client.put_object(Bucket=source.bucket_name, Key="public", Body=b"x", ACL="public-read")
    client.put_object(
        Bucket=source.bucket_name, Key="named", Body=b"x",
        GrantRead=f'id="{named}", uri="{PUBLIC}"', GrantFullControl=f'id="{owner}"',
    )  # fmt: skip
    there = ceph.endpoint(bucket, "destination", account=account, copy_acl=True)
    async with between(source, there) as stores:
        outcomes = [await copy(stores, key) for key in ("private", "public", "named")]
    assert [outcome.result for outcome in outcomes] == [Result.COPIED] * 3, [outcome.reason for outcome in outcomes]
    full = (there_owner, "FULL_CONTROL")
    assert grants_of(there_client, bucket, "private") == [full]
    assert grants_of(there_client, bucket, "public") == sorted([full, (PUBLIC, "READ")])
    if account == 0:
        assert grants_of(client, bucket, "named") == sorted([full, (named, "READ"), (PUBLIC, "READ")])
