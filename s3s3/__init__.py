"""Copies named objects from one S3-compatible store to others, verified.

The public names are in `s3s3.api`, `s3s3.client` and `s3s3.config`.
"""

__version__ = "0.1.0"
