"""The alerts and the dashboard, with a real Prometheus that scrapes a real listener."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import redis
import yaml

from s3s3.scripts.demo.rclone_server import RcloneServer
from tests.integration.commands import Listener, run, write_config
from tests.monitoring.prometheus import ALERTS, Prometheus, program
from tests.monitoring.test_health import free_port

HERE = Path(__file__).parent
DASHBOARD = HERE.parents[1] / "conf" / "grafana" / "s3s3.json"

pytestmark = pytest.mark.real


def expressions() -> list[str]:
    """Every query of the dashboard, with values for its variables."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    values = {"$route": ".*", "$job": "s3s3", "$__rate_interval": "30s"}
    found = [target["expr"] for panel in panels for target in panel["targets"]]
    return [re.sub(r"\$\w+", lambda name: values[name[0]], expression) for expression in found]


def alert_series() -> set[str]:
    """Every series that an alert uses."""
    rules = yaml.safe_load(ALERTS.read_text())["groups"][0]["rules"]
    return set(re.findall(r"s3s3_\w+", " ".join(rule["expr"] for rule in rules)))


@pytest.mark.long
def test_each_alert_fires_only_in_its_own_case() -> None:
    rules = {rule["alert"] for rule in yaml.safe_load(ALERTS.read_text())["groups"][0]["rules"]}
    cases = yaml.safe_load((HERE / "alerts_test.yml").read_text())["tests"]
    checks = [check for case in cases for check in case["alert_rule_test"]]
    assert {check["alertname"] for check in checks if check.get("exp_alerts")} == rules
    assert {check["alertname"] for check in checks if not check.get("exp_alerts")} == rules
    done = subprocess.run(
        [program("promtool"), "test", "rules", "alerts_test.yml"], cwd=HERE, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.long
def test_every_query_of_dashboard_and_alerts_finds_series_of_a_real_listener(
    rclone_store: RcloneServer, redis_url: str, new_bucket: Callable[..., str], tmp_path: Path
) -> None:
    source, copies = new_bucket(rclone_store), new_bucket(rclone_store)
    client = rclone_store.boto3_client()
    keys = [f"key-{number}" for number in range(10)]
    for key in keys:
        client.put_object(Bucket=source, Key=key, Body=b"content")
    client.create_bucket(Bucket=(deleted := f"deleted-{copies}"))
    destinations = [
        rclone_store.endpoint(copies, name="destination"),
        rclone_store.endpoint(deleted, name="destination-deleted"),
    ]
    target, port = f"127.0.0.1:{free_port()}", free_port()
    config = write_config(tmp_path, rclone_store.endpoint(source), destinations, redis_url, bind=target)
    with Listener(config), Prometheus(tmp_path, port, [target]) as prometheus:
        run("bucket", "--config", config)  # sets the time of the last reconcile
        for key in keys:
            client.delete_object(Bucket=deleted, Key=key)
        client.delete_bucket(Bucket=deleted)
        prometheus.wait_for("s3s3_consuming == 1")
        with redis.Redis.from_url(redis_url) as producer:
            for key in keys:
                producer.publish("backup", key)
        for expression in expressions():
            prometheus.wait_for(expression)
        for series in alert_series():
            assert prometheus.wait_for(f'{{__name__=~"{series}"}}'), series
        prometheus.wait_for('s3s3_circuit_open{destination="destination-deleted"} == 1')
        groups = prometheus.get("rules")["groups"]
        assert [rule["lastError"] for rule in groups[0]["rules"] if rule.get("lastError")] == []
        (alert,) = prometheus.wait_for('ALERTS{alertname="S3s3DestinationDown"}')
        assert (alert["metric"]["destination"], alert["metric"]["alertstate"]) == ("destination-deleted", "pending")
