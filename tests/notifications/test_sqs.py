"""The SQS source against moto's server."""

from __future__ import annotations

import asyncio
import json
import time

import boto3
import pytest

from s3s3.config import SqsSettings
from s3s3.notifications import sqs as sqs_module
from s3s3.notifications.sqs import SqsSource, connect
from tests.notifications.senders import Receiver, SqsSender, event, listening, nothing_is_pending
from tests.notifications.test_s3_events import TEST_EVENT, in_eventbridge, in_sns, native
from tests.waiting import running, until

pytestmark = pytest.mark.usefixtures("own_keys")


async def test_messages_that_s3_sends_are_delivered(sqs_url: str) -> None:
    """As moto's S3 sends them: a test event first, and encoded keys."""
    sender = SqsSender(sqs_url)
    s3 = boto3.client("s3", region_name="us-west-2", endpoint_url=sqs_url)
    s3.create_bucket(Bucket="images", CreateBucketConfiguration={"LocationConstraint": "us-west-2"})
    arn = sender.client.get_queue_attributes(QueueUrl=sender.url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    s3.put_bucket_notification_configuration(
        Bucket="images",
        NotificationConfiguration={"QueueConfigurations": [{"QueueArn": arn, "Events": ["s3:ObjectCreated:*"]}]},
    )
    for key in ("a b/c+d.fits", "ü"):
        s3.put_object(Bucket="images", Key=key, Body=b"x")
    async with listening(sender) as (receiver, _):
        await until(lambda: len(receiver.notifications) == 2)
        await until(lambda: nothing_is_pending(sender))
    assert sorted(receiver.keys) == ["a b/c+d.fits", "ü"]
    assert {notification.bucket for notification in receiver.notifications} == {"images"}
    assert receiver.counted == []


async def test_all_records_in_any_envelope_are_delivered(sqs_url: str) -> None:
    sender = SqsSender(sqs_url)
    inner = json.loads(event("a+b", "c"))
    for content in (
        inner,
        in_sns(inner),
        in_eventbridge(native("e")),
        in_sns(in_eventbridge(native("f"))),
        TEST_EVENT,
        in_sns(TEST_EVENT),
    ):
        await sender.send_text(json.dumps(content))
    async with listening(sender) as (receiver, _):
        await until(lambda: len(receiver.notifications) >= 6)
        await until(lambda: nothing_is_pending(sender))
    assert sorted(receiver.keys) == ["a+b", "a+b", "c", "c", "e", "f"]


async def test_unusable_messages_are_left_to_the_redrive_policy(sqs_url: str) -> None:
    sender = SqsSender(sqs_url)
    dead = sender.queue("dead")
    arn = sender.client.get_queue_attributes(QueueUrl=dead, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    sender.client.set_queue_attributes(
        QueueUrl=sender.url,
        Attributes={"RedrivePolicy": json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": "2"})},
    )
    wrong = json.loads(event("other's"))
    wrong["Records"][0]["eventSource"] = "aws:dynamodb"
    for body in ("hello", json.dumps(wrong), event("good")):
        await sender.send_text(body)
    async with listening(sender) as (receiver, _):
        await until(lambda: has(sender, dead, 2), timeout_s=20)
    assert await sender.pending() == 0
    assert set(receiver.keys) == {"good"}
    assert sorted(receiver.counted) == ["not_json", "not_json", "wrong_source", "wrong_source"]


async def has(sender: SqsSender, url: str, number: int) -> bool:
    return await sender.pending(url) == number


@pytest.mark.long
async def test_messages_stay_invisible_while_redis_is_unavailable(sqs_url: str) -> None:
    sender = SqsSender(sqs_url, visibility_s=1)
    async with listening(sender) as (receiver, _):
        opened = asyncio.Event()
        receiver.wait = opened.wait
        await sender.send("key")
        await until(lambda: receiver.offered)
        await asyncio.sleep(2.5)
        found = sender.client.receive_message(QueueUrl=sender.url, WaitTimeSeconds=0)
        assert "Messages" not in found
        assert await sender.pending() == 1
        opened.set()
        await until(lambda: nothing_is_pending(sender))
    assert receiver.keys == ["key"]


async def test_more_messages_than_a_batch_are_delivered_and_deleted(sqs_url: str) -> None:
    sender = SqsSender(sqs_url, visibility_s=30)
    for number in range(35):
        await sender.send(f"key {number}")
    async with listening(sender) as (receiver, _):
        await until(lambda: len(receiver.notifications) == 35)
        await until(lambda: nothing_is_pending(sender))
    assert sorted(receiver.keys) == sorted(f"key {number}" for number in range(35))


async def test_a_missing_queue_is_reported_until_it_exists(
    sqs_url: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqs_module, "MAX_SILENCE_S", 0.5)
    monkeypatch.setattr(sqs_module, "MAX_BACKOFF_S", 0.2)
    sender = SqsSender(sqs_url)
    name = sender.url.rpartition("/")[2]
    sender.client.delete_queue(QueueUrl=sender.url)
    async with listening(sender) as (receiver, source):
        await until(source.readiness_problems)
        assert name in (await source.readiness_problems())[0]
        assert source.health_problem() == "", "a restart would not help"
        assert len([record for record in caplog.records if "notifications failed" in record.getMessage()]) == 1
        sender.client.create_queue(QueueName=name)
        await sender.send("key")
        await until(lambda: receiver.notifications)
        assert (source.health_problem(), await source.readiness_problems()) == ("", [])


async def test_an_unreachable_service_is_reported(own_keys: None, monkeypatch: pytest.MonkeyPatch) -> None:
    stop = asyncio.Event()
    source = SqsSource(SqsSettings("http://127.0.0.1:9/1/q", "us-west-2", "http://127.0.0.1:9"), Receiver())
    async with running(source.run(stop)) as task:
        await until(source.readiness_problems)
        began_s = time.monotonic()
        stop.set()
        await asyncio.wait_for(task, 5)
    assert time.monotonic() - began_s < 2


@pytest.mark.parametrize(
    ("url", "region", "expected"),
    [
        ("https://sqs.eu-central-1.amazonaws.com/1/q", None, "eu-central-1"),
        ("https://sqs.cn-north-1.amazonaws.com.cn/1/q", None, "cn-north-1"),
        ("https://us-west-2.queue.amazonaws.com/1/q", None, "us-west-2"),
        ("https://sqs.eu-central-1.amazonaws.com/1/q", "us-west-2", "us-west-2"),
        ("http://localhost:4566/1/q", None, "ap-south-1"),
    ],
)
def test_the_region_is_the_configured_one_else_the_url_s_else_boto3_s(
    url: str, region: str | None, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "ap-south-1")
    assert connect(SqsSettings(url, region, "")).meta.region_name == expected
