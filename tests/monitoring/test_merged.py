from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from s3s3.model import Endpoint, Route
from s3s3.monitoring.metrics import Metrics
from s3s3.monitoring.multiprocess import Merged


def page(copies: int, running: int, pending: int) -> str:
    metrics = Metrics()
    metrics.copies["default", "swift", "copied"] += copies
    for _ in range(copies):
        metrics.copy_duration_seconds["default", "swift"].observe(0.004)
    metrics.running_jobs["default"] = running
    metrics.pending_jobs["default", "fresh"] = pending
    return metrics.page().decode()


def samples(text: bytes) -> dict[str, float]:
    families = text_string_to_metric_families(text.decode())
    return {sample.name: sample.value for family in families for sample in family.samples}


def test_what_each_counted_is_added_up_and_what_all_see_is_told_once() -> None:
    merged = Merged()
    merged.update("1", page(copies=2, running=3, pending=10))
    merged.update("2", page(copies=5, running=4, pending=9))
    told = samples(merged.page())
    assert told["s3s3_copies_total"] == 7
    assert told["s3s3_copy_duration_seconds_count"] == 7
    assert told["s3s3_running_jobs"] == 7, "each has its own"
    assert told["s3s3_pending_jobs"] == 10, "both look at the same queue"
    assert told["s3s3_build_info"] == 1


def test_a_counter_never_falls_when_a_process_ends_and_another_takes_its_place() -> None:
    merged = Merged()
    merged.update("1", page(copies=2, running=3, pending=10))
    merged.update("2", page(copies=5, running=4, pending=10))
    merged.bury("1")
    told = samples(merged.page())
    assert told["s3s3_copies_total"] == 7
    assert told["s3s3_copy_duration_seconds_count"] == 7
    assert told["s3s3_running_jobs"] == 4, "the dead run nothing"
    merged.update("3", page(copies=1, running=0, pending=10))
    merged.bury("3")
    assert samples(merged.page())["s3s3_copies_total"] == 8
    merged.bury("2")
    assert samples(merged.page())["s3s3_copies_total"] == 8


def test_one_page_alone_stays_as_it_is() -> None:
    metrics = Metrics(process=True)
    metrics.begin_at_zero(Route("default", Endpoint("source", "a"), (Endpoint("dest", "b"),)))
    metrics.copy_duration_seconds["default", "dest"].observe(0.3)
    merged = Merged()
    written = metrics.page().decode()
    merged.update("1", written)
    assert sorted(merged.page().decode().splitlines()) == sorted(written.splitlines())
    assert sorted(merged.page().decode().splitlines()) == sorted(written.splitlines()), "and asking changes nothing"
