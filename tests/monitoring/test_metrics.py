from __future__ import annotations

from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from s3s3 import __version__
from s3s3.model import Endpoint, Outcome, Result, Route
from s3s3.monitoring.metrics import Metrics

ROUTE = Route("default", Endpoint("source", "images"), (Endpoint("swift", "images"), Endpoint("ceph", "images")))


def scraped(metrics: Metrics) -> dict[str, Metric]:
    return {family.name: family for family in text_string_to_metric_families(metrics.page().decode())}


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    samples = (sample for family in scraped(metrics).values() for sample in family.samples)
    return next((sample.value for sample in samples if (sample.name, sample.labels) == (name, labels)), None)


def outcome(result: Result, size_bytes: int | None = None) -> Outcome:
    return Outcome("swift", "some/key", result, source_size_bytes=size_bytes)


def test_every_documented_metric_exists_from_the_start() -> None:
    counters = "notifications copies copy_bytes verify_mismatch retries reconcile_entries"
    gauges = "pending_jobs oldest_pending_seconds dead_letters last_reconcile_timestamp_seconds build_info"
    histograms = "copy_duration_seconds notification_to_copy_seconds"

    kinds = {name: family.type for name, family in scraped(Metrics()).items()}

    expected = {f"s3s3_{name}": "counter" for name in counters.split()}
    expected |= {f"s3s3_{name}": "gauge" for name in gauges.split()}
    expected |= {f"s3s3_{name}": "histogram" for name in histograms.split()}
    assert expected.items() <= kinds.items()


def test_a_counter_name_ends_in_total_and_has_its_labels() -> None:
    metrics = Metrics()
    metrics.notifications["default", "pubsub"] += 1
    metrics.notifications["default", "pubsub"] += 1

    assert value(metrics, "s3s3_notifications_total", route="default", kind="pubsub") == 2


def test_a_single_label_needs_no_tuple() -> None:
    metrics = Metrics()
    metrics.oldest_pending_seconds["default"] = 12.5

    assert value(metrics, "s3s3_oldest_pending_seconds", route="default") == 12.5


def test_histogram_buckets_are_cumulative() -> None:
    metrics = Metrics()
    for seconds in (0.0005, 0.005, 0.005, 100_000):
        metrics.copy_duration_seconds["default", "swift"].observe(seconds)

    def at_most(bound: str) -> float | None:
        labels = {"route": "default", "destination": "swift", "le": bound}
        return value(metrics, "s3s3_copy_duration_seconds_bucket", **labels)

    assert [at_most(bound) for bound in ("0.001", "0.0025", "0.005", "3600.0", "+Inf")] == [1, 1, 3, 3, 4]
    total = value(metrics, "s3s3_copy_duration_seconds_sum", route="default", destination="swift")
    assert total == 0.0005 + 0.005 + 0.005 + 100_000


def test_only_copies_count_bytes_and_duration() -> None:
    metrics = Metrics()
    metrics.count_outcome("default", outcome(Result.COPIED, 4096), 0.01)
    metrics.count_outcome("default", outcome(Result.SAME, 4096), 0.01)
    metrics.count_outcome("default", outcome(Result.FAILED), 0.01)

    of_swift = {"route": "default", "destination": "swift"}
    assert value(metrics, "s3s3_copy_bytes_total", **of_swift) == 4096
    assert value(metrics, "s3s3_copy_duration_seconds_count", **of_swift) == 1
    for name in ("copied", "same", "failed"):
        assert value(metrics, "s3s3_copies_total", **of_swift, outcome=name) == 1


def test_initialize_series_creates_counters_at_zero() -> None:
    metrics = Metrics()
    metrics.initialize_series(ROUTE)

    for destination in ("swift", "ceph"):
        assert value(metrics, "s3s3_copies_total", route="default", destination=destination, outcome="failed") == 0
        assert value(metrics, "s3s3_retries_total", route="default", destination=destination) == 0
    assert value(metrics, "s3s3_verify_mismatch_total", route="default", store="source") == 0


def test_initialize_series_keeps_existing_counts() -> None:
    metrics = Metrics()
    metrics.copies["default", "swift", "copied"] += 3
    metrics.initialize_series(ROUTE)

    assert value(metrics, "s3s3_copies_total", route="default", destination="swift", outcome="copied") == 3


def test_no_label_is_a_key() -> None:
    metrics = Metrics(process=True)
    metrics.initialize_series(ROUTE)
    metrics.count_outcome("default", outcome(Result.COPIED, 1), 0.1)

    assert "some/key" not in metrics.page().decode()


def test_two_registries_are_independent() -> None:
    first, second = Metrics(), Metrics()
    first.notifications["default", "pubsub"] += 1

    assert value(second, "s3s3_notifications_total", route="default", kind="pubsub") is None


def test_build_info_has_the_version_and_process_metrics_are_optional() -> None:
    families = scraped(Metrics(process=True))

    assert families["s3s3_build_info"].samples[0].labels["version"] == __version__
    assert {"process_cpu_seconds", "process_open_fds", "python_info"} <= families.keys()
    assert "process_open_fds" not in scraped(Metrics())
