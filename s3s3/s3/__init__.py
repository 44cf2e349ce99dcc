"""S3 over HTTP/1.1: the only package that knows S3's wire format."""

from .attributes import TAGGING
from .boto3_bridge import create_resource
from .bucket_admin import BucketAdmin
from .client import Store
from .dates import any_date_ms
from .error_mapping import not_from_store, readable
from .listing import Page
from .objects import (
    RECORDED_ETAG,
    RECORDED_HEADERS,
    WEBSITE_REDIRECT,
    BodyReader,
    ObjectInfo,
    ObjectStream,
    PutResult,
    Source,
    Spool,
    SpooledBody,
    http_date_ms,
)
from .request import Priority, RateLimiter, internal_error
from .signing import Credentials
from .transport.connecting import TlsSettings
from .transport.limits import Timeouts

__all__ = ["RECORDED_ETAG", "RECORDED_HEADERS", "TAGGING", "WEBSITE_REDIRECT", "BodyReader", "BucketAdmin",
           "Credentials", "ObjectInfo", "ObjectStream", "Page", "Priority", "PutResult", "RateLimiter", "Source",
           "Spool", "SpooledBody", "Store", "Timeouts", "TlsSettings", "any_date_ms", "create_resource",
           "http_date_ms", "internal_error", "not_from_store", "readable",
]  # fmt: skip
