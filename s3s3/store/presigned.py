"""Presigned URLs from the other side: whether who asks with one may have the object.

What the store itself would refuse is refused here: for one bucket, with its one pair of keys, V2 and V4 alike (S3 user
guide, "Query string request authentication alternative", and "Using query parameters").
"""

from __future__ import annotations

import hmac
import time
from calendar import timegm
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import quote, unquote, unquote_plus, urlsplit

from ..errors import S3S3Error
from ..model import KEY_LIMIT_BYTES, Endpoint
from .connection import KeySource, address_of
from .names import Query
from .signing import Keys, SignerV2, SignerV4, Target

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
_OF_THE_SIGNATURE = frozenset(
    ("AWSAccessKeyId", "Signature", "Expires", "X-Amz-Algorithm", "X-Amz-Credential", "X-Amz-Date", "X-Amz-Expires",
     "X-Amz-SignedHeaders", "X-Amz-Signature")
)  # fmt: skip
_PLAIN = _OF_THE_SIGNATURE | OVERRIDES.keys() | {"x-id", "x-amz-checksum-mode"}
"""What a query may hold that is about the object as it is now. The last two are botocore's, and change nothing."""


class Denied(S3S3Error):
    """The signature gives no right to the object. `code` is S3's name for why."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Grant:
    """What a presigned URL gives the right to.

    Attributes:
        key: in the bucket.
        expires_s: until when (Unix time).
        at_store: the URL at which the same signature is good at the store itself; "" where it is not.
        rest: of the query, but for the signature.
        overrides: headers to be said in place of the object's own, lower-case names.
        is_plain: it is about the object itself as it is now, and not about a version, a part or an ACL of it.
    """

    key: str
    expires_s: float
    at_store: str
    rest: Query
    overrides: Mapping[str, str]
    is_plain: bool


class Verifier:
    """Verifies presigned URLs of one bucket."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._bucket = endpoint.bucket_name
        self._address = address_of(endpoint)
        self._host = self._address.host_header
        self._key_source = KeySource(endpoint)
        self._keys: Keys | None = None

    async def grant(self, method: str, target: str, headers: Mapping[str, str]) -> Grant:
        """Return what a request has the right to.

        Args:
            target: path and query as they were sent.
            headers: as they were sent, with lower-case names.

        Raises:
            Denied: nothing.
            AccessDenied: there are no keys to verify with.
        """
        keys = self._key_source.at_hand() or await self._key_source.keys()
        if keys is not self._keys:
            self._keys = keys
            only = Keys(keys.access_key_id, keys.secret_access_key)  # a token stands in the query
            self._v2, self._v4 = SignerV2(only), SignerV4(only, self._endpoint.region)
        path, _, raw_query = target.partition("?")
        if not path.startswith("/"):
            path = urlsplit(path).path or "/"
        query = _query(raw_query)
        said = {name: value or "" for name, value in query}
        if len(said) != len(query):
            raise Denied("AccessDenied", "a query that says something twice")
        verify = self._by_v4 if "X-Amz-Signature" in said else self._by_v2
        key, expires_s, is_good_there = verify(method, path, query, said, headers)
        if not key.startswith(self._endpoint.prefix):
            raise Denied("AccessDenied", f"only keys under {self._endpoint.prefix} are to be had here")
        at_store = f"{self._address.url}{path}?{raw_query}" if is_good_there else ""
        return _grant(key, expires_s, at_store, query)

    # -- V2

    def _by_v2(
        self, method: str, path: str, query: Query, said: Mapping[str, str], headers: Mapping[str, str]
    ) -> tuple[str, float, bool]:
        if not all(said.get(name) for name in ("AWSAccessKeyId", "Expires", "Signature")):
            raise Denied("AccessDenied", "there is no signature, or a part of it is missing")
        self._check_id(said["AWSAccessKeyId"])
        expires = said["Expires"]
        if not (expires.isascii() and expires.isdigit() and len(expires) < 15):
            raise Denied("AccessDenied", "Expires is no time")
        signature = said["Signature"].replace(" ", "+")
        signed = {name: value for name, value in headers.items() if name in ("content-type", "content-md5")}
        for sent in (said, headers):  # botocore puts the headers that it signs into the query
            signed.update({name: value for name, value in sent.items() if name.startswith("x-amz-")})
        for spelt, key, path_style in self._meanings(path):
            resource = f"/{quote(self._bucket, safe='')}/{spelt}"
            right = self._v2.presigned_signature(method, Target(path, resource, query), signed, int(expires), 0)
            if str(int(expires)) == expires and _same(right, signature):
                return key, float(expires), path_style == self._endpoint.path_style
        raise _wrong()

    def _meanings(self, path: str) -> Iterator[tuple[str, str, bool]]:
        """Yield what may stand after the bucket in what was signed, the key then, and whether that is path style."""
        bucket, _, rest = path[1:].partition("/")
        for sent in [rest] if unquote(bucket) == self._bucket and rest else []:
            yield from ((*spelling, True) for spelling in _spellings(sent))
        yield from ((*spelling, False) for spelling in _spellings(path[1:]))

    # -- V4

    def _by_v4(
        self, method: str, path: str, query: Query, said: Mapping[str, str], headers: Mapping[str, str]
    ) -> tuple[str, float, bool]:
        signed_s, lasts_s = _v4_time_s(said.get("X-Amz-Date", "")), said.get("X-Amz-Expires", "")
        access_key_id, _, scope = said.get("X-Amz-Credential", "").partition("/")
        self._check_id(access_key_id)
        if said.get("X-Amz-Algorithm") != "AWS4-HMAC-SHA256" or not (lasts_s.isascii() and lasts_s.isdigit()):
            raise Denied("AuthorizationQueryParametersError", "a part of the V4 signature is missing or is none")
        if not 0 < int(lasts_s[:9]) <= LONGEST_V4_S or len(lasts_s) > 9:
            raise Denied("AuthorizationQueryParametersError", "X-Amz-Expires is a week at most")
        if scope != f"{said['X-Amz-Date'][:8]}/{self._endpoint.region}/s3/aws4_request":
            raise Denied("AuthorizationQueryParametersError",
                         f"the credential is not for today's S3 in the region {self._endpoint.region}")  # fmt: skip
        if signed_s > time.time() + CLOCKS_DIFFER_S:
            raise Denied("AccessDenied", "it was signed in the future")
        names = said.get("X-Amz-SignedHeaders", "").split(";")
        if "host" not in names:
            raise Denied("AccessDenied", "the host is not signed")
        rest = tuple(pair for pair in query if pair[0] not in _OF_THE_SIGNATURE)
        signed = {name: headers.get(name, "") for name in names}
        for host in dict.fromkeys((headers.get("host", ""), self._host)):
            for sent, _ in _spellings(path[1:]):
                target = Target(f"/{sent}", "", rest)
                right = self._v4.presigned_signature(method, target, {**signed, "host": host}, int(lasts_s), signed_s)
                if _same(right, said["X-Amz-Signature"]):
                    return self._v4_key(path, host), signed_s + int(lasts_s), host == self._host
        raise _wrong()

    def _v4_key(self, path: str, host: str) -> str:
        """Return the key: the host that was signed tells whether the path begins with the bucket."""
        if host.startswith(f"{self._bucket}.") or (not self._endpoint.path_style and host == self._host):
            return _key(path[1:])
        bucket, _, rest = path[1:].partition("/")
        if unquote(bucket) != self._bucket or not rest:
            raise Denied("AccessDenied", "it was signed for another bucket")
        return _key(rest)

    def _check_id(self, access_key_id: str) -> None:
        assert self._keys is not None
        if not _same(access_key_id, self._keys.access_key_id):
            raise Denied("InvalidAccessKeyId", "there are no keys for this access key id here")


def _grant(key: str, expires_s: float, at_store: str, query: Query) -> Grant:
    if expires_s <= time.time():
        raise Denied("AccessDenied", "Request has expired")
    overrides = {OVERRIDES[name]: value for name, value in query if name in OVERRIDES and value}
    if any(character in value for value in overrides.values() for character in "\r\n\0"):
        raise Denied("AccessDenied", "a header of the answer with a line break in it")
    rest = tuple(pair for pair in query if pair[0] not in _OF_THE_SIGNATURE)
    return Grant(key, expires_s, at_store, rest, overrides, is_plain=_PLAIN.issuperset(name for name, _ in query))


def _wrong() -> Denied:
    return Denied("SignatureDoesNotMatch", "the signature is not the one that the keys make")


def _same(one: str, other: str) -> bool:
    return hmac.compare_digest(one.encode("utf-8", "surrogateescape"), other.encode("utf-8", "surrogateescape"))


def _query(raw: str) -> Query:
    """Take a query apart. boto writes a space as "+"; where "+" itself is meant, everybody writes %2B."""
    found: list[tuple[str, str | None]] = []
    for part in raw.split("&") if raw else []:
        name, equals, value = part.partition("=")
        found.append((unquote_plus(name), unquote_plus(value) if equals else None))
    return found


def _spellings(sent: str) -> Iterator[tuple[str, str]]:
    """Yield a path as it was sent and as S3 would encode it, each with the key: clients sign the one or the other."""
    key = _key(sent)
    for spelling in dict.fromkeys((sent, quote(key, safe="/"))):
        yield spelling, key


def _key(encoded: str) -> str:
    try:
        key = unquote(encoded, errors="strict")
    except UnicodeDecodeError:
        raise Denied("InvalidURI", "the path is not UTF-8") from None
    if not key or len(key.encode("utf-8", "surrogatepass")) > KEY_LIMIT_BYTES:
        raise Denied("KeyTooLongError" if key else "AccessDenied", "the path names no object")
    return key


def _v4_time_s(text: str) -> float:
    try:
        return timegm(time.strptime(text, "%Y%m%dT%H%M%SZ"))
    except ValueError:
        raise Denied("AuthorizationQueryParametersError", "X-Amz-Date is no time") from None
