"""An SQS queue that S3 sends its events to, by itself or by way of SNS or EventBridge.

A message is deleted once all that it names is on the queue of its routes. One that names no object is left alone: the
queue's own redrive policy takes it to the queue's dead letters.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import boto3
from botocore.config import Config as BotoConfig
from botocore.exceptions import BotoCoreError, ClientError

from ..errors import RedisUnavailable
from ..model import Notification
from ..queue.redis_retry import RedisRetry
from ..tasks import run_with_background, wait_with_timeout
from .message import printable_message
from .s3_events import events_in
from .source import Deliver, SourceHealth

log = logging.getLogger(__name__)

Answer = TypeVar("Answer")

POLLS_AT_ONCE = 2
"""One waits for Amazon while the other one's messages are put on the queue and deleted."""

MESSAGES_AT_ONCE = 10
POLL_S = 20
"""The most that SQS allows, of both (SQS API reference, "ReceiveMessage")."""

SILENT_S = 3.0 * POLL_S
INITIAL_BACKOFF_S = 0.5
MAX_BACKOFF_S = 30.0

DEFAULT_VISIBILITY_S = 30
"""A queue's own default, for one that does not let us ask (SQS developer guide, "visibility timeout")."""

_REGION = re.compile(r"https?://(?:sqs\.([a-z0-9-]+)|([a-z0-9-]+)\.queue)\.(?:amazonaws|api\.aws)\b")


class SqsSource:
    """Takes notices from an SQS queue.

    Args:
        region: None is the one in `url`, else boto3's own.
        endpoint_url: "" is Amazon's, for the region.
    """

    kind = "sqs"

    def __init__(
        self,
        url: str,
        routing: Deliver,
        *,
        region: str | None = None,
        endpoint_url: str = "",
        count: Callable[[str], None] = lambda kind: None,
    ) -> None:
        self._url = url
        self._region = region
        self._endpoint_url = endpoint_url
        self._routing = routing
        self._health = SourceHealth(str(self), SILENT_S, count)
        self._patience = RedisRetry()
        self._opening = asyncio.Lock()
        self._client: Any = None
        self._visibility_s = DEFAULT_VISIBILITY_S

    def __str__(self) -> str:
        return f"SQS queue {self._url.rpartition('/')[2]}"

    async def run(self, stop: asyncio.Event) -> None:
        await asyncio.gather(*(self._keep_polling(stop) for _ in range(POLLS_AT_ONCE)))

    async def _keep_polling(self, stop: asyncio.Event) -> None:
        pause_s = INITIAL_BACKOFF_S
        while not stop.is_set():
            try:
                await self._poll(stop)
                pause_s = INITIAL_BACKOFF_S
            except (BotoCoreError, ClientError) as error:
                self._health.failed(str(error))
                await wait_with_timeout(stop, pause_s)
                pause_s = min(pause_s * 2, MAX_BACKOFF_S)

    async def _poll(self, stop: asyncio.Event) -> None:
        async with self._opening:
            if self._client is None:
                await in_thread(self._open)
        messages = await _unless(stop, in_thread(self._receive))
        if messages is None:
            return  # what such a poll still brings becomes visible again, by itself
        self._health.answered()
        if messages:
            await self._take(messages, stop)

    def _open(self) -> None:
        client = connect(self._url, self._region, self._endpoint_url)
        try:
            found = client.get_queue_attributes(QueueUrl=self._url, AttributeNames=["VisibilityTimeout"])
            self._visibility_s = int(found["Attributes"]["VisibilityTimeout"])
        except ClientError as error:  # another right than to receive, and not needed
            log.info("%s: its visibility timeout cannot be asked for: %s", self, error)
        self._client = client

    def _receive(self) -> list[dict[str, Any]]:
        answer = self._client.receive_message(
            QueueUrl=self._url, MaxNumberOfMessages=MESSAGES_AT_ONCE, WaitTimeSeconds=POLL_S
        )
        return list(answer.get("Messages", []))

    async def _take(self, messages: Sequence[dict[str, Any]], stop: asyncio.Event) -> None:
        """Have messages delivered, and delete them; one that names no object becomes visible again, by itself."""
        notices: list[Notification] = []
        sound = []
        for message in messages:
            found, wrong = events_in(message["Body"])
            notices += found
            if wrong is None:
                sound.append(message)
            else:
                self._health.bad(wrong, printable_message(message["Body"].encode("utf-8", "replace")),
                                 "are left to the queue's own redrive policy")  # fmt: skip
        try:
            deliver = self._patience.run(partial(self._routing.deliver, notices, self.kind), stop)
            self._health.unrouted(await run_with_background(deliver, self._keep_invisible(sound)))
        except RedisUnavailable as error:
            log.warning("%s: %d messages are given back: %s", self, len(messages), error)
        else:
            await self._delete(sound)

    async def _keep_invisible(self, messages: Sequence[dict[str, Any]]) -> None:
        """Keep SQS from giving these messages to somebody else while they wait for Redis."""
        longer_s = max(self._visibility_s, DEFAULT_VISIBILITY_S)
        pause_s = max(self._visibility_s / 3, 0.3)
        while True:
            await asyncio.sleep(pause_s)
            if messages:
                entries = [{**entry, "VisibilityTimeout": longer_s} for entry in _entries(messages)]
                change = partial(self._client.change_message_visibility_batch, QueueUrl=self._url, Entries=entries)
                with contextlib.suppress(BotoCoreError, ClientError):  # then somebody else gets it, too: no harm
                    await in_thread(change)
            pause_s = longer_s / 3

    async def _delete(self, messages: Sequence[dict[str, Any]]) -> None:
        if not messages:
            return
        delete = partial(self._client.delete_message_batch, QueueUrl=self._url, Entries=_entries(messages))
        failed = (await in_thread(delete)).get("Failed")
        if failed:
            log.warning("%s: %d messages could not be deleted and come again: %s",
                        self, len(failed), failed[0].get("Message"))  # fmt: skip

    def health_problem(self) -> str:
        return self._health.health_problem()

    async def readiness_problems(self) -> list[str]:
        return self._health.readiness_problems()


def connect(url: str, region: str | None, endpoint_url: str) -> Any:
    """Return boto3's client for a queue, with boto3's own chain of credentials.

    Raises:
        BotoCoreError: there is no region.
    """
    found = _REGION.match(url)
    in_url = (found[1] or found[2]) if found else None
    return boto3.session.Session().client(
        "sqs",
        region_name=region or in_url,
        endpoint_url=endpoint_url or None,
        config=BotoConfig(connect_timeout=5, read_timeout=POLL_S + 10, retries={"total_max_attempts": 1}),
    )


def _entries(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"Id": str(number), "ReceiptHandle": one["ReceiptHandle"]} for number, one in enumerate(messages)]


async def _unless(stop: asyncio.Event, asked: Any) -> Any:
    """Return the answer, or None once `stop` is set."""
    task, stopping = asyncio.ensure_future(asked), asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait([task, stopping], return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        task.cancel()
        stopping.cancel()


async def in_thread(call: Callable[[], Answer]) -> Answer:
    """Call in a thread of its own, which keeps nobody from ending: a long poll may last for another 20 s."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[Answer] = loop.create_future()

    def settle(give: Callable[[Any], None], what: object) -> None:
        if not answer.done():
            give(what)

    def run() -> None:
        try:
            what: Any = call()
            give: Callable[[Any], None] = answer.set_result
        except Exception as error:  # noqa: BLE001  it is raised where it is waited for
            what, give = error, answer.set_exception
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(settle, give, what)

    threading.Thread(target=run, daemon=True, name="sqs").start()
    return await answer
