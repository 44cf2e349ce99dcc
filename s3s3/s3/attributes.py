"""Object tags and ACLs.

They are read at the source and requested by headers of the PUT at the destination. So the object gets them in one
step; a separate PUT for each could fail after the object is there.
"""

from __future__ import annotations

import hashlib
from base64 import b64encode
from collections.abc import Mapping
from urllib.parse import parse_qsl, quote, urlencode
from xml.etree.ElementTree import Element
from xml.sax.saxutils import escape

from ..errors import NoSuchKey, StoreRefused
from .error_mapping import not_from_store
from .objects import has_store_header
from .request import KeyMapper, LeaseCheck, Priority, Request, S3Requester

TAGGING = "x-amz-tagging"

#: Statuses of a store that has no tags or no ACLs.
NOT_SUPPORTED = (405, 501)

_GROUPS = "http://acs.amazonaws.com/groups/global/"

#: ACLs that grant rights to groups only, besides full control to the owner (S3 user guide, "Canned ACL").
_CANNED_ACLS = {
    frozenset(): None,
    frozenset({("uri", f"{_GROUPS}AllUsers", "READ")}): "public-read",
    frozenset({("uri", f"{_GROUPS}AllUsers", "READ"), ("uri", f"{_GROUPS}AllUsers", "WRITE")}): "public-read-write",
    frozenset({("uri", f"{_GROUPS}AuthenticatedUsers", "READ")}): "authenticated-read",
}

#: S3 API reference, "PutObject". WRITE has no meaning for an object, and no header.
_GRANT_HEADERS = {
    "READ": "x-amz-grant-read",
    "READ_ACP": "x-amz-grant-read-acp",
    "WRITE_ACP": "x-amz-grant-write-acp",
    "FULL_CONTROL": "x-amz-grant-full-control",
}

#: The kind of a grantee's identifier (id, uri, emailAddress), the identifier, and the permission.
Grant = tuple[str, str, str]


class ObjectAttributes:
    """The tags and ACLs of one endpoint's objects. Keys and errors are as for `Store`."""

    def __init__(self, requester: S3Requester, mapper: KeyMapper) -> None:
        self._requester = requester
        self._mapper = mapper

    async def tags(self, key: str) -> dict[str, str]:
        """Return the header that sets an object's tags; {} if it has none or is missing, or the store has no tags."""
        root = await self._get(key, "tagging", "Tagging")
        tags = [] if root is None else list(root.iter("Tag"))
        pairs = [(tag.findtext("Key") or "", tag.findtext("Value") or "") for tag in tags]
        return {TAGGING: urlencode(pairs, quote_via=quote)} if pairs else {}

    async def acl(self, key: str) -> dict[str, str]:
        """Return the headers that set an object's ACL; {} if it is private or missing, or the store has no ACLs."""
        root = await self._get(key, "acl", "AccessControlPolicy")
        if root is None:
            return {}
        owner = root.findtext("Owner/ID") or ""
        grants: list[Grant] = []
        for grant in root.iter("Grant"):
            for kind, element in (("id", "ID"), ("uri", "URI"), ("emailAddress", "EmailAddress")):
                if grantee := grant.findtext(f"Grantee/{element}"):
                    if '"' in grantee:  # in a header it would begin another grant
                        message = f"the ACL has the grantee {grantee[:100]!r}"
                        raise StoreRefused(message, store=self._requester.endpoint.name, operation="GET", key=key)
                    grants.append((kind, grantee, grant.findtext("Permission") or ""))
                    break
            else:
                grants.append(("", "", ""))
        not_owners = frozenset(grant for grant in grants if grant != ("id", owner, "FULL_CONTROL"))
        if not_owners in _CANNED_ACLS:
            canned = _CANNED_ACLS[not_owners]
            return {"x-amz-acl": canned} if canned else {}
        headers: dict[str, str] = {}
        for kind, grantee, permission in grants:
            if kind and (header := _GRANT_HEADERS.get(permission)):
                before = f"{headers[header]}, " if header in headers else ""
                headers[header] = f'{before}{kind}="{grantee}"'
        return headers

    async def put_tags(self, key: str, tags: Mapping[str, str], *, check_lease: LeaseCheck) -> None:
        """Set the tags (a result of `tags`) of a multipart object: Ceph (16) ignores the header for those.

        A response that does not show that an S3 store sent it counts if the object has these tags.
        """
        pairs = parse_qsl(tags[TAGGING], keep_blank_values=True)
        inner = "".join(f"<Tag><Key>{escape(name)}</Key><Value>{escape(value)}</Value></Tag>" for name, value in pairs)
        body = f"<Tagging><TagSet>{inner}</TagSet></Tagging>".encode()
        headers = {"content-md5": b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()}
        encoded_key = self._mapper.encoded_key(key)
        request = Request("PUT", key, encoded_key, [("tagging", None)], headers, body, len(body))
        response = await self._requester.call(request, check_lease=check_lease, priority=Priority.STARTED)
        if response.status != 202 and not response.content and has_store_header(response.headers):
            return
        stored = parse_qsl((await self.tags(key)).get(TAGGING, ""), keep_blank_values=True)
        if sorted(stored) != sorted(pairs):
            raise not_from_store(self._requester.endpoint, "PUT", key, "answered without storing the tags")

    async def _get(self, key: str, subresource: str, tag: str) -> Element | None:
        request = Request("GET", key, self._mapper.encoded_key(key), [(subresource, None)])
        try:
            root = self._requester.parse(request, await self._requester.call(request, priority=Priority.STARTED))
        except NoSuchKey:
            return None  # the GET of the content reports it
        except StoreRefused as error:
            if error.status in NOT_SUPPORTED:
                return None
            raise
        if root.tag != tag:
            raise not_from_store(self._requester.endpoint, "GET", key, f"the response is not a {tag}")
        return root
