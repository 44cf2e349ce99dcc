"""SQS, against moto's server: the queue's own rules are kept to."""

from __future__ import annotations

import asyncio
import json
import time

import boto3
import pytest

from s3s3.notifications import sqs as sqs_module
from s3s3.notifications.sqs import SqsSource, connect
from tests.notifications.senders import SqsSender, Taken, event, listening, nothing_is_held
from tests.notifications.test_s3_events import TEST_EVENT, in_eventbridge, in_sns, native
from tests.waiting import running, until

pytestmark = pytest.mark.usefixtures("own_keys")


async def test_s3_s_own_messages_to_a_queue_are_taken(sqs_url: str) -> None:
    """As moto's S3 writes them, which begins with a test event and encodes keys."""
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
    async with listening(sender) as (taken, _):
        await until(lambda: len(taken.notices) == 2)
        await until(lambda: nothing_is_held(sender))
    assert sorted(taken.keys) == ["a b/c+d.fits", "ü"]
    assert {notice.bucket for notice in taken.notices} == {"images"}
    assert taken.counted == []


async def test_whatever_envelope_it_comes_in_and_however_many_records_it_has(sqs_url: str) -> None:
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
    async with listening(sender) as (taken, _):
        await until(lambda: len(taken.notices) >= 6)
        await until(lambda: nothing_is_held(sender))
    assert sorted(taken.keys) == ["a+b", "a+b", "c", "c", "e", "f"]


async def test_what_names_no_object_is_left_to_the_queue_s_own_dead_letters(sqs_url: str) -> None:
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
    async with listening(sender) as (taken, _):
        await until(lambda: has(sender, dead, 2), patience_s=20)
    assert await sender.held() == 0
    assert set(taken.keys) == {"good"}
    assert sorted(taken.counted) == ["no JSON", "no JSON", "wrong source", "wrong source"]


async def has(sender: SqsSender, url: str, number: int) -> bool:
    return await sender.held(url) == number


async def test_a_message_stays_invisible_while_redis_is_away_for_longer_than_its_visibility(sqs_url: str) -> None:
    sender = SqsSender(sqs_url, visibility_s=1)
    async with listening(sender) as (taken, _):
        opened = asyncio.Event()
        taken.wait = opened.wait
        await sender.send("key")
        await until(lambda: taken.asked)
        await asyncio.sleep(2.5)
        found = sender.client.receive_message(QueueUrl=sender.url, WaitTimeSeconds=0)
        assert "Messages" not in found
        assert await sender.held() == 1
        opened.set()
        await until(lambda: nothing_is_held(sender))
    assert taken.keys == ["key"]


async def test_more_than_a_batch_is_taken_and_deleted(sqs_url: str) -> None:
    sender = SqsSender(sqs_url, visibility_s=30)
    for number in range(35):
        await sender.send(f"key {number}")
    async with listening(sender) as (taken, _):
        await until(lambda: len(taken.notices) == 35)
        await until(lambda: nothing_is_held(sender))
    assert sorted(taken.keys) == sorted(f"key {number}" for number in range(35))


async def test_a_queue_that_is_not_there_is_told_and_waited_for(
    sqs_url: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqs_module, "SILENT_S", 0.5)
    monkeypatch.setattr(sqs_module, "MAX_BACKOFF_S", 0.2)
    sender = SqsSender(sqs_url)
    name = sender.url.rpartition("/")[2]
    sender.client.delete_queue(QueueUrl=sender.url)
    async with listening(sender) as (taken, source):
        await until(source.readiness_problems)
        await until(source.health_problem)
        assert name in source.health_problem()
        assert name in (await source.readiness_problems())[0]
        assert len([one for one in caplog.records if "trying again until it works" in one.getMessage()]) == 1
        sender.client.create_queue(QueueName=name)
        await sender.send("key")
        await until(lambda: taken.notices)
        assert (source.health_problem(), await source.readiness_problems()) == ("", [])


async def test_a_service_that_is_away_is_told(own_keys: None, monkeypatch: pytest.MonkeyPatch) -> None:
    stop = asyncio.Event()
    source = SqsSource("http://127.0.0.1:9/1/q", Taken(), region="us-west-2", endpoint_url="http://127.0.0.1:9")
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
def test_the_region_is_the_one_given_else_the_url_s_else_boto3_s(
    url: str, region: str | None, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "ap-south-1")
    assert connect(url, region, "").meta.region_name == expected
