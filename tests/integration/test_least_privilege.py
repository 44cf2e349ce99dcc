"""The users that docs/how-to/ceph.md and swift.md describe: s3s3 can do its work, and they can do nothing else."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from s3s3.model import Endpoint
from s3s3.scripts.demo.servers import HOST, Account, StoreServer
from s3s3.scripts.demo.swift_server import SwiftServer
from tests.console_blocks import REPOSITORY
from tests.integration.commands import run, write_config
from tests.real.ceph_server import CephServer

pytestmark = [pytest.mark.real, pytest.mark.long]

CEPH_PAGE, SWIFT_PAGE = ((REPOSITORY / "docs/how-to" / name).read_text() for name in ("ceph.md", "swift.md"))
KEYS = ("a", "b", "c/d")


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)


def with_keys(server: StoreServer, account: Account, endpoint: Endpoint) -> Endpoint:
    """The endpoint with the keys of an account that is added to the server."""
    if account not in server.accounts:
        server.accounts = (*server.accounts, account)
    name, number = endpoint.name, server.accounts.index(account)
    return server.endpoint(endpoint.bucket_name, name, account=number)


def check_it_works(source: Endpoint, there: Endpoint, folder: Path, extra: str = "") -> None:
    config = write_config(folder, source, [there], "")
    config.write_text(config.read_text().replace(f"{there.table}\n", f"{there.table}\n{extra}"))
    checked = json.loads(run("check", "--config", config, "--json").stdout)["routes"][0]["stores"]
    assert [(each["errors"], each["notes"]) for each in checked] == [([], []), ([], [])]
    assert [(each["may_read"], each["may_write"]) for each in checked] == [(True, None), (True, True)]
    run("bucket", "--config", config)
    assert "extraneous" not in run("bucket", "--config", config).stdout, "the check has left nothing"


def is_refused(call: Callable[..., Any], **arguments: Any) -> bool:
    with pytest.raises(ClientError) as error:
        call(**arguments)
    return error.value.response["Error"]["Code"] == "AccessDenied"


# -- Ceph


@pytest.fixture
def new_ceph_user(ceph: CephServer) -> Iterator[Account]:
    (command,) = blocks(CEPH_PAGE, "sh")
    made = json.loads(ceph._run(*command.split()))
    (keys,) = made["keys"]
    accounts = ceph.accounts
    yield Account(keys["access_key"], keys["secret_key"])
    ceph.accounts = accounts
    ceph._run("radosgw-admin", "user", "rm", "--uid=s3s3", "--purge-data")


def policies(source: str, there: str) -> list[Any]:
    """The policies of the page, for the source and for the destination, for these buckets of user0."""
    texts = [re.sub("images-backup", there, text) for text in blocks(CEPH_PAGE, "json")]
    return [json.loads(re.sub(r":::images\b", f":::{source}", text).replace("producer", "user0")) for text in texts]


def test_the_policies_for_ceph_allow_what_s3s3_does_and_nothing_else(
    ceph: CephServer, new_bucket: Callable[..., str], new_ceph_user: Account, tmp_path: Path
) -> None:
    source, there, private = new_bucket(ceph), new_bucket(ceph), new_bucket(ceph)
    owner = ceph.boto3_client()
    for key in KEYS:
        owner.put_object(Bucket=source, Key=key, Body=key.encode())
        owner.put_object_tagging(Bucket=source, Key=key, Tagging={"TagSet": [{"Key": "tag", "Value": key}]})
    of_source, of_there = policies(source, there)
    owner.put_bucket_policy(Bucket=source, Policy=json.dumps(of_source))
    owner.put_bucket_policy(Bucket=there, Policy=json.dumps(of_there))
    endpoints = (
        with_keys(ceph, new_ceph_user, ceph.endpoint(source)),
        with_keys(ceph, new_ceph_user, ceph.endpoint(there, "dest-ceph")),
    )
    check_it_works(*endpoints, tmp_path)
    assert owner.get_object(Bucket=there, Key="a")["Body"].read() == b"a", "the owner can read the copies"

    user = ceph.boto3_client(ceph.accounts.index(new_ceph_user))
    assert is_refused(user.create_bucket, Bucket=f"{there}-2")
    assert is_refused(user.list_objects_v2, Bucket=private)
    assert is_refused(user.put_object, Bucket=source, Key="a", Body=b"")
    assert is_refused(user.delete_object, Bucket=source, Key="a")
    assert is_refused(user.delete_object, Bucket=there, Key="a")
    assert is_refused(user.put_bucket_policy, Bucket=there, Policy=json.dumps(of_there))

    # What the table adds.
    rows = re.findall(r"^\| `(\w+) = true` \|(.*)\|(.*)\|$", CEPH_PAGE, re.MULTILINE)
    assert [name for name, *_ in rows] == ["delete", "copy_tags", "copy_acl"]
    actions = [re.findall(r"`(s3:\w+)`", " ".join(cells)) for cells in zip(*(cells for _, *cells in rows), strict=True)]
    of_source["Statement"][1]["Action"] = ["s3:GetObject", *actions[0]]
    of_there["Statement"][1]["Action"] += actions[1]
    owner.put_bucket_policy(Bucket=source, Policy=json.dumps(of_source))
    owner.put_bucket_policy(Bucket=there, Policy=json.dumps(of_there))
    owner.delete_object(Bucket=source, Key="a")
    owner.put_object(Bucket=source, Key="b", Body=b"changed", Tagging="tag=new")
    settings = "".join(f"{name} = true\n" for name, *_ in rows)
    check_it_works(*endpoints, tmp_path, settings + "max_delete = 1.0\n")
    listed = owner.list_objects_v2(Bucket=there)["Contents"]
    assert [each["Key"] for each in listed] == ["b", "c/d"]
    assert user.get_object_tagging(Bucket=there, Key="b")["TagSet"] == [{"Key": "tag", "Value": "new"}]


# -- Swift


class SwiftWithMember(SwiftServer):
    """A Swift with the page's user beside the operators."""

    name = "swift-with-member"

    def __init__(self) -> None:
        super().__init__()
        (line,) = blocks(SWIFT_PAGE, "ini")
        conf = self.folder / "proxy-server.conf"
        marker = "use = egg:swift#tempauth\n"
        conf.write_text(conf.read_text().replace(marker, marker + line))


def test_the_acls_for_swift_allow_what_s3s3_does_and_nothing_else(tmp_path: Path) -> None:
    with SwiftWithMember() as swift:
        operator = swift.boto3_client(1)
        for bucket in ("images", "images-backup", "private"):
            operator.create_bucket(Bucket=bucket)
        for key in KEYS:
            operator.put_object(Bucket="images", Key=key, Body=key.encode())
        connection = HTTPConnection(HOST, swift.port)
        name, secret = swift.accounts[1]
        connection.request("GET", "/auth/v1.0", headers={"X-Auth-User": name, "X-Auth-Key": secret})
        answer = connection.getresponse()
        environment = {"TOKEN": answer.headers["X-Auth-Token"], "STORAGE_URL": answer.headers["X-Storage-Url"]}
        (commands,) = blocks(SWIFT_PAGE, "sh")
        subprocess.run(["bash", "-euc", commands], env={**os.environ, **environment}, check=True, timeout=60)

        member = Account("backup:s3s3", "SECRET")
        assert f'aws_access_key_id = "{member.access_key_id}"' in SWIFT_PAGE
        source = with_keys(swift, member, swift.endpoint("images"))
        there = with_keys(swift, member, swift.endpoint("images-backup", "dest-swift"))
        check_it_works(source, there, tmp_path)
        user = swift.boto3_client(swift.accounts.index(member))
        assert is_refused(user.create_bucket, Bucket="another")
        assert is_refused(user.list_objects_v2, Bucket="private")
        assert is_refused(user.put_object, Bucket="images", Key="a", Body=b"")
        assert is_refused(user.delete_object, Bucket="images", Key="a")
        operator.delete_object(Bucket="images", Key="a")
        check_it_works(source, there, tmp_path, "delete = true\nmax_delete = 1.0\n")
        assert operator.list_objects_v2(Bucket="images-backup")["KeyCount"] == len(KEYS) - 1
