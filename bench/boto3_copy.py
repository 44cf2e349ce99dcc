"""Copy with boto3: list, then GET and PUT in a thread pool. ENDPOINT SOURCE DESTINATION put_object|s3transfer."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor

import boto3
from boto3.s3.transfer import TransferConfig
from botocore.config import Config

THREADS = 16
#: One PUT per object, as the other programs send it; s3transfer would send parts from 8 MiB on.
ONE_PUT = TransferConfig(multipart_threshold=5 * 1024**3)


def main() -> None:
    """Copy every object of one bucket to another."""
    endpoint, source, destination, way = sys.argv[1:]
    # Checksums that Ceph and Swift accept; otherwise the defaults.
    settings = Config(
        max_pool_connections=THREADS,
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    client = boto3.client("s3", endpoint_url=endpoint, config=settings)

    def copy(key: str) -> None:
        read = client.get_object(Bucket=source, Key=key)
        if way == "s3transfer":
            extra = {"ContentType": read["ContentType"]}
            client.upload_fileobj(read["Body"], destination, key, ExtraArgs=extra, Config=ONE_PUT)
        else:
            client.put_object(Bucket=destination, Key=key, Body=read["Body"].read(), ContentType=read["ContentType"])

    pages = client.get_paginator("list_objects_v2").paginate(Bucket=source)
    keys = [entry["Key"] for page in pages for entry in page.get("Contents", [])]
    with ThreadPoolExecutor(THREADS) as pool:
        for _ in pool.map(copy, keys):
            pass


if __name__ == "__main__":
    main()
