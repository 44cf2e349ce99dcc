"""Every table and key of the configuration file, declared once.

From this come the checks (`s3s3.config.toml_file`), the template (`s3s3.scripts.templates`) and the reference.
"""

from __future__ import annotations

from dataclasses import replace

from ..model import KEY_LIMIT_BYTES, PART_AT_LEAST_BYTES
from .schema_types import Key, Kind, Table, WhenAbsent

STORE_KEY = "store"
"""The key by which a table shares the keys of another."""

_ENDPOINT_KEYS = (
    Key("host", Kind.HOST, None, "The store's host name, without scheme and port. Left out: AWS, in `region`.",
        example="ceph.example.org", shown=True),
    Key("port", Kind.INTEGER, None, "Left out: 443, or 80 with is_secure = false.",
        example=7480, at_least=1, at_most=65535),
    Key("is_secure", Kind.BOOLEAN, True, "HTTPS unless false."),
    Key("aws_access_key_id", Kind.SECRET, None,
        "Left out, with the secret: boto3's own chain (environment, profile, instance role).",
        example="ACCESS-KEY", shown=True),
    Key("aws_secret_access_key", Kind.SECRET, None,
        'Rather than the secret itself: "${NAME}" takes it from the environment variable NAME, '
        'and aws_secret_access_key_file = "PATH" from a file.',
        example="SECRET-KEY", shown=True),
    Key("bucket_name", Kind.TEXT, None, "The bucket's name, without any path.",
        example="images", required=True, shown=True, no_slash=True),
    Key("prefix", Kind.TEXT, "", "Only keys under it; a destination's prefix replaces the source's.",
        may_be_empty=True, any_characters=True, at_most=KEY_LIMIT_BYTES),
    Key("calling_format", Kind.TEXT, "OrdinaryCallingFormat",
        "OrdinaryCallingFormat is path style, SubdomainCallingFormat puts the bucket into the host name.",
        choices=("OrdinaryCallingFormat", "SubdomainCallingFormat")),
    Key("signature_version", Kind.TEXT, "s3", 'V2 signatures; "s3v4" for a store that takes V4 only.',
        choices=("s3", "s3v4")),
    Key("region", Kind.TEXT, "us-east-1", "For AWS and for V4 signatures."),
    Key("verify_md5", Kind.BOOLEAN, False,
        "Compare contents too where no MD5 is to be had from a HEAD. Counts when either side says true."),
    Key(STORE_KEY, Kind.TEXT, None, "The NAME of the [stores.NAME] whose keys are this table's, too; its own win.",
        example="ceph"),
)  # fmt: skip

SOURCE = Table(
    "source",
    "The bucket that is copied from.",
    (
        *_ENDPOINT_KEYS,
        Key("include", Kind.GLOBS, (), "Only these: globs on the key after the prefix.", example=("*.fits",)),
        Key("exclude", Kind.GLOBS, (), "All but these: globs on the key after the prefix.", example=("tmp/*",)),
    ),
    absent=WhenAbsent.REQUIRED,
)

DESTINATION = Table(
    "destination",
    "A bucket that is copied to. Every table whose name starts with dest is one, such as [destination-swift]. "
    "The name stands in reports, metrics and Redis: keep it.",
    (
        *_ENDPOINT_KEYS,
        Key("bucket_suffix", Kind.TEXT, "", "Added to bucket_name.", may_be_empty=True, no_slash=True),
        Key("storage_class", Kind.TEXT, None, "Asked for with every object.", example="STANDARD_IA"),
        Key("acl", Kind.TEXT, None, "A canned ACL, asked for with every object.", example="private"),
        Key("server_side_encryption", Kind.TEXT, None, "Asked for with every object.", example="AES256"),
        Key("server_side_copy", Kind.BOOLEAN, True,
            "Where the source is in the same store, with the same access key, let the store copy by itself; what it "
            "says that it holds then has to have the source's ETag."),
        Key("multipart", Kind.BOOLEAN, False, "Objects over multipart_threshold go in parts."),
        Key("multipart_threshold", Kind.SIZE, "5 GiB",
            "The largest object that goes in one PUT, which takes 5 GiB at most.", at_least=PART_AT_LEAST_BYTES),
        Key("delete", Kind.BOOLEAN, False,
            "Carry deletions over: what the source, asked for it, says that it has not is deleted here. So is, "
            "by s3s3 bucket, whatever was not copied from it but lies where its copies would."),
        Key("max_delete", Kind.NUMBER, 0.1,
            "With delete = true, a run of s3s3 bucket that would delete more than this part of the destination "
            "deletes nothing and exits with 1. 1 is no bound.", at_least=0, at_most=1),
        Key("copy_tags", Kind.BOOLEAN, False,
            "Give each copy the source object's tags, at the cost of one more request for an object. Tags that change "
            "alone are not noticed: s3s3 bucket --force copies them. Swift takes none."),
        Key("copy_acl", Kind.BOOLEAN, False,
            "The same for its ACL. Whom an ACL names has to be known to both stores, but for the owner, the public and "
            "whoever is signed in. Swift has no ACLs of objects and leaves them out."),
        Key("max_bytes_per_s", Kind.SIZE_BY_HOUR, None,
            "What all processes together may send there; or a table of hours of the day, local time, outside of which "
            'there is no limit: { "08:00-18:00" = "20 MiB" }.', example="20 MiB", at_least=65_536),
        Key("max_requests_per_s", Kind.NUMBER_BY_HOUR, None, "The same for requests.", example=100,
            at_least=1, at_most=1_000_000),
    ),
    name_prefix="dest",
    absent=WhenAbsent.REQUIRED,
)  # fmt: skip

PUBSUB = Table(
    "pubsub",
    "Redis: where keys are published, and where the queue is kept.",
    (
        Key("url", Kind.REDIS_URL, "redis://localhost:6379/0",
            'rediss:// (TLS), unix://, redis+sentinel:// and redis+cluster:// too; "" is no Redis '
            '(s3s3 bucket only). With a password in it: url = "${NAME}", or url_file = "PATH".', may_be_empty=True),
        Key("channel", Kind.TEXT, "backup",
            'Where producers PUBLISH keys; "": nowhere, as where [stream], [sqs] or [webhook] brings all notices.',
            may_be_empty=True),
        Key("mark_done", Kind.BOOLEAN, False, "After each copy, set the Redis key CHANNEL=>KEY to True."),
        Key("backfill", Kind.BOOLEAN, True, "Look by itself for what was published while nobody listened."),
        Key("backfill_margin_s", Kind.NUMBER, 3600, "How much further back it looks: long uploads, clocks that differ.",
            at_least=0, at_most=31_536_000),
    ),
    hints={
        **dict.fromkeys(("redis", "host", "port", "db"), 'write url = "redis://HOST:6379/0", or url = "" for no Redis'),
        "password": 'it is part of url: url = "redis://:PASSWORD@HOST:6379/0", best as "${NAME}" or url_file',
        "sns": "have SNS send to an SQS queue, and name that in [sqs] url",
    },
)  # fmt: skip

WORKER = Table(
    "worker",
    "How the work is done.",
    (
        Key("concurrency", Kind.INTEGER, 32, "Keys copied at the same time by one process.",
            at_least=1, at_most=10_000),
        Key("max_attempts", Kind.INTEGER, 8, "Failed attempts until a job becomes a dead letter of its destination.",
            at_least=1, at_most=1_000_000),
        Key("lease_s", Kind.NUMBER, 60, "After so long without a sign of life a process loses its jobs to another.",
            at_least=1, at_most=86_400),
        Key("spool_dir", Kind.TEXT, "",
            'Where large objects whose MD5 is not known beforehand wait; "" is the system\'s temporary directory.',
            may_be_empty=True),
        Key("spool_bytes", Kind.SIZE, "8 GiB", "How much of spool_dir may be used.", at_least=1),
    ),
)  # fmt: skip

HTTP = Table(
    "http",
    "The status page, /metrics, /healthz and /readyz of s3s3 listen and s3s3 mirror.",
    (
        Key("bind", Kind.ADDRESS, "127.0.0.1:9180", 'Address and port; "" for none.', may_be_empty=True),
        Key("token", Kind.SECRET, None,
            "Who types it may retry and drop dead letters on the status page. Left out: nobody may, there.",
            example="TOKEN"),
    ),
)  # fmt: skip

STREAM = Table(
    "stream",
    'A stream in the Redis of [pubsub] to which producers XADD notices, with a field "key" and, where several routes '
    'need it, "bucket". None is lost. The stream is never trimmed: that is for its producers to do.',
    (
        Key("name", Kind.TEXT, "s3s3:notifications", "The Redis key of the stream.", shown=True),
        Key("group", Kind.TEXT, "s3s3", "The consumer group, which all listeners share that do the same work."),
    ),
    absent=WhenAbsent.OFF,
)

SQS = Table(
    "sqs",
    "An SQS queue that S3 sends events to, by itself or through SNS or EventBridge. Keys are boto3's own chain.",
    (
        Key("url", Kind.HTTP_URL, None, "The queue's URL.", required=True, shown=True,
            example="https://sqs.us-west-2.amazonaws.com/123456789012/s3s3"),
        Key("region", Kind.TEXT, None, "Left out: the one in url, else boto3's own.", example="us-west-2"),
        Key("endpoint_url", Kind.HTTP_URL, "", "For a service that is not Amazon's.", may_be_empty=True),
    ),
    absent=WhenAbsent.OFF,
)  # fmt: skip

WEBHOOK = Table(
    "webhook",
    "Takes S3 events by HTTP, POST /notify, as Ceph's bucket notifications and MinIO send them.",
    (
        Key("bind", Kind.ADDRESS, "127.0.0.1:9181", "Address and port."),
        Key("token", Kind.SECRET, None,
            'What a sender has to know, as Bearer or as the password of basic authentication; "": nothing. '
            'Rather than the token itself: "${NAME}", or token_file = "PATH".',
            example="TOKEN", required=True, shown=True, may_be_empty=True),
    ),
    absent=WhenAbsent.OFF,
)  # fmt: skip

STORE = Table(
    "ceph",
    'Keys that several sources and destinations share: those that say store = "ceph", this one\'s name.',
    tuple(replace(key, required=False, shown=False) for key in _ENDPOINT_KEYS if key.name != STORE_KEY),
    name_prefix="",
)

ROUTE = Table(
    "raw",
    "One more route, beside the one of [source] and [destination*]: a source, its destinations, and what is published "
    "about it. The name stands in reports, metrics and Redis: keep it.",
    (Key("channel", Kind.TEXT, None, 'Where producers PUBLISH its keys; "": nowhere. Left out: that of [pubsub].',
         example="raw", may_be_empty=True),),
    tables=(SOURCE, DESTINATION),
    name_prefix="",
)  # fmt: skip

_MIRRORED = Table(
    "destination",
    "Where the copies are kept. Location is presigned, unless acl lets everybody read them.",
    (
        *(replace(key, shown=False) for key in _ENDPOINT_KEYS if key.name != "verify_md5"),
        *(
            key
            for key in DESTINATION.keys
            if key.name in ("storage_class", "acl", "server_side_encryption", "multipart", "multipart_threshold")
        ),
    ),
    absent=WhenAbsent.REQUIRED,
)

_ALLOW_PRIVATE = Key(
    "allow_private", Kind.NETWORKS, False,
    "Whether private, loopback and link-local addresses may be asked: true, or a list of networks.",
    example=("10.1.0.0/16",),
)  # fmt: skip

MIRROR_REDIRECT = Table(
    "redirect",
    "The redirect front of s3s3 mirror: GET /v1/redirect/SERVICE/REGION/URL leads to a copy of what the URL holds.",
    (
        Key("bind", Kind.ADDRESS, "127.0.0.1:9190", "Address and port."),
        Key("allowed_patterns", Kind.PATTERNS, None,
            "Which URLs there are copies of, redirects included: regular expressions from ^ to a /.",
            example=("^https://artifacts\\.example\\.org/",), required=True),
        Key("https_only", Kind.BOOLEAN, True, "Refuse URLs that are not https."),
        _ALLOW_PRIVATE,
        Key("max_wait_s", Kind.NUMBER, 28, "How long a client waits for a copy, before it is sent to the URL itself.",
            at_least=0, at_most=3600),
        Key("purge_token", Kind.SECRET, None, "Who sends it as Bearer may purge copies. Left out: nobody may.",
            example="TOKEN"),
        Key("lifespan_days", Kind.INTEGER, 1, "After so long a copy is made anew.", at_least=1, at_most=3650),
        Key("force_https", Kind.BOOLEAN, False,
            "Behind a proxy that speaks TLS and sets X-Forwarded-Proto: who came to it without is sent to https."),
    ),
    tables=(
        Table(
            "s3",
            "A service: the first part of the paths that are asked for.",
            tables=(
                replace(_MIRRORED, name="us-west-1", name_prefix="", absent=WhenAbsent.OFF,
                        doc="A region, the second part of the paths, and where its copies are kept. Location is "
                        "presigned, unless acl lets everybody read them."),
            ),
            name_prefix="",
            absent=WhenAbsent.OFF,
        ),
    ),
    absent=WhenAbsent.OFF,
)  # fmt: skip

MIRROR_PROXY = Table(
    "proxy",
    "The copy-proxy of s3s3 mirror: a path is a key, what the destination lacks is copied from the source.",
    (
        Key("bind", Kind.ADDRESS, "127.0.0.1:9191", "Address and port."),
        Key("source", Kind.URL, None, "A URL; the key follows it.", example="https://origin.example.org/files/",
            required=True),
        Key("max_wait_s", Kind.NUMBER, 90, "How long a client waits for a copy, before it is sent to the source.",
            at_least=0, at_most=3600),
        replace(_ALLOW_PRIVATE, doc="Whether the source's redirects may lead to private, loopback and link-local "
                "addresses other than its own: true, or a list of networks."),
    ),
    tables=(_MIRRORED,),
    absent=WhenAbsent.OFF,
)  # fmt: skip

MIRROR_CACHE = Table(
    "cache",
    "The cache of s3s3 mirror: answers presigned GETs of one bucket from a directory, as the store itself would.",
    (
        Key("bind", Kind.ADDRESS, "127.0.0.1:9192", "Address and port."),
        Key("directory", Kind.TEXT, None, "Where objects are kept. Several processes of one machine may share it.",
            example="/var/cache/s3s3", required=True),
        Key("max_fill", Kind.NUMBER, 0.9,
            "The part of the directory's file system that may be in use, whoever uses it, after an object is added.",
            at_least=0, at_most=1),
        Key("low_fill", Kind.NUMBER, 0.8,
            "Down to where objects are removed once there is no more room, those first that nobody has asked for the "
            "longest.", at_least=0, at_most=1),
        Key("revalidate_s", Kind.NUMBER, 300, "After so long the store is asked whether an object is still the same.",
            at_least=0, at_most=31_536_000),
        Key("miss", Kind.TEXT, "redirect",
            "What a client gets for an object that is not there yet: redirect sends it to the store while the object "
            "is fetched, stream has it read along.", choices=("redirect", "stream")),
        Key("accel_prefix", Kind.TEXT, "",
            "Behind an nginx that sends files by itself: what X-Accel-Redirect has before their paths.",
            example="/s3s3-cache/", may_be_empty=True),
    ),
    tables=(
        Table(
            "store",
            "The bucket that is asked for. Its keys verify what clients have signed, and fetch what is not there yet.",
            tuple(replace(key, shown=False) for key in _ENDPOINT_KEYS if key.name != "verify_md5"),
            absent=WhenAbsent.REQUIRED,
        ),
        Table(
            "keys",
            "Pairs of keys by name, beside the store's own: who signs with one of them may read the bucket here.",
            tables=(
                Table(
                    "reader",
                    "One such pair, as of a reader of its own, or the last one while keys are being exchanged.",
                    (
                        Key("aws_access_key_id", Kind.SECRET, None, "The id that its URLs name.",
                            example="READER-KEY", required=True),
                        Key("aws_secret_access_key", Kind.SECRET, None,
                            'What it signs with; as with a store, rather "${NAME}", or '
                            'aws_secret_access_key_file = "PATH".', example="READER-SECRET", required=True),
                    ),
                    name_prefix="",
                    absent=WhenAbsent.OFF,
                ),
            ),
            absent=WhenAbsent.OFF,
        ),
    ),
    absent=WhenAbsent.OFF,
)  # fmt: skip

STORES = Table("stores", "Stores by name.", tables=(STORE,), absent=WhenAbsent.OFF)
ROUTES = Table("routes", "Routes by name.", tables=(ROUTE,), absent=WhenAbsent.OFF)
MIRROR = Table("mirror", "HTTP fronts.", tables=(MIRROR_REDIRECT, MIRROR_PROXY, MIRROR_CACHE), absent=WhenAbsent.OFF)

FILE = Table(
    "",
    "The whole file.",
    tables=(SOURCE, DESTINATION, PUBSUB, WORKER, HTTP, STREAM, SQS, WEBHOOK, STORES, ROUTES, MIRROR),
    alternatives=(ROUTES.name, MIRROR.name),
)


def all_tables() -> list[Table]:
    """Return every kind of table that may be in a file, each once, the outer ones first."""
    found: list[Table] = []
    level = [FILE]
    while level:
        level = [inner_table for table in level for inner_table in table.tables]
        found += [table for table in level if not any(table is one for one in found)]
    return found
