"""Cache directory: complete objects only, also after a crash, and a bounded disk."""

from __future__ import annotations

import fcntl
import hashlib
import os
import time
from pathlib import Path

import pytest

from s3s3.mirror.cache.directory import CacheDirectory, CachedObject
from s3s3.mirror.cache.eviction import DiskSpace, DiskUsage, disk_usage
from s3s3.mirror.cache.inspection import cache_stats, verify
from s3s3.mirror.cache.writer import commit, open_writer, sweep
from tests.contents import random_bytes

KIB = 1024


@pytest.fixture
def directory(tmp_path: Path) -> CacheDirectory:
    directory = CacheDirectory(tmp_path / "cache", "store/bucket")
    directory.create()
    return directory


def metadata_of(directory: CacheDirectory, key: str, content: bytes) -> CachedObject:
    md5 = hashlib.md5(content).hexdigest()
    return CachedObject("bucket", key, len(content), md5, 1_700_000_000_000, {"content-type": "x/y"}, md5,
                 directory.new_body_name(key))  # fmt: skip


def store(
    directory: CacheDirectory, key: str, content: bytes = b"content", accessed_s: float | None = None
) -> CachedObject:
    writer = open_writer(directory, key)
    assert writer is not None
    metadata = metadata_of(directory, key, content)
    os.pwrite(writer.file, content, 0)
    commit(directory, writer, metadata)
    writer.close()
    if accessed_s is not None:
        os.utime(directory.directory / directory.body_path(metadata), (accessed_s, 1_700_000_000))
    return metadata


def content_of(directory: CacheDirectory, key: str) -> bytes | None:
    opened = directory.open(key)
    if opened is None:
        return None
    try:
        return os.pread(opened.file, 1 << 20, 0)
    finally:
        opened.close()


def files(directory: CacheDirectory) -> set[str]:
    return {path.name for path in directory.directory.rglob("*") if path.is_file() and path.name != "disk-space.lock"}


def test_a_stored_object_is_found_and_replaced_completely(directory: CacheDirectory) -> None:
    store(directory, "key", b"before")
    metadata = store(directory, "key", b"after")
    assert content_of(directory, "key") == b"after"
    assert files(directory) == {metadata.body, f"{directory.name('key')}.json"}
    assert (directory.directory / directory.body_path(metadata)).stat().st_mtime == 1_700_000_000, (
        "nginx sends it as Last-Modified"
    )
    assert CacheDirectory(directory.directory, "store/another").open("key") is None


def test_changes_by_another_process_override_metadata_in_memory(directory: CacheDirectory) -> None:
    other = CacheDirectory(directory.directory, "store/bucket")
    for content in (b"first", b"other", b"third"):
        metadata = store(other, "key", content)
        assert [content_of(directory, "key") for _ in range(2)] == [content] * 2
    other.remove(other.name("key"), metadata)
    assert content_of(directory, "key") is None
    store(other, "key", b"fourth")
    assert content_of(directory, "key") == b"fourth"


def test_a_validation_by_another_process_overrides_metadata_in_memory(directory: CacheDirectory) -> None:
    store(directory, "key")
    os.utime(directory.metadata_path(directory.name("key")), (1000, 1000))
    assert validated_s(directory, "key") == 1000
    CacheDirectory(directory.directory, "store/bucket").record_validation("key")
    assert time.time() - validated_s(directory, "key") < 60


def validated_s(directory: CacheDirectory, key: str) -> float:
    opened = directory.open(key)
    assert opened is not None
    opened.close()
    return opened.validated_s


def test_new_metadata_with_the_same_stamp_is_detected(directory: CacheDirectory) -> None:
    """File systems reuse inode numbers and have coarse clocks; the old body is gone by then."""
    store(directory, "key", b"before")
    opened = directory.open("key")
    assert opened is not None
    opened.close()
    name = directory.name("key")
    loaded = directory._in_memory[name]
    store(CacheDirectory(directory.directory, "store/bucket"), "key", b"behind")
    same = directory.metadata_path(name).stat()
    directory._in_memory[name] = loaded._replace(stamp=(same.st_ino, same.st_mtime_ns, same.st_size))
    assert content_of(directory, "key") == b"behind"


def test_metadata_in_memory_is_bounded(directory: CacheDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("s3s3.mirror.cache.directory.MAX_IN_MEMORY", 3)
    for number in range(10):
        store(directory, str(number))
        assert content_of(directory, str(number)) == b"content"
    assert len(directory._in_memory) == 3
    assert all(content_of(directory, str(number)) == b"content" for number in range(10))


def test_a_key_has_one_writer_at_a_time(directory: CacheDirectory) -> None:
    writer = open_writer(directory, "key")
    assert open_writer(directory, "key") is None
    other = open_writer(directory, "other")
    assert writer is not None and other is not None
    writer.close()
    second = open_writer(directory, "key")
    assert second is not None
    second.close()
    other.close()
    assert files(directory) == set()


STEPS = ["opened", "written", "linked", "metadata written", "visible"]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("swept", [False, True])
@pytest.mark.parametrize("before", [None, b"before"])
def test_a_crash_at_any_step(directory: CacheDirectory, step: str, swept: bool, before: bytes | None) -> None:
    """A child process dies right after the step."""
    if before is not None:
        store(directory, "key", before)
    content = b"a new content"
    child = os.fork()
    if child == 0:
        die_after(directory, step, content)
    os.waitpid(child, 0)
    assert content_of(directory, "key") == (content if step == "visible" else before)
    if swept:
        for path in directory.directory.rglob(".*"):
            os.utime(path, (0, 0))
        sweep(directory)
        assert len(files(directory)) == (2 if before is not None or step == "visible" else 0)
        assert content_of(directory, "key") == (content if step == "visible" else before)
    store(directory, "key", b"next")
    assert content_of(directory, "key") == b"next"
    for path in directory.directory.rglob(".*"):
        os.utime(path, (0, 0))
    sweep(directory)
    assert len(files(directory)) == 2


def die_after(directory: CacheDirectory, step: str, content: bytes) -> None:
    try:
        writer = open_writer(directory, "key")
        assert writer is not None
        if step == "opened":
            os._exit(0)
        os.pwrite(writer.file, content if step != "written" else content[:3], 0)
        if step == "written":
            os._exit(0)
        real_rename, real_link = Path.rename, os.link
        if step == "linked":
            os.link = lambda *names: (real_link(*names), os._exit(0))  # type: ignore[assignment]
        if step == "metadata written":
            Path.rename = lambda *_: os._exit(0)  # type: ignore[method-assign]
        if step == "visible":
            Path.rename = lambda *names: (real_rename(*names), os._exit(0))  # type: ignore[method-assign,assignment]
        commit(directory, writer, metadata_of(directory, "key", content))
    finally:
        os._exit(1)


def test_a_committed_body_is_not_overwritten_by_the_next_writer(directory: CacheDirectory) -> None:
    """A writer that dies before its close leaves a body with both names."""
    writer = open_writer(directory, "key")
    assert writer is not None
    os.pwrite(writer.file, b"content", 0)
    commit(directory, writer, metadata_of(directory, "key", b"content"))
    os.close(writer.file)  # killed here
    late = open_writer(directory, "key")
    assert late is not None
    os.pwrite(late.file, b"another", 0)
    assert content_of(directory, "key") == b"content"
    late.close()


def test_a_body_committed_while_another_writer_locks_it_is_not_overwritten(
    directory: CacheDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = open_writer(directory, "key")
    assert writer is not None
    os.pwrite(writer.file, b"content", 0)
    commit(directory, writer, metadata_of(directory, "key", b"content"))
    lock = fcntl.flock

    def late(file: int, how: int) -> None:
        writer.close()
        lock(file, how)

    monkeypatch.setattr("s3s3.mirror.cache.writer.fcntl.flock", late)
    assert open_writer(directory, "key") is None
    assert content_of(directory, "key") == b"content"


def test_sweep_keeps_a_body_that_is_being_written(directory: CacheDirectory) -> None:
    writer = open_writer(directory, "key")
    assert writer is not None
    assert sweep(directory) == 0
    assert writer.path.exists()
    writer.close()


@pytest.mark.parametrize("damage", ["no body", "truncated body", "truncated metadata", "empty metadata"])
def test_an_incomplete_object_is_not_found_and_is_removed(directory: CacheDirectory, damage: str) -> None:
    metadata = store(directory, "key")
    body = directory.directory / directory.body_path(metadata)
    metadata_path = body.with_name(f"{directory.name('key')}.json")
    if damage == "no body":
        body.unlink()
    elif damage == "truncated body":
        os.truncate(body, 3)
    else:
        os.truncate(metadata_path, 20 if damage == "truncated metadata" else 0)
    assert directory.open("key") is None
    sweep(directory)
    assert files(directory) == set()


def test_verify_reads_every_body_and_keeps_access_times(directory: CacheDirectory) -> None:
    good, bad = store(directory, "good", accessed_s=1000), store(directory, "bad", accessed_s=2000)
    (directory.directory / directory.body_path(bad)).write_bytes(b"damaged")
    found = {metadata.key: problem for _, metadata, problem in verify(directory)}
    assert found["good"] == ""
    assert "its MD5 is" in found["bad"]
    assert directory.accessed_s(good) == 1000
    assert (cache_stats(directory).objects, cache_stats(directory).size_bytes) == (2, 14)


# -- disk space


def pretend_disk(size_bytes: int, directory: CacheDirectory) -> DiskUsage:
    """A disk that holds only the cache."""
    used = sum(path.stat().st_size for path in directory.directory.rglob("objects/*/*") if path.suffix != ".json")
    return DiskUsage(size_bytes, used)


def disk_space(directory: CacheDirectory, size_bytes: int, max_fill: float = 0.9, low_fill: float = 0.5) -> DiskSpace:
    return DiskSpace(directory, max_fill, low_fill, lambda _: pretend_disk(size_bytes, directory))


def keys(directory: CacheDirectory) -> set[str]:
    return {metadata.key for _, metadata in directory.scan()}


def test_the_least_recently_used_objects_are_evicted_down_to_low_fill(directory: CacheDirectory) -> None:
    for number in range(8):
        store(directory, str(number), b"x" * KIB, accessed_s=1000 + number)
    opened = directory.open("0")
    assert opened is not None
    directory.record_access(opened)
    opened.close()
    writer = open_writer(directory, "new")
    assert writer is not None
    is_reserved, evicted = disk_space(directory, 10 * KIB).reserve(writer.file, 2 * KIB)
    assert (is_reserved, evicted.objects, evicted.size_bytes) == (True, 5, 5 * KIB)
    assert keys(directory) == {"0", "6", "7"}
    assert os.fstat(writer.file).st_size == 2 * KIB
    writer.close()


def test_try_reserve_needs_free_space_and_the_lock(directory: CacheDirectory) -> None:
    store(directory, "key", b"x" * 7 * KIB)
    writer = open_writer(directory, "new")
    assert writer is not None
    space = disk_space(directory, 10 * KIB)
    with directory.disk_space_lock():
        assert not space.try_reserve(writer.file, KIB), "it must not wait for the lock"
    assert not space.try_reserve(writer.file, 3 * KIB), "it must not evict"
    assert keys(directory) == {"key"}
    assert space.try_reserve(writer.file, KIB)
    assert os.fstat(writer.file).st_size == KIB
    writer.close()


def test_nothing_is_evicted_if_that_would_not_free_enough(directory: CacheDirectory) -> None:
    store(directory, "key", b"x" * KIB)
    writer = open_writer(directory, "huge")
    assert writer is not None
    is_reserved, evicted = disk_space(directory, 10 * KIB).reserve(writer.file, 10 * KIB)
    assert (is_reserved, evicted.objects) == (False, 0)
    assert keys(directory) == {"key"}
    writer.close()


def test_eviction_on_demand(directory: CacheDirectory) -> None:
    for number in range(8):
        store(directory, str(number), b"x" * KIB, accessed_s=1000 + number)
    assert disk_space(directory, 10 * KIB).evict().objects == 3
    assert keys(directory) == {"3", "4", "5", "6", "7"}
    assert disk_space(directory, 10 * KIB).evict(0.0).objects == 5


def test_a_real_disk_is_not_filled_beyond_max_fill(small_disk: Path) -> None:
    directory = CacheDirectory(small_disk / "cache", "store/bucket")
    directory.create()
    space = DiskSpace(directory, 0.9, 0.5)
    for number in range(40):
        writer = open_writer(directory, str(number))
        assert writer is not None
        content = random_bytes(256 * KIB, number)
        is_reserved, _ = space.reserve(writer.file, len(content))
        assert is_reserved
        disk = disk_usage(small_disk)
        assert disk.used_bytes <= 0.9 * disk.size_bytes
        os.pwrite(writer.file, content, 0)
        metadata = metadata_of(directory, str(number), content)
        commit(directory, writer, metadata)
        writer.close()
        os.utime(directory.directory / directory.body_path(metadata), (1000 + number, 0))
    assert "39" in keys(directory) and "0" not in keys(directory)
    assert not [problem for _, _, problem in verify(directory) if problem]


def test_access_times_are_recorded_at_intervals(directory: CacheDirectory) -> None:
    metadata = store(directory, "key", accessed_s=1000)
    for _ in range(2):
        opened = directory.open("key")
        assert opened is not None
        directory.record_access(opened)
        opened.close()
        recorded_s = directory.accessed_s(metadata)
        assert recorded_s is not None and time.time() - recorded_s < 5
