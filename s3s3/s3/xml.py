"""Parse XML bodies of stores, with DTDs forbidden."""

from __future__ import annotations

import html
import re
from xml.etree.ElementTree import Element, ParseError, TreeBuilder, fromstring

from defusedxml.common import DTDForbidden

from ..errors import UnexpectedResponse

#: The largest response to a request that transfers no object, and how much is read of an error response.
RESULT_LIMIT_BYTES = 64 * 1024

#: Parsed at a time.
_FED_CHARACTERS = 64 * 1024


def parse(text: str) -> Element:
    """Return the root element, with the namespace removed from all tags.

    The text has already been decoded, so an encoding in the XML declaration is ignored: expat would look up a codec by
    a name that the store chose, and fails in a different way for each kind of codec.

    Raises UnexpectedResponse for text that is not XML or has a DTD. The caller limits its size.
    """
    from defusedxml.ElementTree import DefusedXMLParser  # noqa: PLC0415  takes 20 ms, and most processes parse no XML

    parser = DefusedXMLParser(target=TreeBuilder(), encoding="utf-8", forbid_dtd=True)
    try:
        start, size, parsed_bytes = 0, _FED_CHARACTERS, -1
        while start < len(text):  # in between, other threads run: expat keeps the GIL
            parser.feed(text[start : start + size].encode())
            start += size
            # Expat before 2.6 reads a token that is not complete again from its start: quadratic time without doubling.
            before_bytes, parsed_bytes = parsed_bytes, parser.parser.CurrentByteIndex
            size = _FED_CHARACTERS if parsed_bytes > before_bytes else 2 * size
        root: Element = parser.close()
    except DTDForbidden as error:
        raise UnexpectedResponse("the XML of the response has a DTD, which s3s3 does not accept") from error
    except (SyntaxError, ValueError) as error:  # of defusedxml's ParseError; an unpaired surrogate
        raise UnexpectedResponse(f"the response is not XML: {error}") from error
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
    return root


def parse_result(body: bytes) -> Element:
    """Return the root element of a response's body. Raises UnexpectedResponse, also for other encodings than UTF-8."""
    if len(body) > RESULT_LIMIT_BYTES:
        raise UnexpectedResponse(f"the response has more than {RESULT_LIMIT_BYTES} bytes of XML")
    try:
        return parse(body.decode())
    except UnicodeDecodeError as error:
        raise UnexpectedResponse(f"the response is not UTF-8: {error.reason}") from error


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


def unescape_html(text: str) -> str:
    """Return a text with HTML's references replaced, or unchanged if one of them has too many digits for `int`."""
    try:
        return html.unescape(text)
    except ValueError:
        return text


def text_of_html(page: str) -> str:
    """Return the text of an HTML page, without tags, comments, scripts and styles.

    One pass from left to right: a regular expression, and html.parser of several Python versions, take quadratic time
    for pages such as a series of "<".
    """
    folded = page.lower()
    if len(folded) != len(page):  # the lower case of some letters has two characters
        folded = page
    texts: list[str] = []
    at = 0
    while (start := page.find("<", at)) >= 0 and len(texts) < _MAX_TEXTS:
        texts.append(page[at:start])
        end_mark = next((mark for opening, mark in _SKIPPED if folded.startswith(opening, start)), ">")
        end = folded.find(end_mark, start + 1)
        if end < 0:
            at = start
            break
        at = end if end_mark.startswith("</") else end + len(end_mark)
    return unescape_html(" ".join([*texts, page[at:]]))


#: How many pieces of text are read of a page.
_MAX_TEXTS = 1000

#: Start and end marks of the elements whose content is not text.
_SKIPPED = (("<!--", "-->"), ("<script", "</script"), ("<style", "</style"))


def etag_in_body(body: bytes) -> str:
    """Return the ETag of a CopyObjectResult or CompleteMultipartUploadResult, without quotes; "" if there is none.

    Ceph (16) leaves it empty in the latter.
    """
    found = re.search(rb"<ETag>([^<]{0,1000})</ETag>", body)
    return unescape_html(found[1].decode("utf-8", "replace")).strip().strip('"') if found else ""
