"""The exception hierarchy."""

from __future__ import annotations

import inspect
import re

import pytest

from s3s3 import errors
from s3s3.errors import S3S3Error, StoreUnavailable, UpstreamRefused

CLASSES = {cls.__name__: cls for _, cls in inspect.getmembers(errors, inspect.isclass) if issubclass(cls, S3S3Error)}
LINE = re.compile(r"^ {4}(?P<branch>[│├└─ ]*)(?P<name>[A-Z]\w+)(?P<star> \*)?", re.MULTILINE)


def drawn() -> list[tuple[str, str, bool]]:
    """Return name, parent ("" for the root) and `retriable` of each class in the docstring's tree."""
    path: list[str] = []
    found = []
    for line in LINE.finditer(errors.__doc__ or ""):
        depth = len(line["branch"]) // 4
        del path[depth:]
        found.append((line["name"], path[-1] if path else "", bool(line["star"])))
        path.append(line["name"])
    return found


def test_the_docstring_draws_every_class_once() -> None:
    assert sorted(name for name, _, _ in drawn()) == sorted(CLASSES)


@pytest.mark.parametrize(("name", "parent", "retriable"), drawn())
def test_the_docstring_draws_the_parent_and_whether_a_retry_can_succeed(
    name: str, parent: str, retriable: bool
) -> None:
    assert CLASSES[name].retriable == retriable
    assert parent in [base.__name__ for base in CLASSES[name].__bases__] or (name, parent) == ("S3S3Error", "")


@pytest.mark.parametrize(("status", "retriable"), [(404, False), (408, True), (429, True), (500, True), (403, False)])
def test_an_origin_s_status_decides_whether_a_retry_can_succeed(status: int, retriable: bool) -> None:
    assert UpstreamRefused("no", key="k", status=status).retriable == retriable


def test_a_store_error_s_text_has_the_operation_the_response_and_the_advice() -> None:
    error = StoreUnavailable(
        "slow down", store="dest", operation="PUT", key="k", status=503, code="SlowDown", advice="wait"
    )
    assert str(error) == "dest: PUT of 'k': 503 SlowDown: slow down (wait)"
