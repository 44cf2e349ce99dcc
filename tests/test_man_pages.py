"""The sections of the man pages that are not printed by --help."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import s3s3
from docs import generated

PACKAGE = Path(s3s3.__file__).parent

#: Read in addition by libraries: boto3, Python's ssl and tempfile, rich.
OF_LIBRARIES = {
    "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "SSL_CERT_FILE", "SSL_CERT_DIR", "TMPDIR", "NO_COLOR"
}  # fmt: skip


@pytest.mark.parametrize("name", ["commands", "configuration"])
def test_a_man_page_has_the_usual_sections(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generated, "_help", lambda words: "")
    page = "\n".join(getattr(generated, f"_{name}")())
    assert re.match(r"# \w+\n\n## Synopsis\n", page)
    for section in ("Files", "Environment", "Examples"):
        assert re.search(rf"^## {section}\n\n.+", page, re.MULTILINE), section


def read_variables() -> set[str]:
    """The names of the environment variables that the code reads."""
    found = {"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"}  # their names are assembled
    for path in PACKAGE.rglob("*.py"):
        if "demo" not in path.parts:
            parts = re.findall(r'environ(?:\.get\(|\[)"(\w+)"|"(\w+)" (?:not )?in os\.environ', path.read_text())
            found |= {name for names in parts for name in names if name}
    return found


def test_every_environment_variable_that_is_read_is_on_the_page() -> None:
    documented = set(re.findall(r"[A-Z][A-Z0-9_]{3,}", " ".join(generated.ENVIRONMENT)))
    of_completion = {"COMP_LINE", "COMP_POINT", "_ARGCOMPLETE"}  # set by a shell that completes a command
    assert documented == (read_variables() | OF_LIBRARIES) - of_completion
