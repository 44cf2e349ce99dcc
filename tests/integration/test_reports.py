"""`s3s3 bucket --report` as proof, from a real Ceph to a real Swift and within Ceph: an auditor needs nothing else."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import signal
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from s3s3.scripts.demo.servers import free_ports
from s3s3.scripts.demo.swift_server import SwiftServer
from tests.integration.commands import command, endpoint_table, eventually, report_lines, run, write_config
from tests.integration.objects import MIB, keys_of
from tests.real.ceph_server import CephServer

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

pytestmark = pytest.mark.real


class Audited:
    """One source in Ceph; `destination` in Swift, and `destination-near` in Ceph, which deletes."""

    def __init__(
        self, ceph: CephServer, swift: SwiftServer, new_bucket: Callable[..., str], redis_url: str, folder: Path
    ) -> None:
        self.images, self.far, self.near = new_bucket(ceph), new_bucket(swift), new_bucket(ceph)
        self.ceph, self.swift = ceph.boto3_client(), swift.boto3_client()
        self.source, self.there = ceph.endpoint(self.images), swift.endpoint(self.far, "destination")
        self.near_table = endpoint_table(ceph.endpoint(self.near, "destination-near")) + "delete = true\n"
        self.redis_url, self.folder = redis_url, folder
        self.report = folder / "report.jsonl"

    def config(self, more: str = "max_delete = 1\n") -> Path:
        return write_config(self.folder, self.source, [self.there], self.redis_url, routes=[self.near_table + more])

    def run(self, *arguments: str, status: int = 0, more: str = "max_delete = 1\n") -> tuple[list[Any], Any, str]:
        done = run("bucket", "--config", self.config(more), "--report", self.report, *arguments, status=status)
        lines, summary = report_lines(self.report)
        check_sums(lines, summary)
        assert summary["proven"] is (status == 0 and "--since" not in arguments)
        return lines, summary, " ".join(done.stdout.split())


def check_sums(lines: list[Any], summary: Any) -> None:
    """An auditor's sums: the lines match the summary, and the summary matches the listings."""
    for name, counts in summary["destinations"].items():
        of_it = [line for line in lines if line["destination"] == name]
        assert Counter(line["outcome"] for line in of_it) == counts
        assert Counter(line["proof"] for line in of_it if line["proof"]) == summary["proofs"][name]
        assert len({line["key"] for line in of_it}) == len(of_it)
        if not (summary["errors"] or summary["error"]):
            expected = summary["source_entries"] - summary["skipped_entries"] + summary["destination_only"][name]
            assert len(of_it) == expected


def put(client: S3Client, bucket: str, **objects: bytes) -> None:
    for key, content in objects.items():
        client.put_object(Bucket=bucket, Key=key, Body=content)


def put_parts(client: S3Client, bucket: str, key: str) -> None:
    upload = client.create_multipart_upload(Bucket=bucket, Key=key)["UploadId"]
    bodies = [b"a" * 5 * MIB, b"b"]
    parts: Any = [
        {"PartNumber": number, "ETag": client.upload_part(
            Bucket=bucket, Key=key, UploadId=upload, PartNumber=number, Body=body)["ETag"]}
        for number, body in enumerate(bodies, 1)
    ]  # fmt: skip
    client.complete_multipart_upload(Bucket=bucket, Key=key, UploadId=upload, MultipartUpload={"Parts": parts})


@pytest.fixture
def audited(
    ceph: CephServer, swift: SwiftServer, new_bucket: Callable[..., str], redis_url: str, tmp_path: Path
) -> Audited:
    return Audited(ceph, swift, new_bucket, redis_url, tmp_path)


def test_every_object_has_a_line_with_sizes_md5s_and_proof_and_all_counts_add_up(audited: Audited) -> None:
    put(audited.ceph, audited.images, a=b"a", b=b"bb", empty=b"")
    put_parts(audited.ceph, audited.images, "parts")
    put(audited.swift, audited.far, a=b"a", b=b"xx", theirs=b"stays")
    put(audited.ceph, audited.near, old=b"goes")
    lines, summary, output = audited.run()
    by_key = {(line["destination"], line["key"]): line for line in lines}
    assert {key: (line["outcome"], line["reason"], line["proof"]) for key, line in by_key.items()} == {
        ("destination", "a"): ("same", "same", "etag"),
        ("destination", "b"): ("copied", "etag", "etag"),
        ("destination", "empty"): ("copied", "missing", "etag"),
        ("destination", "parts"): ("copied", "missing", "etag"),
        ("destination", "theirs"): ("extraneous", "extraneous", None),
        ("destination-near", "a"): ("copied", "missing", "etag"),
        ("destination-near", "b"): ("copied", "missing", "etag"),
        ("destination-near", "empty"): ("copied", "missing", "etag"),
        ("destination-near", "parts"): ("copied", "missing", by_key["destination-near", "parts"]["proof"]),
        ("destination-near", "old"): ("deleted", "source_missing", None),
    }
    contents = {"a": b"a", "b": b"bb", "empty": b"", "parts": b"a" * 5 * MIB + b"b"}
    for (destination, key), line in by_key.items():
        if line["proof"]:
            assert line["source_size_bytes"] == line["destination_size_bytes"] == len(contents[key])
        if line["proof"] and key != "parts":
            assert line["source_md5"] == line["destination_md5"] == hashlib.md5(contents[key]).hexdigest()
        assert destination in summary["destinations"]
    assert by_key["destination", "parts"]["destination_md5"] == hashlib.md5(contents["parts"]).hexdigest()
    assert "route default: proven: every destination has the contents of the source" in output

    lines, summary, output = audited.run()
    assert summary["proofs"]["destination"] == {"etag": 3, "recorded_etag": 1}
    assert summary["destinations"] == {"destination": {"same": 4, "extraneous": 1}, "destination-near": {"same": 4}}
    assert "by etag by recorded_etag" in output
    assert next(line["source_md5"] for line in lines if line["proof"] == "recorded_etag") is None


def test_what_cannot_be_told_by_any_etag_is_proven_by_its_content(audited: Audited) -> None:
    put_parts(audited.ceph, audited.images, "parts")
    put(audited.swift, audited.far, parts=b"a" * 5 * MIB + b"b")
    put_parts(audited.ceph, audited.near, "parts")
    audited.there = dataclasses.replace(audited.there, verify_md5=True)
    lines, _, output = audited.run()
    assert {(line["destination"], line["outcome"], line["proof"]) for line in lines} == {
        ("destination", "same", "content"),  # made by another program: no ETag is recorded, so it was read
        ("destination-near", "same", "etag"),
    }
    assert "proven" in output


@pytest.mark.long
def test_a_dry_run_proves_too_and_one_that_finds_a_difference_proves_nothing(audited: Audited) -> None:
    put(audited.ceph, audited.images, a=b"a")
    lines, _, output = audited.run("--dry-run", status=1)
    assert {line["outcome"] for line in lines} == {"would_copy"}
    assert "proven" not in output
    audited.run()
    assert "proven" in audited.run("--dry-run")[2]


def test_a_part_of_the_source_is_compared_well_and_proves_nothing(audited: Audited) -> None:
    put(audited.ceph, audited.images, a=b"a", b=b"b")
    _, summary, output = audited.run("--since", "2099-01-01")
    assert (summary["skipped_entries"], summary["ended"]) == (2, True)
    assert "proven" not in output


@pytest.mark.long
def test_withheld_deletions_and_a_destination_that_is_away_prove_nothing(audited: Audited) -> None:
    put(audited.ceph, audited.images, a=b"a")
    put(audited.ceph, audited.near, x=b"x", y=b"y")
    lines, summary, _ = audited.run(status=1, more="")
    assert Counter(line["outcome"] for line in lines) == {"copied": 2, "extraneous": 2}
    assert "max_delete" in summary["deletions_withheld"]["destination-near"]

    audited.there = dataclasses.replace(audited.there, port=free_ports(1)[0])
    _, summary, _ = audited.run(status=3)
    assert list(summary["errors"]) == ["destination"]
    assert keys_of(audited.ceph, audited.near) == {"a"}


def test_a_source_that_breaks_off_has_a_summary_that_says_so(audited: Audited) -> None:
    put(audited.ceph, audited.images, a=b"a")
    audited.source = dataclasses.replace(audited.source, bucket_name="nowhere")
    lines, summary, _ = audited.run(status=3)
    assert lines == []
    assert "nowhere" in summary["error"]
    assert summary["ended"] is False


@pytest.mark.long
def test_an_interrupted_run_leaves_no_report_that_looks_whole(audited: Audited) -> None:
    put(audited.ceph, audited.images, **{f"{number:02}": b"x" for number in range(40)})
    audited.report.write_text('{"summary": "of the last run"}\n')
    config = audited.config("max_requests_per_s = 4\n")  # so that it is still at work when the signal comes
    arguments = command("bucket", "--config", config, "--report", audited.report)
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        part = audited.folder / "report.jsonl.part"
        eventually(lambda: keys_of(audited.swift, audited.far), "it copies")
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=60)
    assert process.returncode == 1, errors
    assert "interrupted" in output
    assert str(part) in errors
    assert json.loads(audited.report.read_text()) == {"summary": "of the last run"}
    summary = report_lines(part)[1]
    assert (summary["ended"], summary["proven"]) == (False, False)
