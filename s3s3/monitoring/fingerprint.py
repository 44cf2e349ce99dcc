"""What a route means: its buckets and its channel. Processes that share a route's Redis keys must agree on it."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ..config.overlaps import bucket_of
from ..errors import RouteConflict
from ..model import Endpoint, Route
from .formatting import count_noun, time_text

_ADVICE = "give one of the two services its own [pubsub] namespace"


class Fingerprint(NamedTuple):
    """The places of a route as host:port/bucket/prefix, the destinations' by name, and its channel.

    `channel` is None in a process that does not listen: another channel does it no harm.
    """

    source: str
    channel: str | None
    destinations: Mapping[str, str]

    @classmethod
    def of(cls, route: Route, command: str) -> Fingerprint:
        """Return the fingerprint of a route for a process that runs this command."""
        channel = route.channel if command in ("listen", "mirror") else None
        places = {destination.name: _place(destination) for destination in route.destinations}
        return cls(_place(route.source), channel, places)

    def differences(self, other: Mapping[str, Any]) -> Iterator[str]:
        """Describe what differs from another process's fingerprint, without destinations that only one of them has."""
        if self.source != other["source"]:
            yield f"its source is {other['source']}, here it is {self.source}"
        if None not in (self.channel, other["channel"]) and self.channel != other["channel"]:
            yield f"its channel is {other['channel'] or '(none)'}, here it is {self.channel or '(none)'}"
        for name, place in self.destinations.items():
            if other["destinations"].get(name, place) != place:
                yield f"its {name} is {other['destinations'][name]}, here it is {place}"


def _place(endpoint: Endpoint) -> str:
    """Return host, port, bucket and prefix; for the source of a mirror its URL, if there is one."""
    if not endpoint.bucket_name:
        return endpoint.host or ""
    host, port, bucket_name = bucket_of(endpoint)
    return f"{host}:{port}/{bucket_name}/{endpoint.prefix}"


def conflict_from(reply: Sequence[Any], route: str, own: Fingerprint, command: str) -> RouteConflict | None:
    """Return the error for a reply of heartbeat.lua; None if the process may work on the route."""
    kind = reply[0]
    if kind == "ok":
        return None
    this = f"this process ({os.getpid()} on {socket.gethostname()}, s3s3 {command})"
    if kind == "conflict":
        other = json.loads(reply[1])
        since = time_text(other["started_ms"])
        problem = (
            f"process {other['pid']} on {other['host']} (s3s3 {other['command']}, since {since}) uses the same Redis "
            f"keys as {this} with another meaning: {_joined(own, other['fingerprint'])}"
        )
        advice = f"{_ADVICE}, or stop all processes of the other configuration first, or replace it with --take-over"
    elif kind == "pending":
        problem = (
            f"{count_noun(reply[2], 'unfinished job')} in Redis, dead letters included, had another meaning than "
            f"{this} has: "
            f"{_joined(own, json.loads(reply[1]))}"
        )
        advice = f"finish them with the other configuration, or {_ADVICE}, or reuse them here with --take-over"
    else:
        problem = f"another process has taken over the route from {this}: {_joined(own, json.loads(reply[1]))}"
        advice = f"stop this process, or {_ADVICE}"
    return RouteConflict([f"route {route}: {problem}; {advice}"], is_running=kind != "pending")


def _joined(own: Fingerprint, other: Mapping[str, Any]) -> str:
    return ", ".join(own.differences(other))
