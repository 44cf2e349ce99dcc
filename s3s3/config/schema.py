"""Every table and key of the configuration file, declared once.

Validation (`s3s3.config.table_reader`), the template (`s3s3.scripts.templates`) and the reference page use it.
"""

from __future__ import annotations

from dataclasses import replace

from ..model import DEFAULT_NAMESPACE, MAX_KEY_BYTES, MIN_PART_BYTES
from .schema_types import Key, Kind, Table, WhenAbsent

#: The key by which a table refers to a [stores.NAME] table and takes its keys.
STORE_KEY = "store"

_ENDPOINT_KEYS = (
    Key("host", Kind.HOST, None, "The store's host name, without scheme and port. Default: AWS in `region`.",
        example="ceph.example.org", shown=True),
    Key("port", Kind.INTEGER, None, "Default: 443, or 80 with is_secure = false.",
        example=7480, at_least=1, at_most=65535),
    Key("is_secure", Kind.BOOLEAN, True, "Use HTTPS."),
    Key("aws_access_key_id", Kind.SECRET, None,
        "Default, if the secret is left out as well: boto3's credential chain (environment, profile, instance role).",
        example="ACCESS-KEY", shown=True),
    Key("aws_secret_access_key", Kind.SECRET, None,
        'Better than the secret itself: "${NAME}" reads the environment variable NAME, '
        'aws_secret_access_key_file = "PATH" reads a file.',
        example="SECRET-KEY", shown=True),
    Key("bucket_name", Kind.TEXT, None, "The bucket's name, without any path.",
        example="images", required=True, shown=True, no_slash=True),
    Key("prefix", Kind.TEXT, "", "Only keys with this prefix. A destination's prefix replaces the source's.",
        may_be_empty=True, any_characters=True, at_most=MAX_KEY_BYTES),
    Key("calling_format", Kind.TEXT, "OrdinaryCallingFormat",
        "OrdinaryCallingFormat is path style, SubdomainCallingFormat is virtual-host style.",
        choices=("OrdinaryCallingFormat", "SubdomainCallingFormat")),
    Key("signature_version", Kind.TEXT, "s3", 'Signature version: "s3" is V2, "s3v4" is V4.',
        choices=("s3", "s3v4")),
    Key("region", Kind.TEXT, "us-east-1", "Region for AWS and for V4 signatures."),
    Key("verify_md5", Kind.BOOLEAN, False,
        "If HEAD gives no MD5, compare contents. Enabled if set at the source or at the destination."),
    Key(STORE_KEY, Kind.TEXT, None, "NAME of a [stores.NAME] table with further keys; keys given here take precedence.",
        example="ceph"),
)  # fmt: skip

SOURCE = Table(
    "source",
    "The bucket to copy from.",
    (
        *_ENDPOINT_KEYS,
        Key(
            "include",
            Kind.GLOBS,
            (),
            "Copy only keys that match: globs on the key after the prefix.",
            example=("*.fits",),
        ),
        Key("exclude", Kind.GLOBS, (), "Skip matching keys: globs on the key after the prefix.", example=("tmp/*",)),
    ),
    absent=WhenAbsent.REQUIRED,
)

DESTINATION = Table(
    "destination",
    "A bucket to copy to. Each table with a name that starts with dest is a destination, such as [destination-swift]. "
    "Reports, metrics and Redis keys use the name, so keep it.",
    (
        *_ENDPOINT_KEYS,
        Key("bucket_suffix", Kind.TEXT, "", "Appended to bucket_name.", may_be_empty=True, no_slash=True),
        Key("storage_class", Kind.TEXT, None, "Storage class of every copy.", example="STANDARD_IA"),
        Key("acl", Kind.TEXT, None, "Canned ACL of every copy.", example="private"),
        Key("server_side_encryption", Kind.TEXT, None, "Server-side encryption of every copy.", example="AES256"),
        Key("server_side_copy", Kind.BOOLEAN, True,
            "If source and destination are in the same store with the same access key, let the store copy the object. "
            "The copy must have the source's ETag."),
        Key("multipart", Kind.BOOLEAN, False, "Upload objects above multipart_threshold in parts."),
        Key("multipart_threshold", Kind.SIZE, "5 GiB",
            "Largest object for a single PUT; at most 5 GiB.", at_least=MIN_PART_BYTES),
        Key("delete", Kind.BOOLEAN, False,
            "Propagate deletions: delete a key here once both a GET and a HEAD at the source find no object. "
            "s3s3 bucket also deletes keys that the source does not have."),
        Key("max_delete", Kind.NUMBER, 0.1,
            "With delete = true, s3s3 bucket deletes nothing and exits with 1 if it would delete more than this "
            "fraction of the destination. 1 disables the limit.", at_least=0, at_most=1),
        Key("copy_tags", Kind.BOOLEAN, False,
            "Copy the object's tags, which costs one more request per object. A change of tags alone is not detected; "
            "s3s3 bucket --force copies it. Swift does not support tags."),
        Key("copy_acl", Kind.BOOLEAN, False,
            "Copy the object's ACL. Grantees other than the owner, the public and authenticated users must exist in "
            "both stores. Swift has no object ACLs and ignores them."),
        Key("max_bytes_per_s", Kind.SIZE_BY_HOUR, None,
            "Limit for all processes together. Or a table of hours in local time, without a limit outside of them: "
            '{ "08:00-18:00" = "20 MiB" }.', example="20 MiB", at_least=65_536),
        Key("max_requests_per_s", Kind.NUMBER_BY_HOUR, None, "The same for the number of requests.", example=100,
            at_least=1, at_most=1_000_000),
    ),
    name_prefix="dest",
    absent=WhenAbsent.REQUIRED,
)  # fmt: skip

PUBSUB = Table(
    "pubsub",
    "Redis, which receives the published keys and holds the queue.",
    (
        Key("url", Kind.REDIS_URL, "redis://localhost:6379/0",
            'Also rediss:// (TLS), unix://, redis+sentinel:// and redis+cluster://. "" means no Redis, which only '
            's3s3 bucket supports. If it has a password: url = "${NAME}", or url_file = "PATH".', may_be_empty=True),
        Key("channel", Kind.TEXT, "backup",
            'Channel on which producers PUBLISH keys. "" for none, if [stream], [sqs] or [webhook] is used instead.',
            may_be_empty=True),
        Key("namespace", Kind.TEXT, DEFAULT_NAMESPACE,
            "First part of every Redis key. Services with routes of the same name need different ones on one Redis."),
        Key("mark_done", Kind.BOOLEAN, False, "After each copy, set the Redis key CHANNEL=>KEY to True."),
        Key("backfill", Kind.BOOLEAN, True,
            "Detect keys that were published while no listener was subscribed, and copy them (gap backfill)."),
        Key("backfill_margin_s", Kind.DURATION, 3600,
            "Extra time before a gap that is checked as well, for long uploads and clock differences.",
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
    "Concurrency, retries and temporary files.",
    (
        Key("concurrency", Kind.INTEGER, 32, "Keys that one process copies at the same time.",
            at_least=1, at_most=10_000),
        Key("max_attempts", Kind.INTEGER, 8, "Failed attempts before a key becomes a dead letter of a destination.",
            at_least=1, at_most=1_000_000),
        Key("lease_s", Kind.DURATION, 60, "Without a renewal for this time, another process takes over a job.",
            at_least=1, at_most=86_400),
        Key("spool_dir", Kind.TEXT, "",
            'Directory for large objects of unknown MD5. "": the system\'s temporary directory.',
            may_be_empty=True),
        Key("spool_bytes", Kind.SIZE, "8 GiB", "Maximum space used in spool_dir.", at_least=1),
    ),
)  # fmt: skip

HTTP = Table(
    "http",
    "The status page, /metrics, /healthz and /readyz of s3s3 listen and s3s3 mirror.",
    (
        Key("bind", Kind.ADDRESS, "127.0.0.1:9180", 'Address and port; "" disables it.', may_be_empty=True),
        Key("token", Kind.SECRET, None,
            "Required for retrying and dropping dead letters on the status page. Default: the page is read-only.",
            example="TOKEN"),
    ),
)  # fmt: skip

STREAM = Table(
    "stream",
    'A Redis stream in the Redis of [pubsub]. Producers XADD entries with a field "key" and, if there are several '
    'routes, "bucket". No notification is lost. s3s3 does not trim the stream; producers do.',
    (
        Key("name", Kind.TEXT, "s3s3:notifications", "The Redis key of the stream.", shown=True),
        Key(
            "group",
            Kind.TEXT,
            None,
            "The consumer group; listeners with the same routes share it. Default: the namespace of [pubsub].",
            example=DEFAULT_NAMESPACE,
        ),
    ),
    absent=WhenAbsent.OFF,
)

SQS = Table(
    "sqs",
    "An SQS queue with S3 events, sent directly or through SNS or EventBridge. Uses boto3's credential chain.",
    (
        Key("url", Kind.HTTP_URL, None, "The queue's URL.", required=True, shown=True,
            example="https://sqs.us-west-2.amazonaws.com/123456789012/s3s3"),
        Key("region", Kind.TEXT, None, "Default: the region in url, else boto3's.", example="us-west-2"),
        Key("endpoint_url", Kind.HTTP_URL, "", 'Endpoint of an SQS-compatible service; "" is AWS.', may_be_empty=True),
    ),
    absent=WhenAbsent.OFF,
)  # fmt: skip

WEBHOOK = Table(
    "webhook",
    "Receives S3 events as POST /notify, as sent by Ceph's bucket notifications and MinIO.",
    (
        Key("bind", Kind.ADDRESS, "127.0.0.1:9181", "Address and port."),
        Key("token", Kind.SECRET, None,
            'Senders must send it as Bearer token or as password of basic authentication. "" disables authentication. '
            'Better than the token itself: "${NAME}", or token_file = "PATH".',
            example="TOKEN", required=True, shown=True, may_be_empty=True),
    ),
    absent=WhenAbsent.OFF,
)  # fmt: skip

STORE = Table(
    "ceph",
    "Keys shared by the sources and destinations that have store = NAME.",
    tuple(replace(key, required=False, shown=False) for key in _ENDPOINT_KEYS if key.name != STORE_KEY),
    name_prefix="",
)

ROUTE = Table(
    "raw",
    "A further route besides [source] and [destination*]: a source, its destinations and its channel. "
    "Reports, metrics and Redis keys use the name, so keep it.",
    (Key("channel", Kind.TEXT, None,
         'Channel on which producers PUBLISH its keys; "" for none. Default: the channel of [pubsub].',
         example="raw", may_be_empty=True),),
    tables=(SOURCE, DESTINATION),
    name_prefix="",
)  # fmt: skip

_MIRRORED = Table(
    "destination",
    "The bucket for the copies. Redirects to it are presigned, unless acl makes the copies public.",
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
    "Allow private, loopback and link-local addresses: true, or a list of networks.",
    example=("10.1.0.0/16",),
)  # fmt: skip

MIRROR_REDIRECT = Table(
    "redirect",
    "The redirect front end of s3s3 mirror: GET /v1/redirect/SERVICE/REGION/URL redirects to a copy of the URL.",
    (
        Key("bind", Kind.ADDRESS, "127.0.0.1:9190", "Address and port."),
        Key("allowed_patterns", Kind.PATTERNS, None,
            "Allowed URLs, including redirect targets: regular expressions that begin with ^ and end with /.",
            example=("^https://artifacts\\.example\\.org/",), required=True),
        Key("https_only", Kind.BOOLEAN, True, "Reject URLs that are not https."),
        _ALLOW_PRIVATE,
        Key("max_wait_s", Kind.DURATION, 28, "Time that a client waits for a copy before it is redirected to the URL.",
            at_least=0, at_most=3600),
        Key("purge_token", Kind.SECRET, None, "Bearer token that allows purging copies. Default: purging is disabled.",
            example="TOKEN"),
        Key("lifespan_days", Kind.INTEGER, 1, "Age in days after which a copy is refreshed.", at_least=1, at_most=3650),
        Key("force_https", Kind.BOOLEAN, False,
            "Redirect plain-HTTP clients to https. Requires a reverse proxy that sets X-Forwarded-Proto."),
    ),
    tables=(
        Table(
            "s3",
            "A service: the first part of the request path.",
            tables=(
                replace(_MIRRORED, name="us-west-1", name_prefix="", absent=WhenAbsent.OFF,
                        doc="A region, the second part of the request path, with the bucket for its copies. Redirects "
                        "to it are presigned, unless acl makes the copies public."),
            ),
            name_prefix="",
            absent=WhenAbsent.OFF,
        ),
    ),
    absent=WhenAbsent.OFF,
)  # fmt: skip

MIRROR_PROXY = Table(
    "proxy",
    "The copy-proxy of s3s3 mirror: the path is a key; a missing copy is made from the source.",
    (
        Key("bind", Kind.ADDRESS, "127.0.0.1:9191", "Address and port."),
        Key("source", Kind.URL, None, "A URL, to which the key is appended.", example="https://origin.example.org/files/",
            required=True),
        Key("max_wait_s", Kind.DURATION, 90, "Time that a client waits for a copy before it is sent to the source.",
            at_least=0, at_most=3600),
        replace(_ALLOW_PRIVATE, doc="Allow redirects of the source to private, loopback and link-local addresses "
                "besides its own: true, or a list of networks."),
    ),
    tables=(_MIRRORED,),
    absent=WhenAbsent.OFF,
)  # fmt: skip

MIRROR_CACHE = Table(
    "cache",
    "The cache of s3s3 mirror: answers presigned GETs of one bucket from a directory, like the store itself.",
    (
        Key("bind", Kind.ADDRESS, "127.0.0.1:9192", "Address and port."),
        Key("directory", Kind.TEXT, None, "Directory of the cache. Several processes of one machine may share it.",
            example="/var/cache/s3s3", required=True),
        Key("max_fill", Kind.NUMBER, 0.9,
            "Maximum usage of the directory's file system, as a fraction, after an object is added.",
            at_least=0, at_most=1),
        Key("low_fill", Kind.NUMBER, 0.8,
            "Above max_fill, the least recently used objects are removed until usage is down to this.",
            at_least=0, at_most=1),
        Key("revalidate_s", Kind.DURATION, 300, "Age after which a cached object is revalidated with the store.",
            at_least=0, at_most=31_536_000),
        Key("miss", Kind.TEXT, "redirect",
            "Response to a miss: redirect sends the client to the store while the object is downloaded, stream sends "
            "the object during the download.", choices=("redirect", "stream")),
        Key("accel_prefix", Kind.TEXT, "",
            "Prefix of the paths in X-Accel-Redirect, for an nginx that sends the files itself.",
            example="/s3s3-cache/", may_be_empty=True),
    ),
    tables=(
        Table(
            "store",
            "The bucket to cache. Its keys verify the signatures of clients and download missing objects.",
            tuple(replace(key, shown=False) for key in _ENDPOINT_KEYS if key.name != "verify_md5"),
            absent=WhenAbsent.REQUIRED,
        ),
        Table(
            "keys",
            "Further key pairs by name, besides the store's own. Clients that sign with one may read the bucket here.",
            tables=(
                Table(
                    "reader",
                    "A further key pair, for example of a reader, or the previous one during key rotation.",
                    (
                        Key("aws_access_key_id", Kind.SECRET, None, "Access key id in the URLs.",
                            example="READER-KEY", required=True),
                        Key("aws_secret_access_key", Kind.SECRET, None,
                            'Secret of the signatures. Better: "${NAME}", or '
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
MIRROR = Table(
    "mirror", "HTTP front ends.", tables=(MIRROR_REDIRECT, MIRROR_PROXY, MIRROR_CACHE), absent=WhenAbsent.OFF
)

FILE = Table(
    "",
    "The whole file.",
    tables=(SOURCE, DESTINATION, PUBSUB, WORKER, HTTP, STREAM, SQS, WEBHOOK, STORES, ROUTES, MIRROR),
    alternatives=(ROUTES.name, MIRROR.name),
)


def all_tables() -> list[Table]:
    """Return each kind of table that a file may contain, once, outer tables first."""
    found: list[Table] = []
    level = [FILE]
    while level:
        level = [inner_table for table in level for inner_table in table.tables]
        found += [table for table in level if not any(table is one for one in found)]
    return found
