"""Say in words what the queue knows of a key: in `s3s3 explain`, `s3s3 jobs` and the API."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..monitoring.formatting import duration_text, time_text
from ..queue.records import Circuit, KeyRecord


def queue_texts(record: KeyRecord, waits: Sequence[Circuit], now_ms: int) -> Iterator[str]:
    """Yield what the queue knows of a key; `waits`: the open circuits that it waits for."""
    yield _phase_text(record, now_ms)
    if record.rerun:
        yield f"notified again meanwhile, so it runs once more for {', '.join(record.rerun)}"
    for name, count in (record.attempts or {}).items():
        if count:
            yield f"{name}: failed {count} time{'' if count == 1 else 's'}"
    if record.failed_ms:
        yield f"last failure at {_ago(record.failed_ms, now_ms)}"
    for circuit in waits:
        yield circuit_text(circuit, now_ms)
    if record.recheck_at_ms is not None:
        yield f"to be compared again at {_ahead(record.recheck_at_ms, now_ms)}, since a write was not answered"


def circuit_text(circuit: Circuit, now_ms: int) -> str:
    """Return why and until when the keys of a store are parked."""
    if circuit.is_paused:
        return f"parked since {circuit.store} is paused"
    probe = f", next probe at {_ahead(circuit.probe_at_ms, now_ms)}" if circuit.probe_at_ms else ""
    reason = circuit.reason.removeprefix(f"{circuit.store}: ")
    return f"parked until {circuit.store} works again, down since {_ago(circuit.since_ms, now_ms)}: {reason}{probe}"


def _phase_text(record: KeyRecord, now_ms: int) -> str:
    names = ", ".join(record.destinations)
    if record.phase == "queued":
        since = f" since {_ago(record.notified_ms, now_ms)}" if record.notified_ms else ""
        return f"queued in the {record.lane} lane for {names}{since}"
    if record.phase == "running":
        host, _, pid = record.owner.rpartition(":")
        renewed = "" if record.renewed_s is None else f", lease renewed {duration_text(record.renewed_s)} ago"
        return f"running for {names}, by process {pid} on {host}{renewed}"
    if record.phase == "waiting":
        at = "" if record.retry_at_ms is None else f": next attempt at {_ahead(record.retry_at_ms, now_ms)}"
        return f"waiting for {names}{at}"
    return "no job: the key is not on the queue"


def _ago(at_ms: int, now_ms: int) -> str:
    return f"{time_text(at_ms)} ({duration_text(max(now_ms - at_ms, 0) / 1000)} ago)"


def _ahead(at_ms: int, now_ms: int) -> str:
    return f"{time_text(at_ms)} (in {duration_text(max(at_ms - now_ms, 0) / 1000)})"
