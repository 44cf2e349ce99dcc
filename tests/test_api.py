from __future__ import annotations

import asyncio
import hashlib
import inspect
import subprocess
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from packaging.version import Version

import s3s3
import s3s3.api
import s3s3.client
import s3s3.config
import s3s3.scripts.bucket
import s3s3.scripts.listen
from s3s3 import api
from s3s3.errors import ConfigError
from s3s3.scripts.demo.rclone_server import RcloneServer
from s3s3.scripts.demo.servers import HOST, StoreServer
from s3s3.scripts.demo.swift_server import SwiftServer
from tests.contents import random_bytes

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3ServiceResource
    from mypy_boto3_s3.service_resource import Bucket

NewBucket = Callable[..., str]
CONTENT = random_bytes(100_000)


def connection_args(store: StoreServer, account: int = 0) -> dict[str, Any]:
    key_id, secret = store.accounts[account]
    return {
        "host": HOST,
        "port": store.port,
        "is_secure": False,
        "aws_access_key_id": key_id,
        "aws_secret_access_key": secret,
        "signature_version": store.signature_version,
    }


@pytest.fixture
def account_0(swift: SwiftServer) -> S3ServiceResource:
    return api.create_connection(connection_args(swift))


@pytest.fixture
def account_1(swift: SwiftServer) -> S3ServiceResource:
    return api.create_connection(connection_args(swift, account=1))


@pytest.fixture
def source(swift: SwiftServer, account_0: S3ServiceResource, new_bucket: NewBucket) -> Bucket:
    return account_0.Bucket(new_bucket(swift))


@pytest.fixture
def destination(swift: SwiftServer, account_1: S3ServiceResource, new_bucket: NewBucket) -> Bucket:
    return account_1.Bucket(new_bucket(swift, 1))


@pytest.fixture
def second(swift: SwiftServer, account_1: S3ServiceResource, new_bucket: NewBucket) -> Bucket:
    return account_1.Bucket(new_bucket(swift, 1))


def content(bucket: Bucket, key: str) -> bytes:
    return bucket.Object(key).get()["Body"].read()


def parameters(function: Callable[..., Any]) -> str:
    plain = [
        parameter.replace(annotation=parameter.empty) for parameter in inspect.signature(function).parameters.values()
    ]
    return str(inspect.Signature(plain))


def test_the_public_names_and_their_parameters_are_stable() -> None:
    assert parameters(s3s3.api.create_connection) == "(connection_args)"
    assert parameters(s3s3.api.upload) == "(source_key, dest_key, verify_md5=False, force=False)"
    assert parameters(s3s3.api.duplicate_bucket) == "(source_bucket, dest_bucket, verify_md5=False)"
    assert parameters(s3s3.client.ListenClient) == "(config=None)"
    assert parameters(s3s3.client.ListenClient.listen) == "(self)"
    assert parameters(s3s3.client.BucketClient).startswith("(config=None, *, ")
    assert parameters(s3s3.client.BucketClient.duplicate) == "(self)"
    assert parameters(s3s3.client.on_notify) == "(source_connection, destination_connections, key)"
    assert parameters(s3s3.config.load).startswith("(path=None")
    assert parameters(s3s3.scripts.listen.main) == parameters(s3s3.scripts.bucket.main) == "(argv=None)"


def test_the_version_is_newer_than_the_last_one_on_the_package_index() -> None:
    """Version 0.1.10 is another program; pip would prefer it to an older number."""
    assert Version(s3s3.__version__) > Version("0.1.10")


def test_an_empty_list_of_destinations_is_refused(swift: SwiftServer, source: Bucket) -> None:
    with pytest.raises(ConfigError, match="the list is empty"):
        api.upload(source.Object("k"), [])


ON_ANOTHER_SYSTEM = """
import asyncio, os, sys, time
import boto3, prometheus_client, redis.asyncio  # the libraries take this system for what it is
platform, missing, connection_args, buckets = eval(sys.argv[1])
for name in missing:
    sys.modules[name] = None  # importing it raises ImportError
if platform == "win32":
    del time.clock_gettime, time.CLOCK_MONOTONIC, time.CLOCK_BOOTTIME, os.splice
before, sys.platform = sys.platform, platform
from s3s3 import api
from tests.contents import random_bytes
sys.platform = before
source, destination = (api.create_connection(connection_args).Bucket(name) for name in buckets)
assert api.upload(source.Object("k"), destination.Object("k"))
"""


@pytest.mark.real
@pytest.mark.parametrize(
    ("platform", "missing"),
    [("linux", ["uvloop"]), ("darwin", []), ("win32", ["uvloop", "fcntl", "resource", "pwd", "grp", "termios"])],
)
def test_an_object_is_copied_without_what_only_some_systems_have(
    swift: SwiftServer, account_0: S3ServiceResource, new_bucket: NewBucket, platform: str, missing: list[str]
) -> None:
    buckets = [new_bucket(swift), new_bucket(swift)]
    account_0.Bucket(buckets[0]).put_object(Key="k", Body=CONTENT)
    argument = repr((platform, missing, connection_args(swift), buckets))
    subprocess.run([sys.executable, "-c", ON_ANOTHER_SYSTEM, argument], check=True, timeout=60)
    assert content(account_0.Bucket(buckets[1]), "k") == CONTENT


@pytest.mark.parametrize(
    ("copy", "arguments"),
    [(api.upload, ("a", "b")), (api.upload, (None, None)), (api.duplicate_bucket, ("a", ["b"])),
     (api.duplicate_bucket, ({}, {}))],
)  # fmt: skip
def test_what_is_not_a_boto3_resource_is_refused_by_name(copy: Callable[..., bool], arguments: tuple[Any, Any]) -> None:
    with pytest.raises(TypeError, match=r"expected a boto3 (Object|Bucket), such as create_connection"):
        copy(*arguments)


def test_a_bucket_is_not_an_object(source: Bucket, destination: Bucket) -> None:
    with pytest.raises(TypeError, match="expected a boto3 Object"):
        api.upload(source, destination.Object("k"))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "value"),
    [("host", "ftp://ceph.example.org"), ("host", "http://me:hunter2@ceph"), ("host", "[::1"), ("host", "a b"),
     ("host", "ceph:7480"), ("host", "ceph.example.org/path"), ("port", 70000), ("port", 0)],
)  # fmt: skip
def test_an_address_that_is_not_valid_is_refused_with_the_argument_to_change(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"^{name}: must be "):
        api.create_connection({"host": "ceph.example.org", name: value})


@pytest.mark.parametrize("host", ["ceph.example.org", "10.0.0.1", "::1", "fe80::1%eth0", "localhost"])
def test_names_and_addresses_are_accepted(host: str) -> None:
    assert host.partition("%")[0] in api.create_connection({"host": host}).meta.client.meta.endpoint_url


def test_a_url_is_accepted_as_the_host() -> None:
    for arguments in ({"host": "http://ceph:7480/s3"}, {"host": "http://ceph/s3", "port": 7480, "is_secure": False}):
        assert api.create_connection(arguments).meta.client.meta.endpoint_url == "http://ceph:7480/s3"
    with pytest.raises(ConfigError, match="is_secure: host begins with https://; leave is_secure out"):
        api.create_connection({"host": "https://ceph", "is_secure": False})
    with pytest.raises(ConfigError, match="port: host has another port; give one of the two"):
        api.create_connection({"host": "https://ceph:7480", "port": 80})


def test_connection_arguments_that_are_not_a_mapping_are_refused() -> None:
    with pytest.raises(TypeError, match="must be a mapping such as a dict, not str"):
        api.create_connection("ceph.example.org")  # type: ignore[arg-type]


@pytest.mark.real
class TestUpload:
    def test_two_missing_destinations_get_equal_copies_under_other_keys(
        self, source: Bucket, destination: Bucket, second: Bucket
    ) -> None:
        source.put_object(Key="in/k", Body=CONTENT, ContentType="image/fits", Metadata={"filter": "r"})
        assert api.upload(source.Object("in/k"), [destination.Object("out/k"), second.Object("in/k")])
        for bucket, key in ((destination, "out/k"), (second, "in/k")):
            got = bucket.Object(key).get()
            assert got["Body"].read() == CONTENT
            assert (got["ContentType"], got["Metadata"]) == ("image/fits", {"filter": "r"})

    def test_an_equal_copy_is_replaced_only_with_force(self, source: Bucket, destination: Bucket) -> None:
        source.put_object(Key="k", Body=b"same")
        destination.put_object(Key="k", Body=b"same", Metadata={"from": ""})  # an empty value is not a difference
        assert api.upload(source.Object("k"), destination.Object("k"))
        assert destination.Object("k").metadata == {"from": ""}
        assert api.upload(source.Object("k"), destination.Object("k"), force=True)
        assert destination.Object("k").metadata == {}

    def test_a_copy_with_other_metadata_is_replaced(self, source: Bucket, destination: Bucket) -> None:
        source.put_object(Key="k", Body=b"same", Metadata={"from": "source"})
        destination.put_object(Key="k", Body=b"same", Metadata={"from": "before"})
        assert api.upload(source.Object("k"), destination.Object("k"))
        assert destination.Object("k").metadata["from"] == "source"

    def test_a_different_copy_is_replaced(self, source: Bucket, destination: Bucket) -> None:
        source.put_object(Key="k", Body=b"new")
        destination.put_object(Key="k", Body=b"old")
        assert api.upload(source.Object("k"), destination.Object("k"), verify_md5=True)
        assert content(destination, "k") == b"new"

    def test_a_missing_source_object_returns_false_and_changes_nothing(
        self, source: Bucket, destination: Bucket, caplog: pytest.LogCaptureFixture
    ) -> None:
        destination.put_object(Key="k", Body=b"old")
        assert api.upload(source.Object("k"), destination.Object("k")) is False
        assert content(destination, "k") == b"old"
        assert "'k': the source has no such object" in caplog.text

    def test_a_failing_destination_does_not_prevent_the_other_copy(
        self,
        source: Bucket,
        destination: Bucket,
        account_1: S3ServiceResource,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        source.put_object(Key="k", Body=CONTENT)
        assert api.upload(source.Object("k"), [account_1.Object("nowhere", "k"), destination.Object("k")]) is False
        assert content(destination, "k") == CONTENT
        assert "destination: PUT of 'k': 404 NoSuchBucket" in caplog.text

    async def test_it_works_in_a_notebook(self, source: Bucket, destination: Bucket) -> None:
        assert asyncio.get_running_loop().is_running()
        source.put_object(Key="k", Body=b"1")
        assert api.upload(source.Object("k"), destination.Object("k"))

    def test_a_plain_boto3_resource_is_accepted(self, swift: SwiftServer, source: Bucket, destination: Bucket) -> None:
        args = connection_args(swift)
        plain = boto3.resource(
            "s3",
            endpoint_url=f"http://{args['host']}:{args['port']}",
            aws_access_key_id=args["aws_access_key_id"],
            aws_secret_access_key=args["aws_secret_access_key"],
            region_name="us-east-1",
        )
        source.put_object(Key="k", Body=b"1")
        assert api.upload(plain.Object(source.name, "k"), destination.Object("k"))
        assert content(destination, "k") == b"1"

    def test_it_works_in_a_plain_script(self, swift: SwiftServer, source: Bucket, destination: Bucket) -> None:
        source.put_object(Key="k", Body=b"1")
        script = f"""if True:
            from s3s3.api import create_connection, upload
            source = create_connection({connection_args(swift)!r})
            destination = create_connection({connection_args(swift, 1)!r})
            print(upload(source.Object({source.name!r}, "k"), destination.Object({destination.name!r}, "k")))
        """
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
        assert (done.stdout, done.stderr) == ("True\n", "")


@pytest.mark.real
class TestDuplicateBucket:
    @pytest.mark.long
    def test_a_bucket_of_several_pages_is_copied(self, rclone_store: RcloneServer, new_bucket: NewBucket) -> None:
        resource = api.create_connection(connection_args(rclone_store))
        source, destination = resource.Bucket(new_bucket(rclone_store)), resource.Bucket(new_bucket(rclone_store))
        contents = {f"k{number:04}": str(number).encode() for number in range(1001)}
        for key, body in contents.items():
            source.put_object(Key=key, Body=body)
        assert api.duplicate_bucket(source, destination)
        copied = {entry.key: entry.e_tag.strip('"') for entry in destination.objects.all()}
        assert copied == {key: hashlib.md5(body).hexdigest() for key, body in contents.items()}

    def test_several_destinations_are_made_equal_and_nothing_is_deleted(
        self, source: Bucket, destination: Bucket, second: Bucket
    ) -> None:
        for key in ("a", "b"):
            source.put_object(Key=key, Body=key.encode())
        destination.put_object(Key="a", Body=b"another")
        second.put_object(Key="z", Body=b"z")
        assert api.duplicate_bucket(source, [destination, second])
        assert [content(destination, key) for key in ("a", "b")] == [b"a", b"b"]
        assert [content(second, key) for key in ("a", "b", "z")] == [b"a", b"b", b"z"]

    def test_a_missing_destination_bucket_returns_false(
        self,
        source: Bucket,
        destination: Bucket,
        account_1: S3ServiceResource,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        source.put_object(Key="a", Body=b"a")
        assert api.duplicate_bucket(source, [account_1.Bucket("nowhere"), destination]) is False
        assert content(destination, "a") == b"a"
        assert "NoSuchBucket" in caplog.text

    async def test_it_works_in_a_notebook(self, source: Bucket, destination: Bucket) -> None:
        source.put_object(Key="a", Body=b"a")
        assert api.duplicate_bucket(source, destination)
