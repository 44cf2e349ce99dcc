"""Replicates objects from one S3-compatible store to others, and verifies every copy.

Public modules: `s3s3.api`, `s3s3.client` and `s3s3.config`.
"""

__version__ = "1.0.0"
