"""Everything that speaks S3; the only place that knows a wire format."""

from .attributes import TAGGING
from .boto3_bridge import create_resource
from .bucket_admin import Buckets
from .client import Store
from .listing import Page
from .objects import RECORDED_ETAG, Content, Held, Reading, Source, Written
from .request import Gate
from .signing import Keys
from .timestamps import http_date_ms
from .transport.pool import Timeouts

__all__ = [
    "RECORDED_ETAG",
    "TAGGING",
    "Buckets",
    "Content",
    "Gate",
    "Held",
    "Keys",
    "Page",
    "Reading",
    "Source",
    "Store",
    "Timeouts",
    "Written",
    "create_resource",
    "http_date_ms",
]
