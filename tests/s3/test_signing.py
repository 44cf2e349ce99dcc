"""Find credentials; compare signatures with botocore's, for generated requests."""

from __future__ import annotations

import datetime
import hmac
import json
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal
from unittest import mock
from urllib.parse import parse_qsl, urlsplit

import pytest
from botocore.auth import HmacV1Auth, HmacV1QueryAuth, S3SigV4Auth, S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials as BotoCredentials
from hypothesis import given, settings
from hypothesis import strategies as st

from s3s3.errors import AccessDenied
from s3s3.model import Endpoint, Secret
from s3s3.s3.address import RequestTarget, encode_query
from s3s3.s3.request import encode_key
from s3s3.s3.signing import SUBRESOURCES, CredentialProvider, Credentials, HmacSha1, SignerV2, SignerV4, signer

NOW = 1_791_234_567
DATE = "Mon, 05 Oct 2026 21:09:27 GMT"
HOST = "127.0.0.1:7480"

keys = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40),
    st.sampled_from(["a//b", "/a", "..", "a/../b", "a%2Fb", "a+b c", "\n\t\x01", "😀", "a?b#c;d", "~-._", "a b/"]),
)
header_text = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=20)
spaced_text = st.lists(header_text, max_size=3).map("  ".join)
meta_names = st.text("abcdefghijklmnopqrstuvwxyz0123456789-", min_size=1, max_size=12).map("x-amz-meta-".__add__)
headers_to_sign = st.builds(
    lambda standard, meta: {**standard, **meta},
    st.fixed_dictionaries(
        {},
        optional={
            "content-md5": st.just("1B2M2Y8AsgTpgAmY7PhCfg=="),
            "content-type": header_text,
            "x-amz-acl": st.just("public-read"),
            "x-amz-storage-class": st.just("STANDARD_IA"),
            "cache-control": header_text,
        },
    ),
    st.dictionaries(meta_names, spaced_text, max_size=5),
)
query_names = st.one_of(st.sampled_from(sorted(SUBRESOURCES)), st.sampled_from(["prefix", "list-type", "max-keys"]))
query_values = st.one_of(st.none(), st.text(st.characters(exclude_categories=["Cs"]), max_size=10))
queries = st.dictionaries(query_names, query_values, max_size=4).map(lambda query: tuple(query.items()))
tokens = st.one_of(st.none(), st.just("token/with+odd=characters"))
methods = st.sampled_from(["GET", "PUT", "HEAD", "DELETE"])


class Case:
    """One request, for s3s3 and for botocore."""

    def __init__(
        self,
        key: str,
        query: tuple[tuple[str, str | None], ...],
        headers: Mapping[str, str],
        token: str | None,
        virtual_host: bool,
    ) -> None:
        encoded = encode_key(key)
        path = f"/{encoded}" if virtual_host else f"/bucket/{encoded}"
        host = f"bucket.{HOST}" if virtual_host else HOST
        self.target = RequestTarget(path, f"/bucket/{encoded}", query)
        self.keys = Credentials("AKID", Secret("sEcr3t/+="), None if token is None else Secret(token))
        self.credentials = BotoCredentials("AKID", "sEcr3t/+=", token)
        self.headers = {"host": host, **headers}
        self.query_string = encode_query(query)
        self.url = f"http://{host}{path}" + (f"?{self.query_string}" if query else "")

    def aws_request(self, method: str, *, with_host: bool) -> AWSRequest:
        headers = self.headers if with_host else {k: v for k, v in self.headers.items() if k != "host"}
        request = AWSRequest(method=method, url=self.url, headers=headers)
        request.auth_path = self.target.resource
        return request


cases = st.builds(Case, keys, queries, headers_to_sign, tokens, st.booleans())


def lower(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


def check_v2(method: str, case: Case) -> None:
    request = case.aws_request(method, with_host=False)
    with mock.patch.object(HmacV1Auth, "_get_date", lambda self: DATE), mock.patch("time.time", lambda: NOW):
        HmacV1Auth(case.credentials).add_auth(request)
        ours = SignerV2(case.keys).sign(method, case.target, case.headers)
    assert ours["date"] == DATE
    assert ours["authorization"] == request.headers["Authorization"]
    assert ours.get("x-amz-security-token") == request.headers.get("x-amz-security-token")


def check_v2_presigned(method: str, case: Case) -> None:
    signed = {name: value for name, value in case.headers.items() if name.startswith(("x-amz-", "content-"))}
    case.headers = signed
    request = case.aws_request(method, with_host=False)
    with mock.patch("time.time", lambda: NOW):
        HmacV1QueryAuth(case.credentials, expires=600).add_auth(request)
    ours = SignerV2(case.keys).presign(method, case.target, signed, 600, now_s=NOW)
    # botocore also copies the signed headers into the query, where S3 ignores them
    theirs = {
        pair for pair in parse_qsl(urlsplit(str(request.url)).query, keep_blank_values=True) if pair[0] not in signed
    }
    assert set(parse_qsl(ours, keep_blank_values=True)) == theirs


def check_v4(method: str, case: Case) -> None:
    request = case.aws_request(method, with_host=True)
    request.context["payload_signing_enabled"] = False
    request.context["client_config"] = mock.Mock(s3={"payload_signing_enabled": False})
    now = datetime.datetime.fromtimestamp(NOW, datetime.timezone.utc)
    with mock.patch("botocore.auth.get_current_datetime", lambda *_: now), mock.patch("time.time", lambda: NOW):
        S3SigV4Auth(case.credentials, "s3", "eu-west-1").add_auth(request)
        ours = SignerV4(case.keys, "eu-west-1").sign(method, case.target, case.headers)
    theirs = lower(dict(request.headers.items()))
    assert {name: theirs[name] for name in ours} == ours


def check_v4_presigned(method: str, case: Case) -> None:
    request = case.aws_request(method, with_host=True)
    now = datetime.datetime.fromtimestamp(NOW, datetime.timezone.utc)
    with mock.patch("botocore.auth.get_current_datetime", lambda *_: now):
        S3SigV4QueryAuth(case.credentials, "s3", "eu-west-1", expires=600).add_auth(request)
    ours = SignerV4(case.keys, "eu-west-1").presign(method, case.target, case.headers, 600, now_s=NOW)
    theirs = urlsplit(str(request.url)).query
    assert set(parse_qsl(ours, keep_blank_values=True)) == set(parse_qsl(theirs, keep_blank_values=True))


Check = Callable[[str, Case], None]
CHECKS: list[Check] = [check_v2, check_v2_presigned, check_v4, check_v4_presigned]


@pytest.mark.parametrize("check", CHECKS)
@settings(max_examples=150, deadline=None)
@given(method=methods, case=cases)
def test_a_signature_equals_that_of_botocore(check: Check, method: str, case: Case) -> None:
    check(method, case)


@pytest.mark.parametrize("check", CHECKS)
def test_a_thousand_signatures_equal_those_of_botocore(check: Check) -> None:
    """Random requests, faster than hypothesis's; those find the edge cases."""
    chance = random.Random(2006)
    for _ in range(1000):
        check(chance.choice(["GET", "PUT", "HEAD", "DELETE"]), random_case(chance))


def random_case(chance: random.Random) -> Case:
    def text(most: int) -> str:
        return "".join(chance.choice("ab/ +%?&=#;.~-_\n\tü😀\x01") for _ in range(chance.randint(0, most)))

    def value() -> str:
        return " ".join("".join(chance.choices("!#+,-.:;=\"ab'/~", k=chance.randint(0, 5))) for _ in range(3)).strip()

    names = chance.sample([*SUBRESOURCES, "prefix", "list-type", "marker"], chance.randint(0, 4))
    query = tuple((name, chance.choice([None, text(8)])) for name in names)
    meta = {"x-amz-meta-" + "".join(chance.choices("ab-1", k=3)): value() for _ in range(chance.randint(0, 5))}
    standard = {
        "content-md5": "1B2M2Y8AsgTpgAmY7PhCfg==",
        "content-type": value(),
        "x-amz-acl": "private",
        "expires": "x",
    }
    headers = {**dict(chance.sample([*standard.items()], chance.randint(0, 4))), **meta}
    return Case("k" + text(30), query, headers, chance.choice([None, "token/with+odd="]), chance.random() < 0.5)


def test_the_signed_subresources_equal_those_of_botocore() -> None:
    assert set(HmacV1Auth.QSAOfInterest) == SUBRESOURCES


@pytest.mark.parametrize("version", ["s3", "s3v4"])
def test_a_reused_signer_signs_like_a_new_one(version: Literal["s3", "s3v4"]) -> None:
    keys_, target = Credentials("AKID", Secret("secret")), RequestTarget("/b/k", "/b/k")
    used = signer(version, keys_, "us-east-1")
    for day in range(3):
        with mock.patch("time.time", lambda day=day: NOW + day * 86_400):
            for method in ("GET", "PUT"):
                fresh = signer(version, keys_, "us-east-1")
                assert used.sign(method, target, {"host": HOST}) == fresh.sign(method, target, {"host": HOST})


@pytest.mark.parametrize("version", ["s3", "s3v4"])
def test_a_header_that_is_not_utf8_is_hashed_as_its_bytes(version: Literal["s3", "s3v4"]) -> None:
    with mock.patch("time.time", lambda: NOW):
        signatures = {
            signer(version, Credentials("AKID", Secret("s")), "r").sign(
                "PUT", RequestTarget("/b/k", "/b/k"), {"host": HOST, "x-amz-meta-a": value}
            )["authorization"]
            for value in ("\udcff", "\udcfe", "ÿ")
        }
    assert len(signatures) == 3


def test_secrets_are_not_in_the_repr() -> None:
    shown = repr(Credentials("AKID", Secret("hidden"), Secret("token-hidden")))
    assert "hidden" not in shown


# credentials


def endpoint(**changed: Any) -> Endpoint:
    return Endpoint(**{"name": "source", "bucket_name": "bucket", **changed})


async def test_configured_credentials_are_current_without_loading(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "from-the-environment")
    keys = CredentialProvider(endpoint(access_key_id="mine", secret_access_key=Secret("s"), session_token=Secret("t")))
    found = keys.current()
    assert found is not None
    assert (found.access_key_id, found.secret_access_key, found.session_token) == ("mine", Secret("s"), Secret("t"))


async def test_without_configured_credentials_those_of_boto3s_chain_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "from-the-environment")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    source = CredentialProvider(endpoint())
    assert source.current() is None  # the chain did not run yet
    keys = await source.load()
    assert keys == Credentials("from-the-environment", Secret("secret"), None)
    assert source.current() is keys


@pytest.fixture
def no_keys(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    return tmp_path


async def test_an_error_for_missing_credentials_names_the_settings(no_keys: Path) -> None:
    with pytest.raises(AccessDenied, match=r"aws_access_key_id and aws_secret_access_key in \[source\]"):
        await CredentialProvider(endpoint()).load()


async def test_expiring_credentials_are_loaded_again(no_keys: Path) -> None:
    """credential_process makes the refresh of the chain visible without AWS."""
    calls, script = no_keys / "calls", no_keys / "keys.sh"

    def keys_until(minutes: int) -> None:
        until = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(minutes=minutes)
        credentials = {"Version": 1, "AccessKeyId": "AK", "SecretAccessKey": "SK", "SessionToken": "T"}
        output = json.dumps({**credentials, "Expiration": until.isoformat()})
        script.write_text(f"echo >> {calls}; echo '{output}'")

    (no_keys / "config").write_text(f"[default]\ncredential_process = sh {script}\n")
    keys_until(1)
    source = CredentialProvider(endpoint())
    first = await source.load()
    assert first.session_token == Secret("T")
    assert await source.load() is first
    keys_until(600)
    a_minute_later(source)
    assert source.current() is None
    await source.load()
    asked = len(calls.read_text())
    assert asked > 1
    a_minute_later(source)
    await source.load()  # valid for hours
    assert len(calls.read_text()) == asked


def a_minute_later(source: CredentialProvider) -> None:
    source.valid_until_s = 0.0


@given(st.binary(max_size=200), st.binary(max_size=300))
def test_hmac_sha1_is_that_of_the_hmac_module(key: bytes, text: bytes) -> None:
    code = HmacSha1(key)
    assert [code.digest(text), code.digest(b""), code.digest(text)] == [
        hmac.digest(key, text, "sha1"), hmac.digest(key, b"", "sha1"), hmac.digest(key, text, "sha1")
    ]  # fmt: skip


@pytest.mark.parametrize("size", [0, 1, 63, 64, 65, 128, 129])
def test_hmac_sha1_of_keys_around_the_block_size(size: int) -> None:
    assert HmacSha1(b"k" * size).digest(b"text") == hmac.digest(b"k" * size, b"text", "sha1")
