"""Making a bucket, and having its store delete what has had its time."""

from __future__ import annotations

import hashlib
from base64 import b64encode
from xml.etree import ElementTree

from ..errors import StoreRefused
from ..model import Endpoint
from .error_mapping import ERROR_BODY_LIMIT_BYTES
from .keys import Query
from .request import S3Requester, with_retries
from .transport.pool import Timeouts

RULE = "s3s3-mirror"
_NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"
_LIFECYCLE: Query = (("lifecycle", None),)


class BucketAdmin:
    """The bucket of one endpoint. Every method raises errors of `s3s3.errors.StoreError`'s tree."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._exchange = S3Requester(endpoint, connections=1, timeouts=Timeouts())

    async def close(self) -> None:
        """Drop the connection."""
        await self._exchange.close()

    async def make(self) -> bool:
        """Make the bucket; return False where it is there already and may be read."""
        try:
            await self._exchange_once("LIST", query=(("max-keys", "1"),))
        except StoreRefused as error:
            if error.code != "NoSuchBucket":
                raise
        else:
            return False
        await self._put((), _location(self._endpoint))
        return True

    async def expire_after(self, days: int) -> bool:
        """Have the store delete what lies under the prefix after so many days; other rules of the bucket stay.

        Returns:
            False where the store cannot do that.
        """
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
        """Return the bucket's rules but for that of an earlier time; tags without a namespace.

        None where the store knows no such thing: Swift answers with a listing.
        """
        try:
            said = await self._exchange_once("LIST", query=_LIFECYCLE)
        except StoreRefused as error:
            if error.status == 404 and error.code != "NoSuchBucket":
                return []
            raise
        if b"<!" in said:
            raise StoreRefused("the lifecycle rules hold a declaration", store=self._endpoint.name, operation="GET")
        try:
            root = ElementTree.fromstring(said)
        except ElementTree.ParseError as error:
            raise StoreRefused("the lifecycle rules are no XML", store=self._endpoint.name, operation="GET") from error
        for element in root.iter():
            element.tag = element.tag.rpartition("}")[2]
        if root.tag != "LifecycleConfiguration":
            return None
        return [rule for rule in root.findall("Rule") if rule.findtext("ID") != RULE]

    async def _put(self, query: Query, body: bytes) -> None:
        md5 = b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()
        await self._exchange_once("PUT", query=query, headers={"content-md5": md5}, body=body)

    async def _exchange_once(
        self, operation: str, *, query: Query, headers: dict[str, str] | None = None, body: bytes = b""
    ) -> bytes:
        async def attempt() -> bytes:
            answer = await self._exchange.ask(
                operation, None, "", query=query, headers=headers, body=body, size_bytes=len(body)
            )
            return await answer.beginning(ERROR_BODY_LIMIT_BYTES)

        return await with_retries(attempt)


def _location(endpoint: Endpoint) -> bytes:
    """Return the body that makes a bucket in the region; only AWS needs one, and not for its first region."""
    if endpoint.host is not None or endpoint.region == "us-east-1":
        return b""
    root = ElementTree.Element("CreateBucketConfiguration", xmlns=_NAMESPACE)
    ElementTree.SubElement(root, "LocationConstraint").text = endpoint.region
    return ElementTree.tostring(root)


def _rule(prefix: str, days: int) -> ElementTree.Element:
    """Return a rule in the form that AWS, and Ceph from 14 on, take (S3 API reference, "LifecycleRule")."""
    rule = ElementTree.Element("Rule")
    ElementTree.SubElement(rule, "ID").text = RULE
    ElementTree.SubElement(ElementTree.SubElement(rule, "Filter"), "Prefix").text = prefix
    ElementTree.SubElement(rule, "Status").text = "Enabled"
    ElementTree.SubElement(ElementTree.SubElement(rule, "Expiration"), "Days").text = str(days)
    return rule
