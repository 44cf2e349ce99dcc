"""Everything that speaks S3; the only place that knows a wire format."""

from .buckets import Buckets
from .client import Store
from .connection import create_resource
from .exchange import Gate
from .lister import Page
from .marks import TAGGING
from .origin import Fetched, Hop, Kept, Origin
from .pool import Timeouts
from .reading import RECORDED_ETAG, Content, Held, Reading, Source, Written
from .url_rules import EVERY_ADDRESS, Place, UrlRules, place_of

__all__ = [
    "EVERY_ADDRESS",
    "RECORDED_ETAG",
    "TAGGING",
    "Buckets",
    "Content",
    "Fetched",
    "Gate",
    "Held",
    "Hop",
    "Kept",
    "Origin",
    "Page",
    "Place",
    "Reading",
    "Source",
    "Store",
    "Timeouts",
    "UrlRules",
    "Written",
    "create_resource",
    "place_of",
]
