"""The tables and keys of the configuration file, as pydantic models.

They validate the file; the template, the reference page and the JSON Schema are generated from them. A key's `examples`
show its value as TOML writes it, if its default explains little.
"""

from __future__ import annotations

from functools import cache
from typing import Annotated, ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator

from ..model import DEFAULT_NAMESPACE, MIN_PART_BYTES, SINGLE_PUT_LIMIT_BYTES, Endpoint, Secret
from .addresses import is_ip, store_host
from .kinds import (
    Bind,
    BindOrNone,
    BucketName,
    BucketSuffix,
    BytesByHour,
    ConflictError,
    Duration,
    FilePath,
    FolderUrl,
    Globs,
    Host,
    HttpUrl,
    HttpUrlOrNone,
    Name,
    Named,
    Namespace,
    Networks,
    NumberByHour,
    Patterns,
    Prefix,
    RedisUrl,
    SecretOrNone,
    SecretText,
    Size,
    Table,
    Text,
    TextOrNone,
    tables_of,
)  # fmt: skip
from .value_types import Address, toml_repr

# fmt: off
# -- buckets


# TLS, of a store and of SQS

_CA_FILE = Field(None, examples=["/etc/s3s3/ca.pem"],
    description="Trust only the certificates in this PEM file. Default: those of the system, or of SSL_CERT_FILE.")
_VERIFY_TLS = Field(True,
    description="Verify the server's certificate. false lets anyone on the way read and change what is sent.")
_CLIENT_CERT_FILE = Field(None, examples=["/etc/s3s3/client.pem"],
    description="PEM file with the client's certificate, and with its key unless client_key_file names that.")
_CLIENT_KEY_FILE = Field(None, examples=["/etc/s3s3/client.key"],
    description="PEM file with the key of the client's certificate, without a password.")


def _check_certificate(key_file: str | None, info: ValidationInfo) -> str | None:
    if key_file is not None and info.data.get("client_cert_file", "invalid") is None:
        message = "given without client_cert_file; give both, or neither"
        raise ConflictError("client_key_file", message, without="client_cert_file")
    return key_file


class Connection(Table):
    """The keys of a store, and of a bucket in it."""

    host: Host | None = Field(None, examples=["ceph.example.org"],
        description="The store's host name, or its URL, whose path then begins the path of every request: "
        "https://p.example.org/storage/v1/s3. Default: AWS in `region`.")
    port: int | None = Field(None, ge=1, le=65535, examples=[7480],
        description="Default: that of a URL in host, else 443, or 80 with is_secure = false.")
    is_secure: bool = Field(True, description="Use HTTPS. Default: what a URL in host says, else true.")
    aws_access_key_id: SecretText | None = Field(None, examples=["ACCESS-KEY"],
        description="Default, if the secret is left out as well: boto3's credential chain (environment, profile, "
        "instance role).")
    aws_secret_access_key: SecretText | None = Field(None, validate_default=True, examples=["SECRET-KEY"],
        description='Better than the secret itself: "${NAME}" reads the environment variable NAME, '
        'aws_secret_access_key_file = "PATH" reads a file.')
    bucket_name: BucketName | None = Field(None, examples=["images"],
        description="The bucket's name, without any path.")
    prefix: Prefix = Field("", description="Only keys with this prefix. A destination's prefix replaces the source's.")
    calling_format: Literal["OrdinaryCallingFormat", "SubdomainCallingFormat"] = Field("OrdinaryCallingFormat",
        description="OrdinaryCallingFormat is path style, SubdomainCallingFormat is virtual-host style.")
    signature_version: Literal["s3", "s3v4"] = Field("s3", description='Signature version: "s3" is V2, "s3v4" is V4.')
    region: Text = Field("us-east-1", description="Region for AWS and for V4 signatures.")
    connect_timeout: Duration | None = Field(None, ge=1, le=3600, examples=["10s"],
        description="Time for a connection, with name resolution and TLS. Default: 10 s.")
    read_timeout: Duration | None = Field(None, ge=1, le=3600, examples=["60s"],
        description="Time for the start of a response, and without a byte of a body. Default: 60 s. A PUT or DELETE "
        "may take lease_s of [worker].")
    list_timeout: Duration | None = Field(None, ge=1, le=3600, examples=["5m"],
        description="Time for one page of a listing, which a store with many deleted objects may need. Default: 5m, or "
        "read_timeout where that is longer.")
    ca_file: FilePath | None = _CA_FILE
    verify_tls: bool = _VERIFY_TLS
    client_cert_file: FilePath | None = _CLIENT_CERT_FILE
    client_key_file: FilePath | None = _CLIENT_KEY_FILE

    _check_certificate = field_validator("client_key_file")(_check_certificate)

    @field_validator("aws_secret_access_key")
    @classmethod
    def _check_pair(cls, secret: Secret | None, info: ValidationInfo) -> Secret | None:
        advice = "give both, or neither to use boto3's credential chain"
        names = ("aws_access_key_id", "aws_secret_access_key")
        if names[0] in info.data and (info.data[names[0]] is None) != (secret is None):
            given, other = names if secret is None else names[::-1]
            raise ConflictError(given, f"given without {other}; {advice}", without=other)
        return secret


class Store(Connection):
    """Keys shared by the sources and destinations that have store = NAME."""

    verify_md5: bool = Field(False,
        description="If HEAD gives no MD5, compare contents. Enabled if set at the source or at the destination.")


class Bucket(Connection):
    """A bucket, or the keys under a prefix of it."""

    bucket_name: BucketName = Field(examples=["images"], description="The bucket's name, without any path.")
    store: Text | None = Field(None, examples=["ceph"],
        description="NAME of a [stores.NAME] table with further keys; keys given here take precedence.")

    @field_validator("port")
    @classmethod
    def _check_port(cls, port: int | None, info: ValidationInfo) -> int | None:
        if info.data.get("host", "invalid") is None:
            raise ConflictError("port", "given without host; without a host the store is AWS", without="host")
        host = store_host(info.data.get("host") or "")
        if host and host.port not in (None, port):
            raise ConflictError("port", f"the URL in host has the port {host.port}; give one of the two")
        return port

    @field_validator("is_secure")
    @classmethod
    def _check_scheme(cls, is_secure: bool, info: ValidationInfo) -> bool:
        host = store_host(info.data.get("host") or "")
        if host and host.is_secure not in (None, is_secure):
            scheme = "https" if host.is_secure else "http"
            raise ConflictError("is_secure", f"the URL in host begins with {scheme}://; leave is_secure out")
        return is_secure

    @field_validator("calling_format")
    @classmethod
    def _check_style(cls, calling_format: str, info: ValidationInfo) -> str:
        host = store_host(info.data.get("host") or "")
        if calling_format == "SubdomainCallingFormat" and host and is_ip(host.name):
            message = "virtual-host style does not work with an IP address; leave calling_format out"
            raise ConflictError("calling_format", message)
        return calling_format

    def endpoint(self, name: str, parent_table: str = "") -> Endpoint:
        """Return the endpoint for the programs; `name` is that of its table."""
        values = {name: getattr(self, name) for name in Endpoint.__dataclass_fields__ if hasattr(self, name)}
        threshold_bytes = getattr(self, "multipart_threshold", SINGLE_PUT_LIMIT_BYTES)
        if host := store_host(self.host or ""):
            is_secure = self.is_secure if host.is_secure is None else host.is_secure
            port = self.port or host.port
            values |= {"host": host.name, "port": port, "is_secure": is_secure, "base_path": host.path}
        values |= {
            "bucket_name": f"{self.bucket_name}{getattr(self, 'bucket_suffix', '')}",
            "access_key_id_file": self.aws_access_key_id.file if self.aws_access_key_id else "",
            "access_key_id": self.aws_access_key_id.get_secret_value() if self.aws_access_key_id else None,
            "secret_access_key": self.aws_secret_access_key,
            "connect_timeout_s": self.connect_timeout,
            "read_timeout_s": self.read_timeout,
            "list_timeout_s": self.list_timeout,
            "path_style": self.calling_format == "OrdinaryCallingFormat",
            "multipart_threshold_bytes": min(threshold_bytes, SINGLE_PUT_LIMIT_BYTES),
        }
        return Endpoint(**values, name=name, parent_table=parent_table)


class Written(Table):
    """The keys of a bucket that copies are written to."""

    storage_class: Text | None = Field(None, examples=["STANDARD_IA"], description="Storage class of every copy.")
    acl: Text | None = Field(None, examples=["private"], description="Canned ACL of every copy.")
    server_side_encryption: Text | None = Field(None, examples=["AES256"],
        description="Server-side encryption of every copy.")
    multipart: bool = Field(False, description="Upload objects above multipart_threshold in parts.")
    multipart_threshold: Size = Field(SINGLE_PUT_LIMIT_BYTES, ge=MIN_PART_BYTES, examples=["5 GiB"],
        description="Largest object for a single PUT; at most 5 GiB.")


class Source(Bucket, Store):
    """The bucket to copy from."""

    include: Globs = Field((), examples=[["*.fits"]],
        description="Copy only keys that match: globs on the key after the prefix.")
    exclude: Globs = Field((), examples=[["tmp/*"]],
        description="Skip matching keys: globs on the key after the prefix.")


class Destination(Written, Bucket, Store):
    """A bucket to copy to. Each table with a name that starts with dest is a destination, such as [destination-swift].

    Reports, metrics and Redis keys use the name, so keep it.
    """

    bucket_suffix: BucketSuffix = Field("", examples=["-copy"], description="Appended to bucket_name.")
    checksum: Literal["auto", "client", "store"] = Field("auto",
        description='Where the MD5 of objects above 256 KiB is computed. "client": by s3s3. "store": by the stores, '
        'for destinations that refuse a wrong Content-MD5. "auto": by the stores, once s3s3 check has recorded in '
        "Redis that this destination does so; until then by s3s3.")
    server_side_copy: bool = Field(True,
        description="If source and destination are in the same store with the same access key, let the store copy the "
        "object. The copy must have the source's ETag.")
    delete: bool = Field(False,
        description="Propagate deletions: delete a key here once a GET, a HEAD and a LIST at the source find no "
        "object. s3s3 bucket also deletes keys that the source does not have.")
    max_delete: float = Field(0.1, ge=0, le=1,
        description="With delete = true, s3s3 bucket deletes nothing and exits with 1 if it would delete more than "
        "this fraction of the destination. 1 disables the limit.")
    copy_tags: bool = Field(False,
        description="Copy the object's tags, which costs one more request per object. A change of tags alone is not "
        "detected; s3s3 bucket --force copies it. Swift does not support tags.")
    copy_acl: bool = Field(False,
        description="Copy the object's ACL. Grantees other than the owner, the public and authenticated users must "
        "exist in both stores. Swift has no object ACLs and ignores them.")
    max_bytes_per_s: BytesByHour = Field((), examples=["20 MiB"],
        description="Limit for all processes together. Or a table of hours in local time, without a limit outside of "
        'them: { "08:00-18:00" = "20 MiB" }.')
    max_requests_per_s: NumberByHour = Field((), examples=[100], description="The same for the number of requests.")

    @field_validator("copy_acl")
    @classmethod
    def _check_acl(cls, copy_acl: bool, info: ValidationInfo) -> bool:
        if copy_acl and info.data.get("acl"):
            raise ConflictError("copy_acl", "given together with acl, which applies to every object; leave one out")
        return copy_acl


class Mirrored(Written, Bucket):
    """The bucket for the copies. Redirects to it are presigned, unless acl makes the copies public."""


# -- notifications, workers, status page


class PubSubTable(Table):
    """Redis, which receives the published keys and holds the queue."""

    hints: ClassVar[dict[str, str]] = {
        **dict.fromkeys(("redis", "host", "port", "db"), 'write url = "redis://HOST:6379/0", or url = "" for no Redis'),
        "password": 'it is part of url: url = "redis://:PASSWORD@HOST:6379/0", best as "${NAME}" or url_file',
        "sns": "have SNS send to an SQS queue, and name that in [sqs] url",
    }

    url: RedisUrl = Field(Secret("redis://localhost:6379/0"), examples=["redis://localhost:6379/0"],
        description='Also rediss:// (TLS), unix://, redis+sentinel:// and redis+cluster://. "" means no Redis, which '
        'only s3s3 bucket supports. If it has a password: url = "${NAME}", or url_file = "PATH".')
    channel: TextOrNone = Field("backup",
        description='Channel on which producers PUBLISH keys. "" for none, if [stream], [sqs] or [webhook] is used '
        "instead.")
    namespace: Namespace = Field(DEFAULT_NAMESPACE,
        description="First part of every Redis key. Services with routes of the same name need different ones on one "
        "Redis.")
    mark_done: bool = Field(False, description="After each copy, set the Redis key CHANNEL=>KEY to True.")
    backfill: bool = Field(True,
        description="Detect keys that were published while no listener was subscribed, and copy them (gap backfill).")
    backfill_margin_s: Duration = Field(3600, ge=0, le=31_536_000,
        description="Extra time before a gap that is checked as well, for long uploads and clock differences.")


class WorkerTable(Table):
    """Concurrency, retries and temporary files."""

    concurrency: int = Field(32, ge=1, le=10_000, description="Keys that one process copies at the same time.")
    max_attempts: int = Field(8, ge=1, le=1_000_000,
        description="Failed attempts before a key becomes a dead letter of a destination.")
    lease_s: Duration = Field(60, ge=1, le=86_400,
        description="Without a renewal for this time, another process takes over a job.")
    spool_dir: TextOrNone = Field("",
        description="Directory for large objects of unknown MD5. \"\": the system's temporary directory.")
    spool_bytes: Size = Field(8 * 1024**3, ge=1, examples=["8 GiB"], description="Maximum space used in spool_dir.")


class HttpTable(Table):
    """The status page, /metrics, /healthz and /readyz of s3s3 listen and s3s3 mirror."""

    bind: BindOrNone = Field(Address("127.0.0.1", 9180), examples=["127.0.0.1:9180"],
        description='Address and port; "" disables it.')
    token: SecretText | None = Field(None, examples=["TOKEN"],
        description="Required for changes on the status page and through the API, such as retrying dead letters, and "
        "to explain a key there. Default: both are read-only.")
    allowed_hosts: Globs = Field((), examples=[["s3s3.example.org"]],
        description="Further host names under which browsers open the status page; others are refused (DNS rebinding). "
        "IP addresses, names without a dot and this machine's own name are always accepted. Globs.")


class StreamTable(Table):
    """A Redis stream in the Redis of [pubsub].

    Producers XADD entries with a field "key" and, if there are several routes, "bucket". No notification is lost. s3s3
    does not trim the stream; producers do.
    """

    name: Text = Field("s3s3:notifications", description="The Redis key of the stream.")
    group: Text | None = Field(None, examples=[DEFAULT_NAMESPACE],
        description="The consumer group; listeners with the same routes share it. Default: the namespace of [pubsub].")


class SqsTable(Table):
    """An SQS queue with S3 events, sent directly or through SNS or EventBridge. Uses boto3's credential chain."""

    url: HttpUrl = Field(examples=["https://sqs.us-west-2.amazonaws.com/123456789012/s3s3"],
        description="The queue's URL.")
    region: Text | None = Field(None, examples=["us-west-2"], description="Default: the region in url, else boto3's.")
    endpoint_url: HttpUrlOrNone = Field("", description='Endpoint of an SQS-compatible service; "" is AWS.')
    ca_file: FilePath | None = _CA_FILE
    verify_tls: bool = _VERIFY_TLS
    client_cert_file: FilePath | None = _CLIENT_CERT_FILE
    client_key_file: FilePath | None = _CLIENT_KEY_FILE

    _check_certificate = field_validator("client_key_file")(_check_certificate)


class WebhookTable(Table):
    """Receives S3 events as POST /notify, as sent by Ceph's bucket notifications and MinIO."""

    bind: Bind = Field(Address("127.0.0.1", 9181), examples=["127.0.0.1:9181"], description="Address and port.")
    token: SecretOrNone = Field(examples=["TOKEN"],
        description='Senders must send it as Bearer token or as password of basic authentication. "" disables '
        'authentication. Better than the token itself: "${NAME}", or token_file = "PATH".')


# -- mirror

_ALLOW_PRIVATE = "Allow private, loopback and link-local addresses: true, or a list of networks."


class RedirectTable(Table):
    """The redirect front end of s3s3 mirror: GET /v1/redirect/SERVICE/REGION/URL redirects to a copy of the URL."""

    bind: Bind = Field(Address("127.0.0.1", 9190), examples=["127.0.0.1:9190"], description="Address and port.")
    allowed_patterns: Patterns = Field(examples=[["^https://artifacts\\.example\\.org/"]],
        description="Allowed URLs, including redirect targets: regular expressions that begin with ^ and end with /.")
    https_only: bool = Field(True, description="Reject URLs that are not https.")
    allow_private: Networks = Field((), description=_ALLOW_PRIVATE, examples=[["10.1.0.0/16"]])
    max_wait_s: Duration = Field(28, ge=0, le=3600,
        description="Time that a client waits for a copy before it is redirected to the URL.")
    purge_token: SecretText | None = Field(None, examples=["TOKEN"],
        description="Bearer token that allows purging copies. Default: purging is disabled.")
    lifespan_days: int = Field(1, ge=1, le=3650, description="Age in days after which a copy is refreshed.")
    force_https: bool = Field(False,
        description="Redirect plain-HTTP clients to https. Requires a reverse proxy that sets X-Forwarded-Proto.")
    services: Annotated[dict[Name, dict[Name, Mirrored]], Named("", ("s3", "us-west-1"))] = Field({},
        description="A region, the second part of the request path, with the bucket for its copies. Redirects to it "
        "are presigned, unless acl makes the copies public.")


class ProxyTable(Table):
    """The copy-proxy of s3s3 mirror: the path is a key; a missing copy is made from the source."""

    bind: Bind = Field(Address("127.0.0.1", 9191), examples=["127.0.0.1:9191"], description="Address and port.")
    source: FolderUrl = Field(examples=["https://origin.example.org/files/"],
        description="A URL, to which the key is appended.")
    max_wait_s: Duration = Field(90, ge=0, le=3600,
        description="Time that a client waits for a copy before it is sent to the source.")
    allow_private: Networks = Field((), examples=[["10.1.0.0/16"]],
        description="Allow redirects of the source to private, loopback and link-local addresses besides its own: "
        "true, or a list of networks.")
    destination: Mirrored


class KeyPair(Table):
    """A further key pair, for example of a reader, or the previous one during key rotation."""

    aws_access_key_id: SecretText = Field(examples=["READER-KEY"], description="Access key id in the URLs.")
    aws_secret_access_key: SecretText = Field(examples=["READER-SECRET"],
        description='Secret of the signatures. Better: "${NAME}", or aws_secret_access_key_file = "PATH".')


class CacheTable(Table):
    """The cache of s3s3 mirror: answers presigned GETs of one bucket from a directory, like the store itself."""

    bind: Bind = Field(Address("127.0.0.1", 9192), examples=["127.0.0.1:9192"], description="Address and port.")
    directory: Text = Field(examples=["/var/cache/s3s3"],
        description="Directory of the cache. Several processes of one machine may share it.")
    max_fill: float = Field(0.9, ge=0, le=1,
        description="Maximum usage of the directory's file system, as a fraction, after an object is added.")
    low_fill: float = Field(0.8, ge=0, le=1, validate_default=True,
        description="Above max_fill, the least recently used objects are removed until usage is down to this.")
    revalidate_s: Duration = Field(300, ge=0, le=31_536_000,
        description="Age after which a cached object is revalidated with the store.")
    miss: Literal["redirect", "stream"] = Field("redirect",
        description="Response to a miss: redirect sends the client to the store while the object is downloaded, "
        "stream sends the object during the download.")
    accel_prefix: TextOrNone = Field("", examples=["/s3s3-cache/"],
        description="Prefix of the paths in X-Accel-Redirect, for an nginx that sends the files itself.")
    store: Bucket = Field(
        description="The bucket to cache. Its keys verify the signatures of clients and download missing objects.")
    keys: dict[Name, KeyPair] = Field({})

    @field_validator("low_fill")
    @classmethod
    def _check_fill(cls, low_fill: float, info: ValidationInfo) -> float:
        high = info.data.get("max_fill", 1)
        if low_fill > high:
            raise ConflictError("low_fill", f"must be at most max_fill, {high:g}, not {low_fill:g}")
        return low_fill

    @field_validator("accel_prefix")
    @classmethod
    def _check_accel_prefix(cls, prefix: str) -> str:
        if prefix and not (prefix.startswith("/") and prefix.endswith("/")):
            message = f'must begin and end with "/", not {toml_repr(prefix)}'
            raise ConflictError("accel_prefix", message)
        return prefix


class MirrorTable(Table):
    """HTTP front ends."""

    redirect: RedirectTable | None = None
    proxy: ProxyTable | None = None
    cache: CacheTable | None = None


# -- the file


class RouteTable(Table):
    """A further route besides [source] and [destination*]: a source, its destinations and its channel.

    Reports, metrics and Redis keys use the name, so keep it.
    """

    channel: TextOrNone | None = Field(None, examples=["raw"],
        description='Channel on which producers PUBLISH its keys; "" for none. Default: the channel of [pubsub].')
    source: Source
    destinations: Annotated[dict[Name, Destination], Named("dest", ("destination",))]


class File(Table):
    """The whole file. A file with [routes] or [mirror] needs no [source]."""

    source: Source | None = None
    destinations: Annotated[dict[Name, Destination], Named("dest", ("destination",))] = Field({})
    pubsub: PubSubTable = Field(default_factory=PubSubTable.model_construct)
    worker: WorkerTable = Field(default_factory=WorkerTable.model_construct)
    http: HttpTable = Field(default_factory=HttpTable.model_construct)
    stream: StreamTable | None = None
    sqs: SqsTable | None = None
    webhook: WebhookTable | None = None
    stores: dict[Name, Store] = Field({})
    routes: dict[Name, RouteTable] = Field({})
    mirror: MirrorTable = Field(default_factory=MirrorTable.model_construct)


# fmt: on
@cache
def all_tables() -> dict[tuple[str, ...], type[Table]]:
    """Return every table that a file may contain, by the example of its full name, outer tables first."""
    found: dict[tuple[str, ...], type[Table]] = {}
    level: list[tuple[tuple[str, ...], type[Table]]] = [((), File)]
    while level:
        level = [((*path, *example), inner) for path, table in level for example, _, inner in tables_of(table)]
        found |= level
    return found
