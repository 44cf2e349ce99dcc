"""An object's tags and ACL: read at one store, and asked for at another by the headers of a PUT.

So they come with the object in one step; a PUT of its own for each could fail after the object is there already.
"""

from __future__ import annotations

import hashlib
from base64 import b64encode
from collections.abc import Mapping, Sequence
from urllib.parse import parse_qsl, quote, urlencode
from xml.etree.ElementTree import Element
from xml.sax.saxutils import escape

from ..errors import NoSuchKey, StoreRefused
from .error_mapping import read_xml
from .keys import KeyMapper
from .request import LeaseCheck, S3Requester, with_retries

TAGGING = "x-amz-tagging"
NOT_OFFERED = (405, 501)

_GROUPS = "http://acs.amazonaws.com/groups/global/"
_CANNED = {
    frozenset(): None,
    frozenset({("uri", f"{_GROUPS}AllUsers", "READ")}): "public-read",
    frozenset({("uri", f"{_GROUPS}AllUsers", "READ"), ("uri", f"{_GROUPS}AllUsers", "WRITE")}): "public-read-write",
    frozenset({("uri", f"{_GROUPS}AuthenticatedUsers", "READ")}): "authenticated-read",
}
"""ACLs that need nobody's id: S3 user guide, "Canned ACL". The owner has full control with each of them."""

_GRANT_HEADERS = {
    "READ": "x-amz-grant-read",
    "READ_ACP": "x-amz-grant-read-acp",
    "WRITE_ACP": "x-amz-grant-write-acp",
    "FULL_CONTROL": "x-amz-grant-full-control",
}
"""S3 API reference, "PutObject". To WRITE an object means nothing, and there is no header for it."""

Grant = tuple[str, str, str]
"""What the grantee is named by (id, uri, emailAddress), that, and the permission."""


class ObjectAttributes:
    """The tags and ACLs of one endpoint's objects. Keys and errors are as for `Store`."""

    def __init__(self, exchange: S3Requester, names: KeyMapper) -> None:
        self._exchange = exchange
        self._names = names

    async def tags(self, key: str) -> dict[str, str]:
        """Return what asks for this object's tags; {} where it has none, is gone, or the store has no tags."""
        root = await self._ask(key, "tagging")
        tags = [] if root is None else list(root.iter("Tag"))
        pairs = [(tag.findtext("Key") or "", tag.findtext("Value") or "") for tag in tags]
        return {TAGGING: urlencode(pairs, quote_via=quote)} if pairs else {}

    async def acl(self, key: str) -> dict[str, str]:
        """Return what asks for this object's ACL; {} where it is private, gone, or the store has no ACLs."""
        root = await self._ask(key, "acl")
        if root is None:
            return {}
        owner = root.findtext("Owner/ID") or ""
        grants = [_grant(grant) for grant in root.iter("Grant")]
        others = frozenset(grant for grant in grants if grant != ("id", owner, "FULL_CONTROL"))
        if others in _CANNED:
            canned = _CANNED[others]
            return {"x-amz-acl": canned} if canned else {}
        return _grant_headers(grants)

    async def put_tags(self, key: str, tags: Mapping[str, str], *, check_lease: LeaseCheck) -> None:
        """Give an object tags (as `tags` returned them). For objects of parts: Ceph (16) heeds no header then."""
        pairs = parse_qsl(tags[TAGGING], keep_blank_values=True)
        inner = "".join(f"<Tag><Key>{escape(name)}</Key><Value>{escape(value)}</Value></Tag>" for name, value in pairs)
        body = f"<Tagging><TagSet>{inner}</TagSet></Tagging>".encode()
        md5 = b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()
        endpoint_key = self._names.held(key)

        async def attempt() -> None:
            answer = await self._exchange.ask(
                "PUT", key, endpoint_key, query=[("tagging", None)], headers={"content-md5": md5}, body=body,
                size_bytes=len(body), check_lease=check_lease,
            )  # fmt: skip
            await self._exchange.read_result("PUT", key, answer)

        await with_retries(attempt)

    async def _ask(self, key: str, about: str) -> Element | None:
        endpoint_key = self._names.held(key)

        async def attempt() -> bytes:
            answer = await self._exchange.ask("GET", key, endpoint_key, query=[(about, None)])
            return await self._exchange.read_result("GET", key, answer)

        try:
            return read_xml(await with_retries(attempt))
        except NoSuchKey:
            return None  # whoever reads the content is told so, too, or will be the next time
        except StoreRefused as error:
            if error.status in NOT_OFFERED:
                return None
            raise


def _grant(grant: Element) -> Grant:
    for name, element in (("id", "ID"), ("uri", "URI"), ("emailAddress", "EmailAddress")):
        if named := grant.findtext(f"Grantee/{element}"):
            return name, named, grant.findtext("Permission") or ""
    return "", "", ""


def _grant_headers(grants: Sequence[Grant]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for name, named, permission in grants:
        if name and (header := _GRANT_HEADERS.get(permission)):
            before = f"{headers[header]}, " if header in headers else ""
            headers[header] = f'{before}{name}="{named}"'
    return headers
