"""Verify presigned URLs, versions 2 and 4, as the store itself would.

One bucket; signed with the store's own credentials or with further pairs that may read the bucket here. Sources: S3
user guide, "Signing and authenticating REST requests" (V2), and S3 API reference, "Authenticating requests: using query
parameters" (V4).
"""

from __future__ import annotations

import hmac
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import NamedTuple
from urllib.parse import quote, unquote, unquote_plus, urlsplit

from ...errors import SignatureRejected
from ...model import MAX_KEY_BYTES, Endpoint
from ...s3.address import Address, Query, RequestTarget
from ...s3.signing import SUBRESOURCES, CredentialProvider, Credentials, SignerV2, SignerV4

#: Longest validity of a V4 signature (s), as in S3.
MAX_V4_VALIDITY_S = 7 * 86_400
#: How far a client's clock may be ahead (s), as in S3.
MAX_CLOCK_SKEW_S = 15 * 60
#: Query parameters that replace a header of the response (S3 API reference, "GetObject").
HEADER_OVERRIDES = {
    "response-content-type": "content-type",
    "response-content-encoding": "content-encoding",
    "response-content-disposition": "content-disposition",
    "response-content-language": "content-language",
    "response-cache-control": "cache-control",
    "response-expires": "expires",
}
_V2_PARAMETERS = frozenset(("AWSAccessKeyId", "Signature", "Expires"))
_SIGNATURE_PARAMETERS = _V2_PARAMETERS | frozenset(
    ("X-Amz-Algorithm", "X-Amz-Credential", "X-Amz-Date", "X-Amz-Expires", "X-Amz-SignedHeaders", "X-Amz-Signature")
)
#: Parameters of a plain GET of the current object. botocore adds the last two, which change nothing.
_PLAIN_PARAMETERS = _SIGNATURE_PARAMETERS | HEADER_OVERRIDES.keys() | {"x-id", "x-amz-checksum-mode"}
_V2_SIGNED_HEADERS = ("x-amz-", "content-type", "content-md5")
_AMZ_DATE = re.compile(r"([0-9]{4})([0-9]{2})([0-9]{2})T([0-9]{2})([0-9]{2})([0-9]{2})Z")


@dataclass(frozen=True, slots=True)
class Authorization:
    """What a presigned URL authorizes.

    Attributes:
        expires_s: end of validity (Unix time).
        store_url: URL with the same signature that the store itself accepts; "" if it would not.
        query: signed parameters without those of the signature.
        header_overrides: values that replace the object's headers, by lower-case name.
        is_plain: it is for the current object as a whole, not for a version, a part or an ACL.
        signs_only_url: the signature covers method, URL and host and no other header.
    """

    key: str
    expires_s: float
    store_url: str
    query: Query
    header_overrides: Mapping[str, str]
    is_plain: bool
    signs_only_url: bool


class _Request(NamedTuple):
    """A presigned request. `parameters` is `query` as a mapping; header names are lower-case."""

    method: str
    path: str
    query: Query
    parameters: Mapping[str, str]
    headers: Mapping[str, str]


class _Verified(NamedTuple):
    """Result of a valid signature."""

    key: str
    expires_s: float
    store_accepts: bool
    signs_only_url: bool


class _Signers(NamedTuple):
    """Signers of one pair of credentials. `is_own`: the store's own pair, which the store knows, too."""

    v2: SignerV2
    v4: SignerV4
    is_own: bool


class Verifier:
    """Verifies presigned URLs of one bucket. `readers`: further credentials that may read the bucket here."""

    def __init__(self, endpoint: Endpoint, readers: Sequence[Credentials] = ()) -> None:
        self._endpoint = endpoint
        self._bucket = endpoint.bucket_name
        self._address = Address.of(endpoint)
        self._store_host = self._address.host_header
        self._credential_provider = CredentialProvider(endpoint)
        self._credentials: Credentials | None = None
        self._try_store_host_first = False  # remembers which host was signed last: a wrong guess costs a signature
        self._readers = {pair.access_key_id: self._signers_of(pair, is_own=False) for pair in readers}
        self._signers = self._readers

    def _signers_of(self, credentials: Credentials, *, is_own: bool) -> _Signers:
        pair = Credentials(credentials.access_key_id, credentials.secret_access_key)  # a token is part of the query
        return _Signers(SignerV2(pair), SignerV4(pair, self._endpoint.region), is_own)

    async def verify(self, method: str, target: str, headers: Mapping[str, str]) -> Authorization:
        """Return what a request's signature authorizes.

        `target` is the path and query as sent; names of `headers` are in lower case.

        Raises:
            SignatureRejected: the signature is invalid, expired, or not for this bucket and prefix.
            InvalidCredentials: no credentials are configured or found by boto3.
        """
        try:
            target.encode()  # aiohttp decodes bytes that are not UTF-8 to surrogates
        except UnicodeEncodeError:
            raise SignatureRejected("InvalidURI", "the URL is not UTF-8") from None
        credentials = self._credential_provider.current() or await self._credential_provider.load()
        if credentials is not self._credentials:
            self._credentials = credentials
            own = self._signers_of(credentials, is_own=True)
            self._signers = {**self._readers, credentials.access_key_id: own}
        path, _, raw_query = target.partition("?")
        if not path.startswith("/"):
            path = urlsplit(path).path or "/"
        query = _parse_query(raw_query)
        parameters = {name: value or "" for name, value in query}
        if len(parameters) != len(query):
            raise SignatureRejected("AccessDenied", "a query parameter is repeated")
        is_v4 = "X-Amz-Signature" in parameters
        if headers.get("authorization") and (is_v4 or "Signature" in parameters):
            raise SignatureRejected("InvalidArgument", "use a presigned URL or an Authorization header, not both")
        if is_v4 and not _V2_PARAMETERS.isdisjoint(parameters):
            raise SignatureRejected("InvalidArgument", "use a V2 or a V4 signature, not both")
        request = _Request(method, path, query, parameters, headers)
        verified = self._verify_v4(request) if is_v4 else self._verify_v2(request)
        if not verified.key.startswith(self._endpoint.prefix):
            raise SignatureRejected("AccessDenied", f"only keys under {self._endpoint.prefix} can be read here")
        if verified.expires_s <= time.time():
            raise SignatureRejected("AccessDenied", "Request has expired")
        overrides = {HEADER_OVERRIDES[name]: value for name, value in query if name in HEADER_OVERRIDES and value}
        if any(character in value for value in overrides.values() for character in "\r\n\0"):
            raise SignatureRejected("AccessDenied", "a response header contains a line break")
        # V2 signs known parameters only: what a client has added must not be signed again with our credentials.
        signed = query if is_v4 else [pair for pair in query if pair[0] in SUBRESOURCES]
        return Authorization(
            verified.key,
            verified.expires_s,
            f"{self._address.url}{path}?{raw_query}" if verified.store_accepts else "",
            tuple(pair for pair in signed if pair[0] not in _SIGNATURE_PARAMETERS),
            overrides,
            is_plain=_PLAIN_PARAMETERS.issuperset(parameters),
            signs_only_url=verified.signs_only_url,
        )

    def _verify_v2(self, request: _Request) -> _Verified:
        parameters = request.parameters
        # Query string request authentication alternative
        if not all(parameters.get(name) for name in ("AWSAccessKeyId", "Expires", "Signature")):
            raise SignatureRejected("AccessDenied", "the signature is missing or incomplete")
        signers = self._find_signers(parameters["AWSAccessKeyId"])
        expires = parameters["Expires"]
        if not (expires.isascii() and expires.isdigit() and len(expires) < 15):
            raise SignatureRejected("AccessDenied", "Expires is not a Unix time")
        signature = parameters["Signature"].replace(" ", "+")
        # Constructing the CanonicalizedAmzHeaders element; botocore moves the x-amz- headers into the query
        amz_parameters = {name: value for name, value in parameters.items() if name.startswith("x-amz-")}
        headers = {name: value for name, value in request.headers.items() if name.startswith(_V2_SIGNED_HEADERS)}
        # Constructing the CanonicalizedResource element: the bucket comes from the path or from the host name
        base, path = self._split_path(request.path)
        bucket, _, object_path = path[1:].partition("/")
        styles = [(object_path, True)] if unquote(bucket) == self._bucket and object_path else []
        styles.append((path[1:], False))
        bucket_path = f"/{quote(self._bucket, safe='')}"
        for encoded, path_style in styles:
            for spelling, key in _spellings(encoded):
                resource = f"{base}{bucket_path}/{spelling}" if path_style else f"{bucket_path}{base}/{spelling}"
                target = RequestTarget(request.path, resource, request.query)
                # Request canonicalization for signing
                expected = signers.v2.presigned_signature(
                    request.method, target, {**amz_parameters, **headers}, int(expires), 0
                )
                if str(int(expires)) == expires and _equal(expected, signature):
                    store_accepts = signers.is_own and path_style == self._endpoint.path_style
                    return _Verified(key, float(expires), store_accepts, not headers)
        raise SignatureRejected("SignatureDoesNotMatch", "the signature does not match")

    def _verify_v4(self, request: _Request) -> _Verified:
        parameters, region = request.parameters, self._endpoint.region
        # X-Amz-Algorithm
        if parameters.get("X-Amz-Algorithm") != "AWS4-HMAC-SHA256":
            raise _invalid_parameter("X-Amz-Algorithm is not AWS4-HMAC-SHA256")
        # X-Amz-Credential, X-Amz-Date
        date = parameters.get("X-Amz-Date", "")
        signed_s = _parse_amz_date(date)
        access_key_id, _, scope = parameters.get("X-Amz-Credential", "").partition("/")
        signers = self._find_signers(access_key_id)
        if scope != f"{date[:8]}/{region}/s3/aws4_request":
            raise _invalid_parameter(
                f"the signature's credential scope is wrong: expected {date[:8]}/{region}/s3/aws4_request"
            )
        if signed_s > time.time() + MAX_CLOCK_SKEW_S:
            raise SignatureRejected("AccessDenied", "X-Amz-Date is in the future")
        # X-Amz-Expires
        validity = parameters.get("X-Amz-Expires", "")
        if not (validity.isascii() and validity.isdigit()):
            raise _invalid_parameter("X-Amz-Expires is missing or not a number")
        if not 0 < int(validity[:9]) <= MAX_V4_VALIDITY_S or len(validity) > 9:
            raise _invalid_parameter(f"X-Amz-Expires is not between 1 and {MAX_V4_VALIDITY_S} s")
        # X-Amz-SignedHeaders
        names = parameters.get("X-Amz-SignedHeaders", "").split(";")
        if "host" not in names:
            raise SignatureRejected("AccessDenied", "the Host header is not signed")
        # Calculating a signature: for the cache's host or the store's
        query = tuple(pair for pair in request.query if pair[0] not in _SIGNATURE_PARAMETERS)
        headers = {name: request.headers.get(name, "") for name in names}
        hosts = (request.headers.get("host", ""), self._store_host)
        for host in dict.fromkeys(reversed(hosts) if self._try_store_host_first else hosts):
            for spelling, _ in _spellings(request.path[1:]):
                target = RequestTarget(f"/{spelling}", "", query)
                expected = signers.v4.presigned_signature(
                    request.method, target, {**headers, "host": host}, int(validity), signed_s
                )
                if _equal(expected, parameters["X-Amz-Signature"]):
                    is_store_host = self._try_store_host_first = host == self._store_host
                    store_accepts = signers.is_own and is_store_host
                    key = self._v4_key(request.path, host)
                    return _Verified(key, signed_s + int(validity), store_accepts, names == ["host"])
        raise SignatureRejected("SignatureDoesNotMatch", "the signature does not match")

    def _v4_key(self, path: str, host: str) -> str:
        """Return the key: the signed host decides whether the path begins with the bucket."""
        _, path = self._split_path(path)
        if host.startswith(f"{self._bucket}.") or (not self._endpoint.path_style and host == self._store_host):
            return _decode_key(path[1:])
        bucket, _, object_path = path[1:].partition("/")
        if unquote(bucket) != self._bucket or not object_path:
            raise SignatureRejected("AccessDenied", "the signature is for another bucket")
        return _decode_key(object_path)

    def _split_path(self, path: str) -> tuple[str, str]:
        """Return the path of the store's URL, "" if the path does not begin with it, and the rest."""
        base = self._endpoint.base_path
        return (base, path[len(base) :]) if base and path.startswith(f"{base}/") else ("", path)

    def _find_signers(self, access_key_id: str) -> _Signers:
        if access_key_id not in self._signers:
            raise SignatureRejected("InvalidAccessKeyId", "the access key id is not known here")
        return self._signers[access_key_id]


def _invalid_parameter(message: str) -> SignatureRejected:
    return SignatureRejected("AuthorizationQueryParametersError", message)


def _equal(first: str, second: str) -> bool:
    return hmac.compare_digest(first.encode("utf-8", "surrogateescape"), second.encode("utf-8", "surrogateescape"))


def _parse_query(raw: str) -> Query:
    """Return names and values. "+" is a space, because boto writes it so; every client sends a real plus as %2B."""
    pairs = [part.partition("=") for part in raw.split("&")] if raw else []
    return [(_decode(name), _decode(value) if equals else None) for name, equals, value in pairs]


def _decode(text: str) -> str:
    return unquote_plus(text) if "%" in text or "+" in text else text  # most names and values are plain


def _spellings(encoded: str) -> Iterator[tuple[str, str]]:
    """Yield a path as sent and as S3 encodes it, each with its key: some clients sign the first, some the second."""
    key = _decode_key(encoded)
    for spelling in dict.fromkeys((encoded, quote(key, safe="/"))):
        yield spelling, key


def _decode_key(encoded: str) -> str:
    """Return the key of a percent-encoded path. Raises SignatureRejected if it is not a valid key."""
    try:
        key = unquote(encoded, errors="strict")
    except UnicodeDecodeError:
        raise SignatureRejected("InvalidURI", "the path is not UTF-8") from None
    if not key:
        raise SignatureRejected("AccessDenied", "the path has no key")
    if len(key.encode()) > MAX_KEY_BYTES:
        raise SignatureRejected("KeyTooLongError", f"the key is longer than {MAX_KEY_BYTES} bytes")
    return key


def _parse_amz_date(text: str) -> float:
    """Return the Unix time of an X-Amz-Date. Raises SignatureRejected for an invalid one."""
    match = _AMZ_DATE.fullmatch(text)  # ten times as fast as strptime
    try:
        year, month, day, hour, minute, second = map(int, match.groups() if match else ())
        return datetime(year, month, day, hour, minute, second, tzinfo=timezone.utc).timestamp()
    except ValueError:
        raise SignatureRejected("AuthorizationQueryParametersError", "X-Amz-Date is not a valid time") from None
