from __future__ import annotations

from collections.abc import AsyncIterator, Iterable

import pytest

from s3s3.errors import AccessDenied, ContentUnreadable, IntegrityError
from s3s3.queue.base import DeadLetter
from s3s3.queue.dead_letters import MAX_EXAMPLES, MAX_REASONS, OTHER_REASONS, common_reason, read_groups


def letter(key: str, reason: str, at_ms: int = 1, destination: str = "dest") -> DeadLetter:
    return DeadLetter(destination, key, reason, 1, at_ms)


async def read(letters: Iterable[DeadLetter]) -> AsyncIterator[DeadLetter]:
    for each in letters:
        yield each


async def test_letters_with_the_same_error_of_the_store_are_one_group() -> None:
    letters = [
        letter(f"k{number}", f"after {number} attempts: "
               + str(AccessDenied("no", store="dest", operation="PUT", key=f"k{number}", status=403)), number)
        for number in range(2, 46)
    ]  # fmt: skip
    (group,) = await read_groups(read(letters))
    assert (group.destination, group.reason, group.count) == ("dest", "PUT of an object: 403: no", 44)
    assert (group.oldest_ms, group.newest_ms, len(group.keys)) == (2, 45, MAX_EXAMPLES)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (IntegrityError(f"sent an object with MD5 {'a' * 32}, stored ETag is {'b' * 32}"),
         IntegrityError(f"sent an object with MD5 {'c' * 32}, stored ETag is {'0' * 32}-12")),
        (ContentUnreadable("listed, but its content cannot be read; its size is 17 bytes"),
         ContentUnreadable("listed, but its content cannot be read; its size is 4,711 bytes")),
        (AccessDenied("request tx00000a1b2c3d4e5f6a7b8-0065a1 refused"),
         AccessDenied("request tx00000ffffffffffffffff-0065b2 refused")),
        (IntegrityError("part 3 was lost after 1.5 s"), IntegrityError("part 12 was lost after 20 s")),
    ],
)  # fmt: skip
def test_what_differs_from_object_to_object_does_not_split_a_group(first: Exception, second: Exception) -> None:
    assert common_reason(letter("a", str(first))) == common_reason(letter("b", str(second)))


async def test_statuses_destinations_and_codes_split_groups() -> None:
    letters = [letter("a", "403 AccessDenied"), letter("b", "404 NoSuchBucket"), letter("c", "403 AccessDenied"),
               letter("d", "403 AccessDenied", destination="other")]  # fmt: skip
    found = [(group.destination, group.reason, group.count) for group in await read_groups(read(letters))]
    assert found == [("dest", "403 AccessDenied", 2), ("dest", "404 NoSuchBucket", 1),
                     ("other", "403 AccessDenied", 1)]  # fmt: skip


async def test_memory_is_bounded_by_the_number_of_reasons() -> None:
    letters = [letter(f"k{number}", f"reason {number}") for number in range(3 * MAX_REASONS)]
    groups = await read_groups(read(letters))
    assert len(groups) == MAX_REASONS + 1
    assert (groups[0].reason, groups[0].count) == (OTHER_REASONS, 2 * MAX_REASONS)
    assert sum(group.count for group in await read_groups(read(letters), limit=7)) == 7
