"""Everything that speaks S3; the only place that knows a wire format."""

from .buckets import Buckets
from .client import Store
from .connection import create_resource
from .exchange import Gate
from .lister import Page
from .marks import TAGGING
from .origin import Fetched, Hop, Kept, Origin
from .pool import Timeouts
from .presigned import Grant, Verifier
from .presigned_parts import Denied
from .reading import RECORDED_ETAG, Content, Held, Reading, Source, Written
from .signing import Keys
from .times import http_date_ms
from .url_rules import EVERY_ADDRESS, Place, UrlRules, place_of

__all__ = [
    "EVERY_ADDRESS",
    "RECORDED_ETAG",
    "TAGGING",
    "Buckets",
    "Content",
    "Denied",
    "Fetched",
    "Gate",
    "Grant",
    "Held",
    "Hop",
    "Kept",
    "Keys",
    "Origin",
    "Page",
    "Place",
    "Reading",
    "Source",
    "Store",
    "Timeouts",
    "UrlRules",
    "Verifier",
    "Written",
    "create_resource",
    "http_date_ms",
    "place_of",
]
