"""Objects as people have them, and an independent judge of what became of them."""

from __future__ import annotations

import hashlib
import os
import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

    from s3s3.scripts.demo.servers import StoreServer

KIB, MIB = 1024, 1024 * 1024

ODD_KEYS = [
    "new\nline",
    "tab\there",
    "carriage\rreturn",
    "plus+plus",
    "per%cent",
    "per%2Bcent",
    "double//slash",
    "/leading",
    "trailing/",
    "../up/../and/../up",
    "./here",
    "..",
    "emoji-\U0001f4f7",
    "xml-illegal-\x01\x1f",
    "a b  c ",
    "a=b&c=d",
    "what?",
    "hash#",
    "semi;colon",
    "quote\"'",
    "<angle>&amp;",
    "back\\slash",
    "caf\u00e9",
    "cafe\u0301",
    "\u65e5\u672c\u8a9e",
    "star*[x]?{y}",
    "~tilde",
    "a:b@c!$'(),",
    "k" * 1024,
    "\U0001f4f7" * 256,
    "{default}",
    "backup=>x",
    " ",
    "+",
    "%",
    "&",
]


@dataclass(frozen=True)
class Thing:
    """An object to be: its content follows from seed and size."""

    key: str
    size_bytes: int
    seed: int
    headers: dict[str, Any] = field(default_factory=dict)

    def content(self) -> bytes:
        block = random.Random(self.seed).randbytes(min(self.size_bytes, MIB))
        blocks = (number.to_bytes(8, "big") + block[8:] for number in range(1, self.size_bytes // MIB))
        whole = block + b"".join(blocks)
        return whole + block[: self.size_bytes - len(whole)]


def things(count: int, biggest_bytes: int) -> list[Thing]:
    """Odd keys, all sizes, and metadata on every third."""
    chance = random.Random(count)
    sizes = [0, 1, 4095, 4 * KIB, 64 * KIB, MIB, 4 * MIB, 4 * MIB + 1, 17 * MIB, biggest_bytes]
    keys = ODD_KEYS + [f"dir-{number % 37}/object {number}" for number in range(count - len(ODD_KEYS))]
    made = []
    for number, key in enumerate(keys):
        size_bytes = sizes[number] if number < len(sizes) else chance.choice([0, 1, 100, 4 * KIB, 9999])
        headers: dict[str, Any] = {}
        if number % 3 == 0:
            headers = {
                "ContentType": "image/x-fits; charset=utf-8",
                "CacheControl": "max-age=60",
                "ContentDisposition": 'attachment; filename="x.fits"',
                "ContentLanguage": "de-CH",
                "Metadata": {"camera-name": "LSST cam", "run": str(number), "x-y-z": 'a, b; c="d"'},
            }
            if number % 2:
                headers["ContentEncoding"] = "gzip"
        made.append(Thing(key, size_bytes, number, headers))
    return made


def put(client: S3Client, bucket: str, wanted: list[Thing]) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda t: client.put_object(Bucket=bucket, Key=t.key, Body=t.content(), **t.headers), wanted))


def keys_of(client: S3Client, bucket: str) -> set[str]:
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
    return {entry["Key"] for page in pages for entry in page.get("Contents", [])}


def differences(client: S3Client, bucket: str, wanted: list[Thing]) -> list[str]:
    """What an independent client finds wrong with a bucket that is to hold exactly these things."""
    there = keys_of(client, bucket)
    wrong = [f"missing: {thing.key!r}" for thing in wanted if thing.key not in there]
    wrong += [f"should not be there: {key!r}" for key in there - {thing.key for thing in wanted}]
    return wrong + content_differences(client, bucket, [thing for thing in wanted if thing.key in there])


def content_differences(client: S3Client, bucket: str, wanted: list[Thing]) -> list[str]:
    """What is wrong with content and metadata of these."""
    with ThreadPoolExecutor(8) as pool:
        return [line for line in pool.map(lambda thing: _difference(client, bucket, thing), wanted) if line]


def _difference(client: S3Client, bucket: str, thing: Thing) -> str:
    answer = client.get_object(Bucket=bucket, Key=thing.key)
    md5 = hashlib.md5(usedforsecurity=False)
    for chunk in answer["Body"].iter_chunks(MIB):
        md5.update(chunk)
    if md5.digest() != hashlib.md5(thing.content(), usedforsecurity=False).digest():
        return f"other content: {thing.key!r}"
    for name, value in thing.headers.items():
        if answer.get(name) != value:
            return f"{name} of {thing.key!r} is {answer.get(name)!r}"
    recorded = [name for name in answer["Metadata"] if name.startswith("s3s3")]
    return f"an unneeded record: {thing.key!r}" if recorded else ""


def file_in_swift(swift: StoreServer, bucket: str, key: str) -> Path:
    """Return the file in which a Swift of the tests keeps an object. Its extended attributes have the object's name."""
    name = f"/{bucket}/{key}".encode()
    [file] = (path for path in swift.folder.rglob("*.data") if name in os.getxattr(path, "user.swift.metadata"))
    return file
