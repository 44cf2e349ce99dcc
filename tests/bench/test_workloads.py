"""Every program of the benchmark copies over HTTP and over HTTPS, on a real Ceph."""

from __future__ import annotations

import pytest

from bench import peers, servers
from bench.objects import KIB
from bench.workloads import Copies
from tests.real.ceph_server import CephServer

ABLE = (peers.S3S3, peers.RCLONE_TUNED, peers.S3S3_CLIENT, peers.S5CMD, peers.S3TRANSFER)


@pytest.mark.long
@pytest.mark.real
@pytest.mark.timeout(240)
@pytest.mark.parametrize("is_secure", [False, True], ids=["HTTP", "HTTPS"])
def test_every_program_copies_and_what_it_copied_is_checked(
    ceph: CephServer, is_secure: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    able = [peer for peer in ABLE if not peer.missing()]
    work = Copies("600 KiB", servers.CEPH, 4, 600 * KIB, able, is_secure=is_secure)
    measured = list(work.run(1, 0.99, print))
    assert [one.peer for one in measured] == [peer.name for peer in able]
    assert all(one.cost.size_bytes == 4 * 600 * KIB and one.cost.cpu_s > 0 for one in measured)
    assert "FAILED" not in capsys.readouterr().out
