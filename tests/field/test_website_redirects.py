"""x-amz-website-redirect-location is kept where the destination supports it; otherwise its loss is reported."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from s3s3.scripts.demo.servers import StoreServer
from tests.contents import random_bytes
from tests.integration.commands import report_lines, run, write_config
from tests.real.ceph_server import CephServer

pytestmark = [pytest.mark.real, pytest.mark.timeout(120)]

MIB = 1024**2
LOSS = "copied without x-amz-website-redirect-location, which the store does not support"
CONTENTS = {"small": b"x", "large": random_bytes(2 * MIB), "parts": random_bytes(11 * MIB)}


class Site:
    """Objects with a redirect in Ceph, and a destination."""

    def __init__(
        self, ceph: CephServer, there: StoreServer, new_bucket: Callable[..., str], redis_url: str, folder: Path
    ) -> None:
        self.source = ceph.endpoint(new_bucket(ceph))
        self.destination = there.endpoint(new_bucket(there), "destination", server_side_copy=False)
        self.client, self._folder, self._redis_url = there.boto3_client(), folder, redis_url
        for key, content in CONTENTS.items():
            ceph.boto3_client().put_object(
                Bucket=self.source.bucket_name, Key=key, Body=content, WebsiteRedirectLocation=f"/to/{key}"
            )

    def copy(self, *options: str, lines: str = "") -> tuple[list[tuple[str, str, str]], str]:
        """Run `s3s3 bucket`; return key, outcome and reason of each object, and the log."""
        config = write_config(self._folder, self.source, [self.destination], self._redis_url)
        config.write_text(config.read_text().replace("[destination]\n", f"[destination]\n{lines}"))
        report = self._folder / "report.jsonl"
        report.unlink(missing_ok=True)
        ended = run("bucket", "--config", config, "--report", report, *options)
        found = [(line["key"], line["outcome"], line["reason"]) for line in report_lines(report)[0]]
        return sorted(found), ended.stderr

    def head(self, key: str) -> dict[str, Any]:
        found: Any = self.client.head_object(Bucket=self.destination.bucket_name, Key=key)
        return dict(found)


@pytest.fixture
def site(
    request: pytest.FixtureRequest, ceph: CephServer, new_bucket: Callable[..., str], redis_url: str, tmp_path: Path
) -> Site:
    return Site(ceph, request.getfixturevalue(request.param), new_bucket, redis_url, tmp_path)


@pytest.mark.parametrize("site", ["ceph"], indirect=True)
@pytest.mark.parametrize("server_side", [False, True])
def test_a_redirect_is_kept(site: Site, server_side: bool) -> None:
    site.destination = replace(site.destination, server_side_copy=server_side)
    assert [outcome for _, outcome, _ in site.copy()[0]] == ["copied"] * 3
    assert {key: site.head(key)["WebsiteRedirectLocation"] for key in CONTENTS} == {
        key: f"/to/{key}" for key in CONTENTS
    }
    assert [outcome for _, outcome, _ in site.copy("--metadata")[0]] == ["same"] * 3


@pytest.mark.parametrize("site", ["swift"], indirect=True)
@pytest.mark.parametrize("lines", ["", 'multipart = true\nmultipart_threshold = "5MiB"\n'])
def test_the_loss_of_a_redirect_is_reported_and_the_object_is_copied_once(site: Site, lines: str) -> None:
    found, log = site.copy(lines=lines)
    assert [(key, outcome) for key, outcome, _ in found] == [(key, "copied") for key in sorted(CONTENTS)]
    assert all(LOSS in reason for _, _, reason in found)
    assert log.count(f"is {LOSS}; so are other objects with this header") == 1
    for key, content in CONTENTS.items():
        body = site.client.get_object(Bucket=site.destination.bucket_name, Key=key)["Body"].read()
        assert body == content
    assert [outcome for _, outcome, _ in site.copy("--metadata", lines=lines)[0]] == ["same"] * 3
