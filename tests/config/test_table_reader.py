from __future__ import annotations

from pathlib import Path

import pytest

from s3s3 import config
from s3s3.model import Secret, Window
from tests.config.configurations import SOUND, SOURCE, loaded, problems_in


def only_problem(text: str, environ: dict[str, str] | None = None) -> str:
    errors = problems_in(text, environ)
    assert len(errors) == 1, errors
    return errors[0].partition(": ")[2]


def in_destination(line: str, environ: dict[str, str] | None = None) -> str:
    return only_problem(f"{SOUND}{line}\n", environ)


def test_a_missing_table_is_a_problem() -> None:
    assert problems_in("") == [
        "s3s3.toml: no [source] table: the bucket to copy from",
        "s3s3.toml: no [destination] table: a bucket to copy to; its name must begin with dest",
    ]


@pytest.mark.parametrize("route", ["", "routes.images."])
def test_a_destination_with_another_name_is_answered_with_how_names_begin(route: str) -> None:
    text = SOUND.replace("[source]", f"[{route}source]").replace("[destination]", f"[{route}swift]")
    missing, unknown = sorted(problems_in(text), key=lambda problem: "unknown" in problem)
    assert f"no [{route}destination] table: a bucket to copy to; its name must begin with dest" in missing
    assert f"[{route}swift]: unknown table" in unknown


def test_an_unknown_table_is_answered_with_the_most_similar_one() -> None:
    assert only_problem(SOUND + "[pubsubs]") == "[pubsubs]: unknown table; did you mean [pubsub]?"
    assert (
        "the tables are [source], [destination], [pubsub], [worker], [http], [stream], [sqs], [webhook], [stores]"
        in only_problem(SOUND + "[zzzzz]")
    )


def test_a_misspelled_table_is_not_called_missing_too() -> None:
    assert only_problem(SOUND.replace("[source]", "[sorce]")) == "[sorce]: unknown table; did you mean [source]?"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("source = 1\n", "[source]: must be a table, [source], not a number"),
        ("[[source]]\n", "[source]: must be a table, [source], not a list"),
        ("host = 1\n" + SOURCE, "host is outside of every table; it belongs in [source]"),
    ],
)
def test_a_value_that_is_not_a_table_is_reported_once(text: str, expected: str) -> None:
    assert only_problem(text + SOUND.removeprefix(SOURCE)) == expected


@pytest.mark.parametrize("name", ["dest ä", "dest/a", "destination:x", "dest{a}"])
def test_a_destination_s_name_is_made_of_letters_digits_and_few_signs(name: str) -> None:
    assert "only letters, digits, _ . and -" in only_problem(SOUND.replace("[destination]", f'["{name}"]'))


@pytest.mark.parametrize("name", ["dest", "dest-1", '"dest.a"', "destination_Swift"])
def test_every_table_with_a_name_that_starts_with_dest_is_a_destination(name: str) -> None:
    (destination,) = loaded(SOUND.replace("[destination]", f"[{name}]")).routes[0].destinations
    assert destination.name == name.strip('"')


def test_a_dotted_destination_without_quotes_is_explained() -> None:
    errors = problems_in(SOUND.replace("[destination]", "[dest.a]"))
    assert "[dest] a: unknown table within [dest]; write ['dest.a'] for a name with a dot" in errors[0]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("prot = 1", "[destination] prot: unknown key; did you mean port?"),
        ("PORT = 1", "[destination] PORT: unknown key; did you mean port?"),
        ("max_bytes_per = { '08:00-18:00' = '20 MiB' }", "max_bytes_per: unknown key; did you mean max_bytes_per_s?"),
        ("aws_secret_access_key_fil = 'x'", "did you mean aws_secret_access_key_file?"),
        ("include = ['*']", "[destination] include: unknown key here; it belongs in [source]"),
        ("lease_s = 1", "[destination] lease_s: unknown key here; it belongs in [worker]"),
        ("zzzzz = 1", "[destination] zzzzz: unknown key; echo_s3s3_toml_template prints all keys"),
    ],
)
def test_an_unknown_key_gets_the_nearest_one_or_its_own_table(line: str, expected: str) -> None:
    assert expected in problems_in(f"{SOUND}{line}\n")[0]


@pytest.mark.parametrize("name", ["storage_class", "acl", "bucket_suffix", "delete"])
def test_a_destination_s_key_in_the_source_is_reported_to_belong_to_a_destination(name: str) -> None:
    assert only_problem(f"{SOURCE}{name} = 1\n{SOUND.removeprefix(SOURCE)}").endswith("it belongs in [destination]")


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ("max_bytes_per_s", "max_bytes_per_s is outside of every table; it belongs in [destination]"),
        ("mirror.max_requests_per_s", "[mirror] max_requests_per_s: unknown key here; it belongs in [destination]"),
        ("routes.a.max_bytes_per_s", "max_bytes_per_s: unknown key here; it belongs in [routes.a.destination]"),
        ("source.max_bytes_per_s", "[source] max_bytes_per_s: unknown key here; it belongs in [destination]"),
    ],
)
def test_a_limit_by_hours_in_another_table_is_reported_to_belong_to_a_destination(table: str, expected: str) -> None:
    errors = problems_in(f"{SOUND}[{table}]\n'08:00-18:00' = 1\n")
    assert any(expected in problem for problem in errors), errors
    assert not any("unknown table" in problem for problem in errors)


@pytest.mark.parametrize("name", ["redis", "host", "port", "db"])
def test_the_predecessor_s_redis_gets_the_url_that_takes_its_place(name: str) -> None:
    message = only_problem(f'{SOUND}[pubsub]\n{name} = "localhost"\n')
    assert message == f'[pubsub] {name}: unknown key; write url = "redis://HOST:6379/0", or url = "" for no Redis'


def test_sns_and_a_redis_password_get_a_hint_that_shows_no_value() -> None:
    assert "have SNS send to an SQS queue" in only_problem(SOUND + "[pubsub]\nsns = false\n")
    message = only_problem(SOUND + '[pubsub]\npassword = "hunter2"\n')
    assert "url_file" in message
    assert "hunter2" not in message


@pytest.mark.parametrize("name", ["bucket_name", "host"])
def test_a_misspelled_key_is_the_only_problem_though_the_right_one_is_missing(name: str) -> None:
    text = SOUND.replace('host = "s', 'port = 1\nhost = "s').replace(f'\n{name} = "s', f'\n{name}x = "s')
    text = text if f"{name}x" in text else text[::-1].replace(name[::-1], f"x{name[::-1]}", 1)[::-1]
    assert only_problem(text) == f"[destination] {name}x: unknown key; did you mean {name}?"


def test_a_missing_bucket_name_is_reported_at_its_table() -> None:
    assert problems_in(SOURCE + '[destination]\nhost = "x"\n') == ["s3s3.toml:5: [destination]: bucket_name is missing"]


def test_half_a_pair_of_keys_whose_other_half_is_misspelled_is_one_problem() -> None:
    message = in_destination("aws_access_key_id = 'A'\naws_secret_acces_key = 'B'")
    assert message == "[destination] aws_secret_acces_key: unknown key; did you mean aws_secret_access_key?"


def test_a_variable_is_taken_from_the_environment_and_converted() -> None:
    environ = {"SECRET": "hunter2", "PORT": "7480", "SECURE": "False", "SIZE": "1 GiB"}
    text = """port = "${PORT}"\nis_secure = "${SECURE}"\naws_access_key_id = "A"\naws_secret_access_key = "${SECRET}"
        [worker]\nspool_bytes = "${SIZE}"\n"""
    settings = loaded(SOUND + text, environ)
    destination = settings.routes[0].destinations[0]
    assert (destination.port, destination.is_secure, destination.secret_access_key) == (7480, False, Secret("hunter2"))
    assert settings.worker.spool_bytes == 1024**3


def test_a_variable_s_text_is_not_expanded_again() -> None:
    destination = loaded(SOUND + 'prefix = "${A}"', {"A": "${B}", "B": "x"}).routes[0].destinations[0]
    assert destination.prefix == "${B}"


@pytest.mark.parametrize(
    ("line", "environ", "expected"),
    [
        ('port = "${P}"', {}, "port: environment variable P is not set"),
        ('port = "${P}"', {"P": "hunter2"}, "port: must be a whole number (environment variable P)"),
        ('is_secure = "${P}"', {"P": "hunter2"}, "is_secure: must be true or false (environment variable P)"),
        ('region = "${P}"', {"P": ""}, "region: must be at least one character (environment variable P)"),
        ('region = "${P}"', {"P": "\udcff"}, "region: environment variable P is not UTF-8"),
        ('region = "eu-${P}"', {"P": "1"}, 'region: "${NAME}" is replaced only if it is the whole value'),
    ],
)
def test_a_variable_that_does_not_serve_is_named_and_its_text_not_shown(
    line: str, environ: dict[str, str], expected: str
) -> None:
    assert in_destination(line, environ) == f"[destination] {expected}"


def test_a_url_with_a_variable_inside_is_a_problem_rather_than_a_password() -> None:
    message = only_problem(SOUND + '[pubsub]\nurl = "redis://:${PW}@localhost"\n', {"PW": "x"})
    assert message == '[pubsub] url: "${NAME}" is replaced only if it is the whole value'


def test_a_list_does_not_take_variables() -> None:
    text = SOURCE + 'include = ["${GLOB}"]\n' + SOUND.removeprefix(SOURCE)
    assert "replaced only if" in only_problem(text, {"GLOB": "*"})


def test_a_secret_may_hold_what_looks_like_a_variable() -> None:
    settings = loaded(SOUND + 'aws_access_key_id = "A"\naws_secret_access_key = "a${B}c"')
    assert settings.routes[0].destinations[0].secret_access_key == Secret("a${B}c")


def with_files(folder: Path, lines: str) -> Path:
    path = folder / "s3s3.toml"
    path.write_text(SOUND + lines)
    return path


@pytest.mark.parametrize(
    ("content", "secret"), [("s\n", "s"), ("s", "s"), ("s\r\n", "s"), ("s\n\n", "s\n"), ("${X}", "${X}")]
)
def test_a_secret_is_read_from_a_file_without_one_newline_at_its_end(tmp_path: Path, content: str, secret: str) -> None:
    (tmp_path / "secret").write_bytes(content.encode())
    path = with_files(tmp_path, 'aws_access_key_id = "A"\naws_secret_access_key_file = "secret"\n')
    if secret == "s\n":  # what is left cannot be part of a secret
        with pytest.raises(config.ConfigError, match="control characters"):
            config.load(path, {})
    else:
        assert config.load(path, {}).routes[0].destinations[0].secret_access_key == Secret(secret)


def test_any_text_can_come_from_a_file_that_a_variable_names(tmp_path: Path) -> None:
    (tmp_path / "id").write_text("A\n")
    (tmp_path / "key").write_text("B\n")
    (tmp_path / "url").write_text("redis://:pw@redis:6379/0\n")
    path = with_files(
        tmp_path, 'aws_access_key_id_file = "id"\naws_secret_access_key_file = "${KEY}"\n[pubsub]\nurl_file = "url"\n'
    )
    settings = config.load(path, {"KEY": str(tmp_path / "key")})
    destination = settings.routes[0].destinations[0]
    assert (destination.access_key_id, destination.secret_access_key) == ("A", Secret("B"))
    assert settings.pubsub.url == Secret("redis://:pw@redis:6379/0")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('aws_access_key_id_file = "nope"', "cannot read the referenced file: No such file or directory"),
        ('aws_access_key_id_file = "."', "cannot read the referenced file: Is a directory"),
        ('aws_access_key_id_file = "bytes"', "the referenced file is not UTF-8"),
        ('aws_access_key_id_file = ""', "must be the path of a file"),
        ('aws_access_key_id_file = "a\\u0000b"', "must be the path of a file"),
        ("aws_access_key_id_file = 5", "must be the path of a file, not a number"),
        ('aws_access_key_id_file = "${NOPE}"', "environment variable NOPE is not set"),
    ],
)
def test_a_secret_file_that_does_not_serve_is_a_problem(tmp_path: Path, line: str, expected: str) -> None:
    (tmp_path / "bytes").write_bytes(b"\xff")
    path = with_files(tmp_path, f'aws_secret_access_key = "B"\n{line}\n')
    with pytest.raises(config.ConfigError) as raised:
        config.load(path, {})
    assert [problem.partition(": ")[2] for problem in raised.value.problems] == [
        f"[destination] aws_access_key_id_file: {expected}"
    ]


def test_a_secret_written_where_its_file_s_path_belongs_is_not_shown() -> None:
    assert "hunter2" not in in_destination('aws_access_key_id = "A"\naws_secret_access_key_file = "hunter2"')


def test_both_a_value_and_its_file_are_a_problem() -> None:
    message = only_problem(SOUND + '[pubsub]\nurl = ""\nurl_file = "x"\n')
    assert message == "[pubsub] url: url and url_file are both given; remove one"


@pytest.mark.parametrize("line", ["port_file = 'x'", "is_secure_file = 'x'"])
def test_numbers_and_truths_cannot_come_from_a_file(line: str) -> None:
    assert "unknown key" in in_destination(line)


def test_a_secret_of_a_wrong_type_is_not_shown() -> None:
    message = in_destination("aws_access_key_id = 'A'\naws_secret_access_key = 12345")
    assert message == "[destination] aws_secret_access_key: must be text in quotes, not a number"


def test_what_a_destination_is_to_do_beside_copying_arrives() -> None:
    lines = ("delete = true", "max_delete = 0.5", "server_side_copy = false", "multipart = true",
             "multipart_threshold = '64 MiB'", "copy_tags = true", "copy_acl = true")  # fmt: skip
    (asked,) = loaded("\n".join([SOUND, *lines])).routes[0].destinations
    assert (asked.delete, asked.max_delete, asked.server_side_copy) == (True, 0.5, False)
    assert (asked.multipart, asked.multipart_threshold_bytes) == (True, 64 * 1024**2)
    assert (asked.copy_tags, asked.copy_acl) == (True, True)
    (left_out,) = loaded(SOUND).routes[0].destinations
    assert (left_out.delete, left_out.max_delete, left_out.server_side_copy) == (False, 0.1, True)
    assert (left_out.multipart, left_out.multipart_threshold_bytes) == (False, 5 * 1024**3)


def test_one_put_takes_5_gib_whatever_the_threshold_says() -> None:
    (destination,) = loaded(f"{SOUND}multipart_threshold = '1 TiB'\n").routes[0].destinations
    assert destination.multipart_threshold_bytes == 5 * 1024**3
    assert "5242880 or more bytes" in in_destination("multipart_threshold = '5 MB'")


def test_one_acl_for_all_and_each_object_s_own_exclude_each_other() -> None:
    assert "leave one out" in in_destination("acl = 'private'\ncopy_acl = true")


def test_an_unknown_key_does_not_hide_what_does_not_go_together() -> None:
    first, second = problems_in(f"{SOUND}acl = 'private'\ncopy_acl = true\nqqqqq = 1\n")
    assert "copy_acl: given together with acl" in first
    assert "qqqqq: unknown key" in second


@pytest.mark.parametrize("line", ["delete = 1", "delete = 'yes'", "max_delete = 1.1", "max_delete = -0.1"])
def test_a_deletion_is_never_a_matter_of_guessing(line: str) -> None:
    assert "must be" in in_destination(line)


@pytest.mark.parametrize(
    ("line", "windows"),
    [
        ("max_bytes_per_s = '20 MiB'", (Window(0, 1440, 20 * 1024**2),)),
        ("max_requests_per_s = 2.5", (Window(0, 1440, 2.5),)),
        ("max_bytes_per_s = {'08:00-18:00' = '1 MB', '22:30-06:00' = 100_000}",
         (Window(480, 1080, 10**6), Window(1350, 360, 100_000))),
        ("max_requests_per_s = {'00:00-24:00' = 7}", (Window(0, 1440, 7),)),
    ],
)  # fmt: skip
def test_a_limit_holds_all_day_or_in_hours_of_it(line: str, windows: tuple[Window, ...]) -> None:
    destination = loaded(f"{SOUND}{line}\n").routes[0].destinations[0]
    assert (destination.max_bytes_per_s or destination.max_requests_per_s) == windows


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("max_bytes_per_s = '1 KiB'", "must be a size of 65536 or more bytes"),
        ("max_requests_per_s = 0", "must be a number from 1 to 1000000, not 0"),
        ("max_requests_per_s = {}", "must be a table with at least one line"),
        ("max_requests_per_s = {'8-18' = 5}", 'must be a table of hours such as { "08:00-18:00" = ... }'),
        ("max_requests_per_s = {'08:00-24:30' = 5}", '"08:00-24:30" is not a time range'),
        ("max_requests_per_s = {'08:00-08:00' = 5}", '"08:00-08:00" is not a time range'),
        ("max_requests_per_s = {'08:00-18:00' = 'many'}", 'must be a number at "08:00-18:00"'),
        ("max_requests_per_s = {'08:00-18:00' = 5, '17:59-20:00' = 6}", "a table of hours that do not overlap"),
        ("max_requests_per_s = {'22:00-06:00' = 5, '05:00-07:00' = 6}", "a table of hours that do not overlap"),
        ("max_requests_per_s = {'10:00-12:00' = 5, '00:00-24:00' = 6}", "a table of hours that do not overlap"),
    ],
)
def test_a_limit_that_cannot_be_meant_is_a_problem(line: str, message: str) -> None:
    assert message in in_destination(line)
