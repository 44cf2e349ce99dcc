"""Parse XML bodies of stores, with DTDs forbidden."""

from __future__ import annotations

import html
import re
from xml.etree.ElementTree import Element, ParseError, TreeBuilder, fromstring

from defusedxml.common import DTDForbidden

from ..errors import UnexpectedResponse


def parse(body: bytes, limit_bytes: int) -> Element:
    """Return the root element, with the namespace removed from all tags.

    Raises UnexpectedResponse for a body that is not XML, has a DTD, in any encoding, or has more than `limit_bytes`.
    """
    from defusedxml.ElementTree import DefusedXMLParser  # noqa: PLC0415  takes 20 ms, and most processes parse no XML

    if len(body) > limit_bytes:
        raise UnexpectedResponse(f"the response has more than {limit_bytes} bytes of XML")
    parser = DefusedXMLParser(target=TreeBuilder(), forbid_dtd=True)
    try:
        parser.feed(body)
        root: Element = parser.close()
    except DTDForbidden as error:
        raise UnexpectedResponse("the XML of the response has a DTD, which s3s3 does not accept") from error
    except (SyntaxError, ValueError, LookupError) as error:  # of defusedxml's ParseError; an unknown encoding
        raise UnexpectedResponse(f"the response is not XML: {error}") from error
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
    return root


def unescape(text: str) -> str:
    """Return text that contains no "<", with references such as `&amp;` and `&#10;` replaced.

    Raises UnexpectedResponse.
    """
    if "&" not in text:
        return text
    try:
        return fromstring(f"<t>{text}</t>").text or ""
    except ParseError as error:
        raise UnexpectedResponse(f"the response is not XML: {error}") from error


def etag_in_body(body: bytes) -> str:
    """Return the ETag of a CopyObjectResult or CompleteMultipartUploadResult, without quotes; "" if there is none.

    Ceph (16) leaves it empty in the latter.
    """
    found = re.search(rb"<ETag>([^<]*)</ETag>", body)
    return html.unescape(found[1].decode("utf-8", "replace")).strip().strip('"') if found else ""
