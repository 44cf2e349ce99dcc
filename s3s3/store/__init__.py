"""Everything that speaks S3; the only place that knows a wire format."""

from .client import Store
from .connection import create_resource
from .lister import Page
from .pool import Timeouts
from .reading import RECORDED_ETAG, Held, Reading, Written

__all__ = ["RECORDED_ETAG", "Held", "Page", "Reading", "Store", "Timeouts", "Written", "create_resource"]
