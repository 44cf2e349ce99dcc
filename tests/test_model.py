"""Which keys belong to a route, and where a secret is shown."""

import json
from dataclasses import asdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3s3.model import Endpoint, Route, Secret, matcher


def matches(key: str, prefix: str = "", include: tuple[str, ...] = (), exclude: tuple[str, ...] = ()) -> bool:
    route = Route("default", Endpoint("source", "b", prefix=prefix), (Endpoint("dest", "c"),), include, exclude)
    return matcher(route)(key)


@given(st.text(min_size=1))
def test_without_prefix_and_globs_every_key_belongs_to_the_route(key: str) -> None:
    assert matches(key)


@pytest.mark.parametrize(
    ("key", "settings", "expected"),
    [
        ("raw/a", {"prefix": "raw/"}, True),
        ("rawa", {"prefix": "raw/"}, False),
        ("a.fits", {"include": ("*.fits",)}, True),
        ("deep/er/a.fits", {"include": ("*.fits",)}, True),
        ("a.jpg", {"include": ("*.fits",)}, False),
        ("a.fits", {"include": ("*.jpg", "*.fits")}, True),
        ("tmp/a.fits", {"include": ("*.fits",), "exclude": ("tmp/*",)}, False),
        ("raw/tmp/a", {"prefix": "raw/", "exclude": ("tmp/*",)}, False),
        ("tmp/raw", {"exclude": ("raw/*",)}, True),
        ("line\nbreak.fits", {"include": ("*.fits",)}, True),
        ("A.FITS", {"include": ("*.fits",)}, False),
    ],
)
def test_prefix_and_globs_select_the_keys(key: str, settings: dict[str, object], expected: bool) -> None:
    assert matches(key, **settings) is expected  # type: ignore[arg-type]


def test_a_secret_is_shown_nowhere() -> None:
    secret = Secret("hunter2")
    endpoint = Endpoint("a", "b", secret_access_key=secret)
    shown = [str(secret), repr(secret), f"{secret} {secret!r}", json.dumps([secret], default=str)]
    shown += [str(endpoint), str(asdict(endpoint))]
    assert not [text for text in shown if "hunter2" in text]
    with pytest.raises(TypeError):
        json.dumps(secret)


def test_a_secret_is_compared_by_its_text_and_with_secrets_only() -> None:
    assert Secret("a") == Secret("a") != Secret("b")
    assert Secret("a") != "a"
    assert len({Secret("a"), Secret("a")}) == 1
    assert not Secret("") and str(Secret("")) == ""
    assert Secret("a").get_secret_value() == "a"
