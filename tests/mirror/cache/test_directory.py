"""The cache's directory: whole objects only, whatever dies in the middle, and never a full disk."""

from __future__ import annotations

import fcntl
import hashlib
import os
import time
from pathlib import Path

import pytest

from s3s3.mirror.cache.cached_object import CachedObject
from s3s3.mirror.cache.directory import CacheDirectory
from s3s3.mirror.cache.eviction import Disk, DiskSpace, disk_of
from s3s3.mirror.cache.inspection import census, verify
from s3s3.mirror.cache.writer import begin, keep, sweep

KIB = 1024


@pytest.fixture
def folder(tmp_path: Path) -> CacheDirectory:
    made = CacheDirectory(tmp_path / "cache", "store/bucket")
    made.make()
    return made


def about_of(folder: CacheDirectory, key: str, content: bytes) -> CachedObject:
    md5 = hashlib.md5(content).hexdigest()
    return CachedObject("bucket", key, len(content), md5, 1_700_000_000_000, {"content-type": "x/y"}, md5,
                 folder.new_body(key))  # fmt: skip


def kept(
    folder: CacheDirectory, key: str, content: bytes = b"content", accessed_s: float | None = None
) -> CachedObject:
    filling = begin(folder, key)
    assert filling is not None
    about = about_of(folder, key, content)
    os.pwrite(filling.file, content, 0)
    keep(folder, filling, about)
    filling.close()
    if accessed_s is not None:
        os.utime(folder.directory / folder.body_path(about), (accessed_s, 1_700_000_000))
    return about


def content_of(folder: CacheDirectory, key: str) -> bytes | None:
    stored = folder.open(key)
    if stored is None:
        return None
    try:
        return os.pread(stored.file, 1 << 20, 0)
    finally:
        stored.close()


def files(folder: CacheDirectory) -> set[str]:
    return {path.name for path in folder.directory.rglob("*") if path.is_file() and path.name != "room.lock"}


def test_what_is_kept_is_found_and_what_replaces_it_leaves_nothing_of_it(folder: CacheDirectory) -> None:
    kept(folder, "key", b"before")
    about = kept(folder, "key", b"after")
    assert content_of(folder, "key") == b"after"
    assert files(folder) == {about.body, f"{folder.name('key')}.json"}
    assert (folder.directory / folder.body_path(about)).stat().st_mtime == 1_700_000_000, "nginx says it"
    assert CacheDirectory(folder.directory, "store/another").open("key") is None


def test_what_another_process_replaces_or_removes_is_seen_although_it_is_remembered(folder: CacheDirectory) -> None:
    other = CacheDirectory(folder.directory, "store/bucket")
    for content in (b"first", b"other", b"again"):
        about = kept(other, "key", content)
        assert [content_of(folder, "key") for _ in range(2)] == [content] * 2
    other.remove(other.name("key"), about)
    assert content_of(folder, "key") is None
    kept(other, "key", b"anew")
    assert content_of(folder, "key") == b"anew"


def test_that_another_process_has_asked_the_store_is_seen_although_it_is_remembered(folder: CacheDirectory) -> None:
    kept(folder, "key")
    os.utime(folder.description(folder.name("key")), (1000, 1000))
    assert validated_s(folder, "key") == 1000
    CacheDirectory(folder.directory, "store/bucket").note_valid("key")
    assert time.time() - validated_s(folder, "key") < 60


def validated_s(folder: CacheDirectory, key: str) -> float:
    stored = folder.open(key)
    assert stored is not None
    stored.close()
    return stored.validated_s


def test_a_description_that_looks_the_same_as_the_one_that_is_remembered(folder: CacheDirectory) -> None:
    """A file system gives numbers of files anew, and its clock is coarse: the body that it names is gone by then."""
    kept(folder, "key", b"before")
    stored = folder.open("key")
    assert stored is not None
    stored.close()
    name = folder.name("key")
    described = folder._remembered[name]
    kept(CacheDirectory(folder.directory, "store/bucket"), "key", b"behind")
    same = folder.description(name).stat()
    folder._remembered[name] = described._replace(stamp=(same.st_ino, same.st_mtime_ns, same.st_size))
    assert content_of(folder, "key") == b"behind"


def test_what_is_remembered_is_bounded(folder: CacheDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("s3s3.mirror.cache.directory.MAX_REMEMBERED", 3)
    for number in range(10):
        kept(folder, str(number))
        assert content_of(folder, str(number)) == b"content"
    assert len(folder._remembered) == 3
    assert all(content_of(folder, str(number)) == b"content" for number in range(10))


def test_only_one_writes_a_body(folder: CacheDirectory) -> None:
    filling = begin(folder, "key")
    assert begin(folder, "key") is None
    other = begin(folder, "other")
    assert filling is not None and other is not None
    filling.close()
    again = begin(folder, "key")
    assert again is not None
    again.close()
    other.close()
    assert files(folder) == set()


STEPS = ["begun", "written", "linked", "described", "visible"]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("swept", [False, True])
@pytest.mark.parametrize("before", [None, b"before"])
def test_a_crash_at_any_moment(folder: CacheDirectory, step: str, swept: bool, before: bytes | None) -> None:
    """What a process that was killed at each step has left, done here by hand."""
    if before is not None:
        kept(folder, "key", before)
    content = b"a new content"
    child = os.fork()
    if child == 0:
        die_after(folder, step, content)
    os.waitpid(child, 0)
    assert content_of(folder, "key") == (content if step == "visible" else before)
    if swept:
        for path in folder.directory.rglob(".*"):
            os.utime(path, (0, 0))
        sweep(folder)
        assert len(files(folder)) == (2 if before is not None or step == "visible" else 0)
        assert content_of(folder, "key") == (content if step == "visible" else before)
    kept(folder, "key", b"next")
    assert content_of(folder, "key") == b"next"
    for path in folder.directory.rglob(".*"):
        os.utime(path, (0, 0))
    sweep(folder)
    assert len(files(folder)) == 2


def die_after(folder: CacheDirectory, step: str, content: bytes) -> None:
    try:
        filling = begin(folder, "key")
        assert filling is not None
        if step == "begun":
            os._exit(0)
        os.pwrite(filling.file, content if step != "written" else content[:3], 0)
        if step == "written":
            os._exit(0)
        real_rename, real_link = Path.rename, os.link
        if step == "linked":
            os.link = lambda *names: (real_link(*names), os._exit(0))  # type: ignore[assignment]
        if step == "described":
            Path.rename = lambda *_: os._exit(0)  # type: ignore[method-assign]
        if step == "visible":
            Path.rename = lambda *names: (real_rename(*names), os._exit(0))  # type: ignore[method-assign,assignment]
        keep(folder, filling, about_of(folder, "key", content))
    finally:
        os._exit(1)


def test_a_finished_body_is_never_written_to_by_who_comes_late(folder: CacheDirectory) -> None:
    """Whoever was killed between the last two steps leaves a body that has its old name, too."""
    filling = begin(folder, "key")
    assert filling is not None
    os.pwrite(filling.file, b"content", 0)
    keep(folder, filling, about_of(folder, "key", b"content"))
    os.close(filling.file)  # killed here
    late = begin(folder, "key")
    assert late is not None
    os.pwrite(late.file, b"another", 0)
    assert content_of(folder, "key") == b"content"
    late.close()


def test_a_body_that_is_finished_while_another_takes_its_lock_is_not_written_to(
    folder: CacheDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    filling = begin(folder, "key")
    assert filling is not None
    os.pwrite(filling.file, b"content", 0)
    keep(folder, filling, about_of(folder, "key", b"content"))
    lock = fcntl.flock

    def late(file: int, how: int) -> None:
        filling.close()
        lock(file, how)

    monkeypatch.setattr("s3s3.mirror.cache.writer.fcntl.flock", late)
    assert begin(folder, "key") is None
    assert content_of(folder, "key") == b"content"


def test_what_is_being_written_is_not_swept(folder: CacheDirectory) -> None:
    filling = begin(folder, "key")
    assert filling is not None
    assert sweep(folder) == 0
    assert filling.path.exists()
    filling.close()


@pytest.mark.parametrize("damage", ["body gone", "body cut", "description cut", "description empty"])
def test_what_is_not_whole_is_not_found_and_is_removed(folder: CacheDirectory, damage: str) -> None:
    about = kept(folder, "key")
    body = folder.directory / folder.body_path(about)
    description = body.with_name(f"{folder.name('key')}.json")
    if damage == "body gone":
        body.unlink()
    elif damage == "body cut":
        os.truncate(body, 3)
    else:
        os.truncate(description, 20 if damage == "description cut" else 0)
    assert folder.open("key") is None
    sweep(folder)
    assert files(folder) == set()


def test_verify_reads_everything_and_is_no_access(folder: CacheDirectory) -> None:
    good, bad = kept(folder, "good", accessed_s=1000), kept(folder, "bad", accessed_s=2000)
    (folder.directory / folder.body_path(bad)).write_bytes(b"damaged")
    found = {about.key: wrong for _, about, wrong in verify(folder)}
    assert found["good"] == ""
    assert "its MD5 is" in found["bad"]
    assert folder.accessed_s(good) == 1000
    assert (census(folder).objects, census(folder).size_bytes) == (2, 14)


# -- room


def pretend_disk(size_bytes: int, folder: CacheDirectory) -> Disk:
    """A disk on which nothing is but the cache."""
    used = sum(path.stat().st_size for path in folder.directory.rglob("objects/*/*") if path.suffix != ".json")
    return Disk(size_bytes, used)


def room_of(folder: CacheDirectory, size_bytes: int, max_fill: float = 0.9, low_fill: float = 0.5) -> DiskSpace:
    return DiskSpace(folder, max_fill, low_fill, lambda _: pretend_disk(size_bytes, folder))


def keys(folder: CacheDirectory) -> set[str]:
    return {about.key for _, about in folder.descriptions()}


def test_what_nobody_has_asked_for_the_longest_goes_first_and_down_to_the_low_mark(folder: CacheDirectory) -> None:
    for number in range(8):
        kept(folder, str(number), b"x" * KIB, accessed_s=1000 + number)
    stored = folder.open("0")
    assert stored is not None
    folder.note_access(stored)
    stored.close()
    filling = begin(folder, "new")
    assert filling is not None
    is_there, evicted = room_of(folder, 10 * KIB).reserve(filling.file, 2 * KIB)
    assert (is_there, evicted.objects, evicted.size_bytes) == (True, 5, 5 * KIB)
    assert keys(folder) == {"0", "6", "7"}
    assert os.fstat(filling.file).st_size == 2 * KIB
    filling.close()


def test_room_is_taken_at_once_where_nobody_is_in_the_way_and_there_is_enough(folder: CacheDirectory) -> None:
    kept(folder, "key", b"x" * 7 * KIB)
    filling = begin(folder, "new")
    assert filling is not None
    room = room_of(folder, 10 * KIB)
    with folder.room_locked():
        assert not room.reserve_now(filling.file, KIB), "and it does not wait"
    assert not room.reserve_now(filling.file, 3 * KIB), "something would have to go"
    assert keys(folder) == {"key"}
    assert room.reserve_now(filling.file, KIB)
    assert os.fstat(filling.file).st_size == KIB
    filling.close()


def test_what_would_not_fit_even_alone_removes_nothing(folder: CacheDirectory) -> None:
    kept(folder, "key", b"x" * KIB)
    filling = begin(folder, "huge")
    assert filling is not None
    is_there, evicted = room_of(folder, 10 * KIB).reserve(filling.file, 10 * KIB)
    assert (is_there, evicted.objects) == (False, 0)
    assert keys(folder) == {"key"}
    filling.close()


def test_eviction_on_demand(folder: CacheDirectory) -> None:
    for number in range(8):
        kept(folder, str(number), b"x" * KIB, accessed_s=1000 + number)
    assert room_of(folder, 10 * KIB).evict().objects == 3
    assert keys(folder) == {"3", "4", "5", "6", "7"}
    assert room_of(folder, 10 * KIB).evict(0.0).objects == 5


def test_a_real_disk_is_never_filled_beyond_its_mark(small_disk: Path) -> None:
    folder = CacheDirectory(small_disk / "cache", "store/bucket")
    folder.make()
    room = DiskSpace(folder, 0.9, 0.5)
    for number in range(40):
        filling = begin(folder, str(number))
        assert filling is not None
        content = os.urandom(256 * KIB)
        is_there, _ = room.reserve(filling.file, len(content))
        assert is_there
        disk = disk_of(small_disk)
        assert disk.used_bytes <= 0.9 * disk.size_bytes
        os.pwrite(filling.file, content, 0)
        about = about_of(folder, str(number), content)
        keep(folder, filling, about)
        filling.close()
        os.utime(folder.directory / folder.body_path(about), (1000 + number, 0))
    assert "39" in keys(folder) and "0" not in keys(folder)
    assert not [wrong for _, _, wrong in verify(folder) if wrong]


def test_the_time_of_an_access_is_kept_now_and_then_only(folder: CacheDirectory) -> None:
    about = kept(folder, "key", accessed_s=1000)
    for _ in range(2):
        stored = folder.open("key")
        assert stored is not None
        folder.note_access(stored)
        stored.close()
        noted_s = folder.accessed_s(about)
        assert noted_s is not None and time.time() - noted_s < 5
