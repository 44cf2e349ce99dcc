from __future__ import annotations

from pathlib import Path

import pytest

from s3s3.config import toml_file as config_file
from s3s3.config.toml_file import ConfigErrors, ConfigFile, named, read
from s3s3.errors import ConfigError
from tests.config.configurations import SOUND, loaded, problems_in


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with no configuration in it nor at the system's places."""
    monkeypatch.chdir(tmp_path)
    places = ("./s3s3.toml", str(tmp_path / "local" / "s3s3.toml"), str(tmp_path / "etc" / "s3s3.toml"))
    monkeypatch.setattr(config_file, "SEARCHED", places)
    return tmp_path


def problem(path: str | Path | None, environ: dict[str, str] | None = None) -> str:
    with pytest.raises(ConfigError) as raised:
        read(path, environ or {})
    assert len(raised.value.problems) == 1
    return raised.value.problems[0]


def test_the_first_file_that_exists_is_the_only_one_read(here: Path) -> None:
    (here / "etc").mkdir()
    (here / "local").mkdir()
    for path in (here / "etc" / "s3s3.toml", here / "local" / "s3s3.toml", here / "s3s3.toml", here / "variable.toml",
                 here / "argument.toml"):  # fmt: skip
        path.write_text(f"# {path.name}")
        assert read(None, {}).path.resolve() == (path if path.name == "s3s3.toml" else here / "s3s3.toml")
    assert read(None, {"S3S3_CONFIG": "variable.toml"}).path == Path("variable.toml")
    assert read("argument.toml", {"S3S3_CONFIG": "variable.toml"}).path == Path("argument.toml")


def test_a_named_file_that_does_not_exist_is_a_problem_even_where_another_is(here: Path) -> None:
    (here / "s3s3.toml").write_text("")
    assert problem("nope.toml").startswith("nope.toml: no such configuration file; ")
    assert problem(None, {"S3S3_CONFIG": "nope.toml"}).startswith(
        "nope.toml: no such configuration file (named by $S3S3_CONFIG)"
    )
    assert problem("s3s3.toml/x").startswith("s3s3.toml/x: no such")


def test_an_empty_variable_names_no_file(here: Path) -> None:
    (here / "s3s3.toml").write_text("")
    assert read(None, {"S3S3_CONFIG": ""}).path == Path("s3s3.toml")


def test_a_missing_file_is_reported_with_the_places_and_the_template(here: Path) -> None:
    message = problem(None)
    for part in ("--config", "$S3S3_CONFIG", *config_file.SEARCHED, "echo_s3s3_toml_template"):
        assert part in message


def test_the_places_are_those_of_the_manual() -> None:
    assert config_file.SEARCHED == ("./s3s3.toml", "/usr/local/etc/s3s3.toml", "/etc/s3s3/s3s3.toml")


def test_a_file_that_cannot_be_read_is_not_passed_over(here: Path) -> None:
    (here / "s3s3.toml").mkdir()
    assert problem(None) == "./s3s3.toml: cannot read the configuration: Is a directory"
    assert "cannot read the configuration" in problem("a\0b")


def test_a_byte_order_mark_and_windows_lines_are_no_problem() -> None:
    assert loaded("\ufeff" + SOUND.replace("\n", "\r\n")).routes
    assert problems_in(SOUND.replace("\n", "\r\n") + "x = 1\r\n") == [
        f"s3s3.toml:{SOUND.count(chr(10)) + 1}: [destination] x: unknown key; echo_s3s3_toml_template prints all keys"
    ]


def test_what_is_not_utf_8_is_reported_by_line(here: Path) -> None:
    (here / "s3s3.toml").write_bytes(b"# one\n# \xfc\n")
    assert problem(None) == "s3s3.toml:2: not UTF-8: byte 0xfc"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('[source]\nhost = "a\n', "s3s3.toml:2:10: not TOML: illegal character '\\n'"),
        ('[source]\nhost = "a"\nbucket_name = images',
         "s3s3.toml:3:15: not TOML: invalid value; put the text of bucket_name into double quotes"),
        ("[source]\n[source]\n", "s3s3.toml:2:8: not TOML: cannot declare ('source',) twice"),
        ('[source]\nhost = "a"\nhost = "b"\n[x]',
         "s3s3.toml:3:11: not TOML: cannot overwrite a value; this name is already used"),
        ("a = [", "s3s3.toml: not TOML: Invalid value (at end of document)"),
        ("a = " + "[" * 100_000, "s3s3.toml: not TOML: nested too deeply"),
        ("a = " + "1" * 5000, "s3s3.toml: not TOML: a number has too many digits"),
    ],
)  # fmt: skip
def test_a_syntax_error_is_reported_with_line_and_column(text: str, expected: str) -> None:
    assert problems_in(text) == [expected]


@pytest.mark.parametrize("text", ['aws_secret_access_key = "hunter2', "aws_secret_access_key = hunter2",
                                  'aws_secret_access_key = "hunter2" hunter2'])  # fmt: skip
def test_a_syntax_error_does_not_show_the_line_since_it_may_hold_a_secret(text: str) -> None:
    assert "hunter2" not in "".join(problems_in(f'[source]\nhost = "a"\n{text}\n'))
    assert "hunter2" not in "".join(problems_in(f"[source]\nhost = a\n{text}\n"))


INI = """[source]
     aws_access_key_id = abc
     aws_secret_access_key = hunter2%
     bucket_name = images
     is_secure = True # Optional
"""


def test_an_ini_file_of_the_predecessor_is_known_by_its_content_and_gets_advice() -> None:
    (message,) = problems_in(INI)
    assert message.startswith("s3s3.toml: this is an INI file, and s3s3 reads TOML.")
    assert "hunter2" not in message
    for part in (
        'host = "ceph.example.org"',
        "double quotes",
        "lower case",
        'url = "redis://',
        "echo_s3s3_toml_template",
    ):
        assert part in message


def test_an_ini_file_is_known_by_its_name_too(here: Path) -> None:
    (here / "s3s3.ini").write_text("[source]\nport: 80\n")
    assert "this is an INI file" in problem("s3s3.ini")


def test_one_forgotten_quote_does_not_make_an_ini_file() -> None:
    assert "INI" not in problems_in('[source]\nhost = "ceph"\nbucket_name = images\n')[0]


TEXT = """\
top = 1
# [fake]
[source]
a = 1
text = '''
[fake]
b = 2
'''
list = [
  1,
  "]",
]
"quoted key" = 2   # c = 3

[ destination . inner ]
x = 1
[[array]]
y.z = 2
[inline]
table = { q = 1 }
"""


def test_the_line_of_each_table_and_key_is_found() -> None:
    file = ConfigFile(Path("x"), TEXT, {})
    assert file.lines == {
        ("top",): 1,
        ("source",): 3,
        ("source", "a"): 4,
        ("source", "text"): 5,
        ("source", "list"): 9,
        ("source", "quoted key"): 13,
        ("destination",): 15,
        ("destination", "inner"): 15,
        ("destination", "inner", "x"): 16,
        ("array",): 17,
        ("array", "y"): 18,
        ("array", "y", "z"): 18,
        ("inline",): 19,
        ("inline", "table"): 20,
        ("inline", "table", "q"): 20,
    }


def test_keys_given_by_dots_or_inline_have_lines_too() -> None:
    text = 'source.host = "a"\nsource.prot = 1\nsource.bucket_name = "b"\ndestination = {bucket_name = "b", x = 2}\n'
    assert [problem.partition(" ")[0] for problem in problems_in(text)] == ["s3s3.toml:2:", "s3s3.toml:4:"]


def test_problems_come_in_the_order_of_the_file_those_of_the_whole_file_first() -> None:
    errors = ConfigErrors(ConfigFile(Path("s3s3.toml"), "[a]\nx = 1\n[b]\n", {}))
    errors.add(("b",), "third")
    errors.add(("a",), "second", "x")
    errors.add((), "first")
    with pytest.raises(ConfigError) as raised:
        errors.raise_if_any()
    assert raised.value.problems == ("s3s3.toml: first", "s3s3.toml:2: [a] x: second", "s3s3.toml:3: [b]: third")


def test_odd_names_are_printed_safely() -> None:
    assert named("dest-a_1") == "dest-a_1"
    assert named("a.b") == "'a.b'"
    assert "\x1b" not in named("\x1b[31m")
    assert len(named("a" * 1000)) < 70
