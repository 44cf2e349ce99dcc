"""Build the settings from the tables of a file; report what does not go together."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ..errors import ConfigError
from ..model import Route, Secret
from . import tables as models
from .mirror import CacheSettings, MirrorSettings, ProxySettings, RedirectSettings
from .reader import Reader
from .routes import Place, RoutePlaces, check_routes, in_order
from .settings import (
    DEFAULT_ROUTE,
    Config,
    HttpSettings,
    PubSub,
    SqsSettings,
    StreamSettings,
    WebhookSettings,
    WorkerSettings,
)
from .toml_file import ConfigErrors, ConfigFile, dotted
from .value_types import Address, InvalidValue, parse_optional_address, toml_repr

#: The keys that locate the objects of a bucket's table.
_PLACE_KEYS = frozenset({"host", "port", "is_secure", "bucket_name", "bucket_suffix", "prefix"})


def build(
    file: ConfigFile,
    environ: Mapping[str, str],
    http_bind: tuple[str, str] | None = None,
    secrets_of: Collection[str] | None = None,
) -> Config:
    """Return the settings of a file. Raises ConfigError with all its problems."""
    reader = Reader(file, environ, secrets_of)
    content, errors = reader.content, reader.errors
    if http_bind is not None:
        content.setdefault("http", {})["bind"] = _checked_bind(*http_bind)
    routes = list(_routes(reader))
    check_routes([*routes, *_mirrors(reader)], errors)
    _check_mirror(content, errors)
    _check_sources(content, routes, errors)
    tables = reader.validated()
    errors.raise_if_any()
    assert tables
    http, stream, webhook = tables.http, tables.stream, tables.webhook
    spool_dir = file.path.parent / tables.worker.spool_dir if tables.worker.spool_dir else None
    return Config(
        path=file.path,
        routes=tuple(_route(name, tables) for name in in_order(routes)),
        pubsub=PubSub(**dict(tables.pubsub)),
        worker=WorkerSettings(**{**dict(tables.worker), "spool_dir": spool_dir}),
        http=HttpSettings(*http.bind, http.token, http.allowed_hosts) if http.bind else None,
        mirror=_mirror_settings(tables.mirror, tables.pubsub.namespace),
        stream=StreamSettings(stream.name, stream.group or tables.pubsub.namespace) if stream else None,
        sqs=SqsSettings(**dict(tables.sqs)) if tables.sqs else None,
        webhook=WebhookSettings(*webhook.bind, webhook.token) if webhook else None,
        secret_files=reader.secret_files,
    )


def _checked_bind(origin: str, text: str) -> str:
    try:
        parse_optional_address(text)
    except InvalidValue as error:
        error.expected = 'HOST:PORT, as in "127.0.0.1:9180"'
        raise ConfigError([f"{origin}: {error.message(found=toml_repr(text))}"]) from None
    return text


def _route(name: str, tables: models.File) -> Route:
    table = tables.routes.get(name, tables)
    parent = dotted(("routes", name)) if name in tables.routes else ""
    channel = getattr(table, "channel", None)
    assert table.source
    return Route(
        name=name,
        source=table.source.endpoint("source", parent),
        destinations=tuple(bucket.endpoint(name, parent) for name, bucket in table.destinations.items()),
        include=table.source.include,
        exclude=table.source.exclude,
        channel=tables.pubsub.channel if channel is None else channel,
        namespace=tables.pubsub.namespace,
    )


def _mirror_settings(mirror: models.MirrorTable, namespace: str) -> MirrorSettings:
    redirect, proxy, cache = mirror.redirect, mirror.proxy, mirror.cache
    return MirrorSettings(
        redirect=_redirect(redirect, namespace) if redirect else None,
        proxy=_proxy(proxy, namespace) if proxy else None,
        cache=_cache(cache) if cache else None,
    )


def _proxy(proxy: models.ProxyTable, namespace: str) -> ProxySettings:
    destination = proxy.destination.endpoint("mirror.proxy.destination")
    return ProxySettings(*proxy.bind, proxy.source, proxy.max_wait_s, proxy.allow_private, destination, namespace)


def _cache(cache: models.CacheTable) -> CacheSettings:
    return CacheSettings(
        *cache.bind,
        directory=Path(cache.directory),
        max_fill=cache.max_fill,
        low_fill=cache.low_fill,
        revalidate_s=cache.revalidate_s,
        streams=cache.miss == "stream",
        accel_prefix=cache.accel_prefix,
        store=cache.store.endpoint("mirror.cache.store"),
        keys=tuple(
            (pair.aws_access_key_id.get_secret_value(), pair.aws_secret_access_key) for pair in cache.keys.values()
        ),
    )


def _redirect(redirect: models.RedirectTable, namespace: str) -> RedirectSettings:
    destinations = {}
    for service, regions in redirect.services.items():
        for region, bucket in regions.items():
            endpoint = bucket.endpoint(f"mirror.redirect.{service}.{region}")
            if "region" not in bucket.model_fields_set and endpoint.host is None:
                endpoint = replace(endpoint, region=region)  # AWS: the region is part of the path
            destinations[service, region] = endpoint
    return RedirectSettings(
        *redirect.bind,
        patterns=redirect.allowed_patterns,
        https_only=redirect.https_only,
        private=redirect.allow_private,
        max_wait_s=redirect.max_wait_s,
        purge_token=redirect.purge_token,
        lifespan_days=redirect.lifespan_days,
        force_https=redirect.force_https,
        destinations=destinations,
        namespace=namespace,
    )


# -- what does not go together


def _place(reader: Reader, path: tuple[str, ...], table: Mapping[str, Any]) -> Place:
    """Return where a bucket is. Other keys of its table may be invalid."""
    if reader.excused[path] & _PLACE_KEYS:
        return Place(path, None)
    try:
        missing = set() if "host" in table else {"port"}  # reported: AWS has no other port
        keys = {key: table[key] for key in (_PLACE_KEYS - missing) & table.keys()}
        bucket = models.File.model_validate({"destinations": {"any": keys}}).destinations["any"]
        return Place(path, bucket.endpoint(".".join(path)))
    except ValidationError:
        return Place(path, None)


def _routes(reader: Reader) -> Iterator[RoutePlaces]:
    """Yield the routes of a file, the default one first."""
    content = reader.content
    named = [(name, ("routes", name), table) for name, table in content.get("routes", {}).items()]
    for name, path, table in [(DEFAULT_ROUTE, (), content), *named]:
        source = _place(reader, (*path, "source"), table["source"]) if "source" in table else None
        destinations = [_place(reader, (*path, inner), keys) for inner, keys in table.get("destinations", {}).items()]
        if path or source or destinations:
            yield RoutePlaces(name, path, source, destinations)


def _mirrors(reader: Reader) -> Iterator[RoutePlaces]:
    """Yield the mirrors as routes, so that the checks of destinations apply to them."""
    mirror = reader.content.get("mirror", {})
    found: dict[tuple[str, ...], Any] = {("proxy", "destination"): mirror.get("proxy", {}).get("destination")}
    for service, regions in mirror.get("redirect", {}).get("services", {}).items():
        found |= {("redirect", service, region): table for region, table in regions.items()}
    for names, table in found.items():
        if table is not None:
            path = ("mirror", *names)
            yield RoutePlaces(".".join(path), path, None, [_place(reader, path, table)])


def _check_mirror(content: Mapping[str, Any], errors: ConfigErrors) -> None:
    for name in content.get("routes", {}):
        if name.startswith("mirror."):
            errors.add(("routes", name), 'names that begin with "mirror." are reserved for mirrors; rename it')
    mirror = content.get("mirror", {})
    if "redirect" in mirror and not any(mirror["redirect"].get("services", {}).values()):
        errors.add(("mirror", "redirect"), "no [mirror.redirect.s3.REGION] table: the bucket for the copies")
    cache = mirror.get("cache", {})
    tables: dict[tuple[str, ...], Any] = {("store",): cache.get("store", {})}
    tables |= {("keys", name): pair for name, pair in cache.get("keys", {}).items()}
    seen: dict[object, tuple[str, ...]] = {}
    for names, table in tables.items():
        path, access_key_id = ("mirror", "cache", *names), table.get("aws_access_key_id")
        if isinstance(access_key_id, Secret):  # from a file
            access_key_id = access_key_id.get_secret_value()
        if isinstance(access_key_id, str) and seen.setdefault(access_key_id, path) is not path:
            errors.add(path, f"is already used in [{dotted(seen[access_key_id])}]", "aws_access_key_id")


def _check_sources(content: Mapping[str, Any], routes: list[RoutePlaces], errors: ConfigErrors) -> None:
    """Report conflicts between the sources of notifications."""
    pubsub = content.get("pubsub", {})
    for name in ("stream", "sqs", "webhook"):
        if name in content and pubsub.get("url") == "":
            errors.add((name,), "notifications need Redis, which holds the queue; give [pubsub] a url")
    marks = pubsub.get("mark_done") is True
    channels = [_channel(content, route) for route in routes]
    if marks and "" in channels:
        message = "the marker's name begins with the channel; give each route a channel, or leave mark_done out"
        errors.add(("pubsub",), message, "mark_done")
    sources = [route.source.endpoint if route.source else None for route in routes]
    prefixes = [source.prefix if source else None for source in sources]
    rows = zip(routes, channels, prefixes, strict=True)
    for (first, channel, prefix), (second, other_channel, other) in combinations(rows, 2):
        if not (marks and channel and channel == other_channel) or prefix is None or other is None:
            continue
        if prefix.startswith(other) or other.startswith(prefix):
            message = f"would set the same marker on channel {toml_repr(channel)}; use two channels"
            errors.add(("pubsub",), f"routes {first.name} and {second.name} {message}", "mark_done")
    if "webhook" in content and _bind(content, "webhook") == (_bind(content, "http") or ""):
        errors.add(("webhook",), "is also the address of [http]; give it another port", "bind")


def _channel(content: Mapping[str, Any], route: RoutePlaces) -> object:
    own = content["routes"][route.name].get("channel") if route.path else None
    return content.get("pubsub", {}).get("channel", "backup") if own is None else own


def _bind(content: Mapping[str, Any], name: str) -> Address | None:
    """Return an address of the file; None for none, or if it is invalid."""
    table = content.get(name, {})
    try:
        return parse_optional_address(table["bind"]) if "bind" in table else _DEFAULT_BINDS[name]
    except InvalidValue:
        return None


_DEFAULT_BINDS: Mapping[str, Address] = {
    "http": models.HttpTable.model_fields["bind"].default,
    "webhook": models.WebhookTable.model_fields["bind"].default,
}
