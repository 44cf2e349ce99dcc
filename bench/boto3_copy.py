"""Copy with boto3: list, then GET and PUT in a thread pool. ENDPOINT SOURCE DESTINATION."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor

import boto3
from botocore.config import Config

THREADS = 16


def main() -> None:
    """Copy every object of one bucket to another."""
    endpoint, source, destination = sys.argv[1:]
    # Checksums that Ceph and Swift accept; otherwise the defaults.
    settings = Config(
        max_pool_connections=THREADS,
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    client = boto3.client("s3", endpoint_url=endpoint, config=settings)

    def copy(key: str) -> None:
        read = client.get_object(Bucket=source, Key=key)
        client.put_object(Bucket=destination, Key=key, Body=read["Body"].read(), ContentType=read["ContentType"])

    pages = client.get_paginator("list_objects_v2").paginate(Bucket=source)
    keys = [entry["Key"] for page in pages for entry in page.get("Contents", [])]
    with ThreadPoolExecutor(THREADS) as pool:
        for _ in pool.map(copy, keys):
            pass


if __name__ == "__main__":
    main()
