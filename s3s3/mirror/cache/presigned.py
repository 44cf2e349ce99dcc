"""Presigned URLs from the other side: whether who asks with one may have the object.

What the store itself would refuse is refused here: for one bucket, with its own pair of keys and those of others who
may read it, V2 and V4 alike (S3 user guide, "Query string request authentication alternative", and "Using query
parameters").
"""

from __future__ import annotations

import hmac
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import quote, unquote, urlsplit

from ...errors import SignatureRejected
from ...model import Endpoint
from ...s3.address import address_of
from ...s3.credentials import CredentialProvider
from ...s3.keys import Query
from ...s3.signing import SUBRESOURCES, Credentials, RequestTarget, SignerV2, SignerV4
from .presigned_parser import is_text, key_in, query_of, spellings, v4_time_s

LONGEST_V4_S = 7 * 86_400
CLOCKS_DIFFER_S = 15 * 60
"""How far ahead a client's clock may be, as with S3 itself."""
OVERRIDES = {
    "response-content-type": "content-type",
    "response-content-encoding": "content-encoding",
    "response-content-disposition": "content-disposition",
    "response-content-language": "content-language",
    "response-cache-control": "cache-control",
    "response-expires": "expires",
}
"""What a client may have said in place of the object's own headers (S3 API reference, "GetObject")."""
_OF_V2 = frozenset(("AWSAccessKeyId", "Signature", "Expires"))
_OF_THE_SIGNATURE = _OF_V2 | frozenset(
    ("X-Amz-Algorithm", "X-Amz-Credential", "X-Amz-Date", "X-Amz-Expires", "X-Amz-SignedHeaders", "X-Amz-Signature")
)
_PLAIN = _OF_THE_SIGNATURE | OVERRIDES.keys() | {"x-id", "x-amz-checksum-mode"}
"""What a query may hold that is about the object as it is now. The last two are botocore's, and change nothing."""


_SIGNED_HEADERS = ("x-amz-", "content-type", "content-md5")


@dataclass(frozen=True, slots=True)
class Authorization:
    """What a presigned URL gives the right to.

    Attributes:
        key: in the bucket.
        expires_s: until when (Unix time).
        at_store: the URL at which the same signature is good at the store itself; "" where it is not.
        rest: of the query, but for the signature.
        overrides: headers to be said in place of the object's own, lower-case names.
        is_plain: it is about the object itself as it is now, and not about a version, a part or an ACL of it.
        by_url_alone: method, URL and host are all that was signed.
    """

    key: str
    expires_s: float
    at_store: str
    rest: Query
    overrides: Mapping[str, str]
    is_plain: bool
    by_url_alone: bool


class _Signed(NamedTuple):
    """What a signature turned out to be good for. `is_good_there`: at the store itself, too."""

    key: str
    expires_s: float
    is_good_there: bool
    by_url_alone: bool


class _Signers(NamedTuple):
    """What signs with one pair of keys. `is_own`: the store's own pair, so that the store knows it, too."""

    v2: SignerV2
    v4: SignerV4
    is_own: bool


class Verifier:
    """Verifies presigned URLs of one bucket.

    Args:
        others: pairs of keys beside the endpoint's own, whose holders may read the bucket here.
    """

    def __init__(self, endpoint: Endpoint, others: Sequence[Credentials] = ()) -> None:
        self._endpoint = endpoint
        self._bucket = endpoint.bucket_name
        self._address = address_of(endpoint)
        self._host = self._address.host_header
        self._key_source = CredentialProvider(endpoint)
        self._keys: Credentials | None = None
        self._expects_own_host = False  # as the last good V4 signature had it: to try the other one first costs twice
        self._others = {keys.access_key_id: self._signers_of(keys, is_own=False) for keys in others}
        self._signers = self._others

    def _signers_of(self, keys: Credentials, *, is_own: bool) -> _Signers:
        only = Credentials(keys.access_key_id, keys.secret_access_key)  # a token stands in the query
        return _Signers(SignerV2(only), SignerV4(only, self._endpoint.region), is_own)

    async def grant(self, method: str, target: str, headers: Mapping[str, str]) -> Authorization:
        """Return what a request has the right to.

        Args:
            target: path and query as they were sent.
            headers: as they were sent, with lower-case names.

        Raises:
            Denied: nothing.
            AccessDenied: there are no keys to verify with.
        """
        if not is_text(target):
            raise SignatureRejected("InvalidURI", "the URL is not UTF-8")
        keys = self._key_source.at_hand() or await self._key_source.keys()
        if keys is not self._keys:
            self._keys = keys
            self._signers = {**self._others, keys.access_key_id: self._signers_of(keys, is_own=True)}
        path, _, raw_query = target.partition("?")
        if not path.startswith("/"):
            path = urlsplit(path).path or "/"
        query = query_of(raw_query)
        said = {name: value or "" for name, value in query}
        if len(said) != len(query):
            raise SignatureRejected("AccessDenied", "a query that says something twice")
        is_v4 = "X-Amz-Signature" in said
        if headers.get("authorization") and (is_v4 or "Signature" in said):
            raise SignatureRejected(
                "InvalidArgument", "signed, and with an Authorization header: only one of the two is allowed"
            )
        if is_v4 and not _OF_V2.isdisjoint(said):
            raise SignatureRejected("InvalidArgument", "it is signed twice: only one way of the two is allowed")
        verify = self._by_v4 if is_v4 else self._by_v2
        found = verify(method, path, query, said, headers)
        if not found.key.startswith(self._endpoint.prefix):
            raise SignatureRejected("AccessDenied", f"only keys under {self._endpoint.prefix} are to be had here")
        at_store = f"{self._address.url}{path}?{raw_query}" if found.is_good_there else ""
        # What a client has added to a V2 signature, which covers the known names alone, must not get one of ours.
        signed = query if is_v4 else [pair for pair in query if pair[0] in SUBRESOURCES]
        return _grant(found, at_store, query, signed)

    # -- V2

    def _by_v2(
        self, method: str, path: str, query: Query, said: Mapping[str, str], headers: Mapping[str, str]
    ) -> _Signed:
        if not all(said.get(name) for name in ("AWSAccessKeyId", "Expires", "Signature")):
            raise SignatureRejected("AccessDenied", "there is no signature, or a part of it is missing")
        signers = self._of_id(said["AWSAccessKeyId"])
        expires = said["Expires"]
        if not (expires.isascii() and expires.isdigit() and len(expires) < 15):
            raise SignatureRejected("AccessDenied", "Expires is no time")
        signature = said["Signature"].replace(" ", "+")
        of_headers = {name: value for name, value in headers.items() if name.startswith(_SIGNED_HEADERS)}
        # botocore puts the headers that it signs into the query
        signed = {**{name: value for name, value in said.items() if name.startswith("x-amz-")}, **of_headers}
        for spelt, key, path_style in self._meanings(path):
            resource = f"/{quote(self._bucket, safe='')}/{spelt}"
            right = signers.v2.presigned_signature(
                method, RequestTarget(path, resource, query), signed, int(expires), 0
            )
            if str(int(expires)) == expires and _same(right, signature):
                is_good_there = signers.is_own and path_style == self._endpoint.path_style
                return _Signed(key, float(expires), is_good_there, not of_headers)
        raise _wrong()

    def _meanings(self, path: str) -> Iterator[tuple[str, str, bool]]:
        """Yield what may stand after the bucket in what was signed, the key then, and whether that is path style."""
        bucket, _, rest = path[1:].partition("/")
        for sent in [rest] if unquote(bucket) == self._bucket and rest else []:
            yield from ((*spelling, True) for spelling in spellings(sent))
        yield from ((*spelling, False) for spelling in spellings(path[1:]))

    # -- V4

    def _by_v4(
        self, method: str, path: str, query: Query, said: Mapping[str, str], headers: Mapping[str, str]
    ) -> _Signed:
        signed_s, lasts_s = v4_time_s(said.get("X-Amz-Date", "")), said.get("X-Amz-Expires", "")
        access_key_id, _, scope = said.get("X-Amz-Credential", "").partition("/")
        signers = self._of_id(access_key_id)
        if said.get("X-Amz-Algorithm") != "AWS4-HMAC-SHA256" or not (lasts_s.isascii() and lasts_s.isdigit()):
            raise SignatureRejected(
                "AuthorizationQueryParametersError", "a part of the V4 signature is missing or is none"
            )
        if not 0 < int(lasts_s[:9]) <= LONGEST_V4_S or len(lasts_s) > 9:
            raise SignatureRejected("AuthorizationQueryParametersError", "X-Amz-Expires is a week at most")
        if scope != f"{said['X-Amz-Date'][:8]}/{self._endpoint.region}/s3/aws4_request":
            raise SignatureRejected("AuthorizationQueryParametersError",
                         f"the credential is not for today's S3 in the region {self._endpoint.region}")  # fmt: skip
        if signed_s > time.time() + CLOCKS_DIFFER_S:
            raise SignatureRejected("AccessDenied", "it was signed in the future")
        names = said.get("X-Amz-SignedHeaders", "").split(";")
        if "host" not in names:
            raise SignatureRejected("AccessDenied", "the host is not signed")
        rest = tuple(pair for pair in query if pair[0] not in _OF_THE_SIGNATURE)
        signed = {name: headers.get(name, "") for name in names}
        hosts = (headers.get("host", ""), self._host)
        for host in dict.fromkeys(reversed(hosts) if self._expects_own_host else hosts):
            for sent, _ in spellings(path[1:]):
                target = RequestTarget(f"/{sent}", "", rest)
                right = signers.v4.presigned_signature(method, target, {**signed, "host": host}, int(lasts_s), signed_s)
                if _same(right, said["X-Amz-Signature"]):
                    self._expects_own_host = host == self._host
                    is_good_there = signers.is_own and host == self._host
                    return _Signed(self._v4_key(path, host), signed_s + int(lasts_s), is_good_there, names == ["host"])
        raise _wrong()

    def _v4_key(self, path: str, host: str) -> str:
        """Return the key: the host that was signed tells whether the path begins with the bucket."""
        if host.startswith(f"{self._bucket}.") or (not self._endpoint.path_style and host == self._host):
            return key_in(path[1:])
        bucket, _, rest = path[1:].partition("/")
        if unquote(bucket) != self._bucket or not rest:
            raise SignatureRejected("AccessDenied", "it was signed for another bucket")
        return key_in(rest)

    def _of_id(self, access_key_id: str) -> _Signers:
        signers = self._signers.get(access_key_id)
        if signers is None:
            raise SignatureRejected("InvalidAccessKeyId", "there are no keys for this access key id here")
        return signers


def _grant(found: _Signed, at_store: str, query: Query, signed: Query) -> Authorization:
    if found.expires_s <= time.time():
        raise SignatureRejected("AccessDenied", "Request has expired")
    overrides = {OVERRIDES[name]: value for name, value in query if name in OVERRIDES and value}
    if any(character in value for value in overrides.values() for character in "\r\n\0"):
        raise SignatureRejected("AccessDenied", "a header of the answer with a line break in it")
    rest = tuple(pair for pair in signed if pair[0] not in _OF_THE_SIGNATURE)
    return Authorization(
        found.key,
        found.expires_s,
        at_store,
        rest,
        overrides,
        is_plain=_PLAIN.issuperset(name for name, _ in query),
        by_url_alone=found.by_url_alone,
    )


def _wrong() -> SignatureRejected:
    return SignatureRejected("SignatureDoesNotMatch", "the signature is not the one that the keys make")


def _same(one: str, other: str) -> bool:
    return hmac.compare_digest(one.encode("utf-8", "surrogateescape"), other.encode("utf-8", "surrogateescape"))
