"""Create a bucket and set its lifecycle expiry rule."""

from __future__ import annotations

import hashlib
from base64 import b64encode
from xml.etree import ElementTree

from ..errors import StoreRefused
from ..model import Endpoint
from .address import Query
from .error_mapping import not_from_store
from .request import Request, S3Requester
from .transport.limits import Timeouts

RULE_ID = "s3s3-mirror"
_NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"
_LIFECYCLE: Query = (("lifecycle", None),)


class BucketAdmin:
    """The bucket of one endpoint. All methods raise errors of StoreError's tree."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._requester = S3Requester(endpoint, connections=1, timeouts=Timeouts().for_endpoint(endpoint))

    async def close(self) -> None:
        """Close the connection."""
        await self._requester.close()

    async def create(self) -> bool:
        """Create the bucket. Return False if it exists and can be listed."""
        request = Request("LIST", None, "", (("max-keys", "1"),))
        try:
            root = self._requester.parse(request, await self._requester.call(request))
        except StoreRefused as error:
            if error.code != "NoSuchBucket":
                raise
        else:
            if root.tag != "ListBucketResult":
                message = f"the response is not a listing: it is a {root.tag[:60]!r}"
                raise not_from_store(self._requester.signing_endpoint, "LIST", None, message)
            return False
        body = b""
        if self._endpoint.host is None and self._endpoint.region != "us-east-1":  # only AWS needs the region
            root = ElementTree.Element("CreateBucketConfiguration", xmlns=_NAMESPACE)
            ElementTree.SubElement(root, "LocationConstraint").text = self._endpoint.region
            body = ElementTree.tostring(root)
        await self._put((), body)
        return True

    async def expire_after(self, days: int) -> bool:
        """Set s3s3's lifecycle rule, which deletes objects under the prefix. Return False if it is not supported."""
        try:
            rules = await self._rules()
            if rules is None:
                return False
            rules.append(_rule(self._endpoint.prefix, days))
            root = ElementTree.Element("LifecycleConfiguration", xmlns=_NAMESPACE)
            root.extend(rules)
            await self._put(_LIFECYCLE, ElementTree.tostring(root))
        except StoreRefused as error:
            if error.status == 501 or error.code == "NotImplemented":
                return False
            raise
        return True

    async def _rules(self) -> list[ElementTree.Element] | None:
        """Return all rules but that of s3s3; None if the store has no lifecycle rules (Swift returns a listing)."""
        request = Request("LIST", None, "", _LIFECYCLE)
        try:
            root = self._requester.parse(request, await self._requester.call(request))
        except StoreRefused as error:
            if error.status == 404 and error.code != "NoSuchBucket":
                return []
            raise
        if root.tag != "LifecycleConfiguration":
            return None
        return [rule for rule in root.findall("Rule") if rule.findtext("ID") != RULE_ID]

    async def _put(self, query: Query, body: bytes) -> None:
        md5 = b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()
        await self._requester.call(Request("PUT", None, "", query, {"content-md5": md5}, body, len(body)))


def _rule(prefix: str, days: int) -> ElementTree.Element:
    """Return a rule in the form that AWS and Ceph from 14 accept (S3 API reference, "LifecycleRule")."""
    rule = ElementTree.Element("Rule")
    ElementTree.SubElement(rule, "ID").text = RULE_ID
    ElementTree.SubElement(ElementTree.SubElement(rule, "Filter"), "Prefix").text = prefix
    ElementTree.SubElement(rule, "Status").text = "Enabled"
    ElementTree.SubElement(ElementTree.SubElement(rule, "Expiration"), "Days").text = str(days)
    return rule
