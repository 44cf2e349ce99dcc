"""Consume an SQS queue.

S3 sends its events there directly, or through SNS or EventBridge. A message is deleted once all its jobs are on the
queue. An unusable message is not deleted: the SQS queue's own redrive policy moves it to a dead-letter queue.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import boto3
from botocore.config import Config as BotoConfig
from botocore.exceptions import BotoCoreError, ClientError

from ..config import SqsSettings
from ..errors import RedisUnavailable
from ..model import Endpoint, Notification, Secret
from ..queue.redis_calls import RedisRetry
from ..s3 import TlsSettings, readable
from ..s3.boto3_bridge import client_options
from ..tasks import backoff_s, run_until_stopped, run_with_background, wait_with_timeout
from .message import printable_message
from .routing import Routing
from .s3_events import parse_events
from .source import NotificationSource, SourceHealth

log = logging.getLogger(__name__)

T = TypeVar("T")

#: Concurrent polls: one waits for SQS while the messages of the other are enqueued and deleted.
CONCURRENT_POLLS = 2

#: Messages and seconds per poll: the most that SQS allows (SQS API reference, "ReceiveMessage").
MAX_MESSAGES = 10
POLL_S = 20

#: An empty poll that is shorter is followed by a pause of this length, in seconds.
MIN_EMPTY_POLL_S = 1.0

MAX_SILENCE_S = 3.0 * POLL_S
INITIAL_BACKOFF_S = 0.5
MAX_BACKOFF_S = 30.0

#: Used if the queue's setting may not be read, in s (SQS developer guide, "visibility timeout").
DEFAULT_VISIBILITY_S = 30

_REGION = re.compile(r"https?://(?:sqs\.([a-z0-9-]+)|([a-z0-9-]+)\.queue)\.(?:amazonaws|api\.aws)\b")


class SqsSource(NotificationSource):
    """Receives notifications from an SQS queue."""

    kind = "sqs"

    def __init__(
        self, settings: SqsSettings, routing: Routing, *, count: Callable[[str], None] = lambda kind: None
    ) -> None:
        self._settings = settings
        self._url = settings.url
        self._routing = routing
        self._health = SourceHealth(str(self), MAX_SILENCE_S, count)
        self._retry = RedisRetry()
        self._connecting = asyncio.Lock()
        self._client: Any = None
        self._credentials: Any = None
        self._visibility_s = DEFAULT_VISIBILITY_S

    def __str__(self) -> str:
        return f"SQS queue {self._url.rpartition('/')[2]}"

    async def run(self, stop: asyncio.Event) -> None:
        await asyncio.gather(*(self._poll_loop(stop) for _ in range(CONCURRENT_POLLS)))

    async def _poll_loop(self, stop: asyncio.Event) -> None:
        failures = 0
        while not stop.is_set():
            try:
                async with self._connecting:
                    if self._client is None:
                        await run_in_thread(self._connect)
                started_s = time.monotonic()
                messages = await run_until_stopped(run_in_thread(self._receive), stop)
                if messages is None:
                    return  # what the abandoned poll still receives becomes visible again
                self._health.record_success()
                if messages:
                    await self._deliver(messages, stop)
                elif time.monotonic() - started_s < MIN_EMPTY_POLL_S:
                    await wait_with_timeout(stop, MIN_EMPTY_POLL_S)  # it does not wait for messages, as SQS does
            except (BotoCoreError, ClientError) as error:
                self._health.record_failure(self._readable(error))
            except Exception as error:  # for a response that is not SQS's botocore raises any exception
                reason = self._readable(f"unforeseen error: {error!r}")
                if reason != self._health.problem:
                    # The error itself may quote the whole response.
                    shown = RuntimeError(reason).with_traceback(error.__traceback__)
                    log.exception("%s: unforeseen error", self, exc_info=shown)
                self._health.record_failure(reason)
            else:
                failures = 0
                continue
            failures += 1
            await wait_with_timeout(stop, backoff_s(failures, INITIAL_BACKOFF_S, MAX_BACKOFF_S))

    def _connect(self) -> None:
        client = connect(self._settings)
        self._credentials = client._request_signer._credentials
        try:
            reply = client.get_queue_attributes(QueueUrl=self._url, AttributeNames=["VisibilityTimeout"])
            self._visibility_s = int(reply["Attributes"]["VisibilityTimeout"])
        except ClientError as error:  # a separate permission, and not essential
            log.info("%s: cannot read the visibility timeout; assuming %d s: %s", self, self._visibility_s,
                     self._readable(error))  # fmt: skip
        self._client = client

    def _readable(self, text: object) -> str:
        """Return text of a response for a message, without the credentials in use."""
        used = self._credentials.get_frozen_credentials() if self._credentials else None
        secret, token = (Secret(used.secret_key), Secret(used.token or "")) if used else (None, None)
        return readable(str(text), Endpoint("sqs", "", secret_access_key=secret, session_token=token))

    def _receive(self) -> list[dict[str, Any]]:
        reply = self._client.receive_message(
            QueueUrl=self._url, MaxNumberOfMessages=MAX_MESSAGES, WaitTimeSeconds=POLL_S
        )
        return list(reply.get("Messages", []))

    async def _deliver(self, messages: Sequence[dict[str, Any]], stop: asyncio.Event) -> None:
        """Deliver messages and delete them, except unusable ones, which become visible again."""
        notifications: list[Notification] = []
        usable = []
        for message in messages:
            found, problem = parse_events(message["Body"])
            notifications += found
            if problem is None:
                usable.append(message)
            else:
                self._health.count_bad(problem, printable_message(message["Body"].encode("utf-8", "replace")),
                                       "left to the redrive policy of the SQS queue")  # fmt: skip
        try:
            deliver = self._retry.run(partial(self._routing.deliver, notifications, self.kind), stop)
            unrouted = await run_with_background(deliver, self._extend_visibility(usable))
        except RedisUnavailable as error:
            log.warning("%s: released %d messages: %s", self, len(messages), error)
        else:
            self._health.count_unrouted(unrouted, self._routing)
            if usable:
                delete = partial(self._client.delete_message_batch, QueueUrl=self._url, Entries=_entries(usable))
                failed = (await run_in_thread(delete)).get("Failed")
                if failed:
                    log.warning("%s: %d messages were not deleted and will be received again: %s",
                                self, len(failed), self._readable(failed[0].get("Message")))  # fmt: skip

    async def _extend_visibility(self, messages: Sequence[dict[str, Any]]) -> None:
        """Keep messages invisible to other consumers while they wait for Redis."""
        extension_s = max(self._visibility_s, DEFAULT_VISIBILITY_S)
        pause_s = max(self._visibility_s / 3, 0.3)
        while True:
            await asyncio.sleep(pause_s)
            if messages:
                entries = [{**entry, "VisibilityTimeout": extension_s} for entry in _entries(messages)]
                change = partial(self._client.change_message_visibility_batch, QueueUrl=self._url, Entries=entries)
                with contextlib.suppress(BotoCoreError, ClientError):  # a second delivery does no harm
                    await run_in_thread(change)
            pause_s = extension_s / 3


def connect(settings: SqsSettings) -> Any:
    """Return boto3's client for a queue, with boto3's own credential chain.

    Raises:
        BotoCoreError: no region is configured.
    """
    found = _REGION.match(settings.url)
    region_in_url = (found[1] or found[2]) if found else None
    tls = TlsSettings(
        settings.ca_file, settings.verify_tls, settings.client_cert_file, settings.client_key_file
    )  # fmt: skip
    options = client_options(settings.endpoint_url or settings.url, tls)
    config = BotoConfig(connect_timeout=5, read_timeout=POLL_S + 10, retries={"total_max_attempts": 1})
    return boto3.session.Session().client(
        "sqs",
        region_name=settings.region or region_in_url,
        endpoint_url=settings.endpoint_url or None,
        verify=options["verify"],
        config=config.merge(options["config"]),
    )


def _entries(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"Id": str(number), "ReceiptHandle": message["ReceiptHandle"]} for number, message in enumerate(messages)]


async def run_in_thread(call: Callable[[], T]) -> T:
    """Call in a daemon thread, which does not delay the exit of the process: a long poll may last another 20 s."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def resolve(set_outcome: Callable[[Any], None], outcome: object) -> None:
        if not future.done():
            set_outcome(outcome)

    def run() -> None:
        try:
            outcome: Any = call()
            set_outcome: Callable[[Any], None] = future.set_result
        except Exception as error:  # noqa: BLE001  raised in the caller
            outcome, set_outcome = error, future.set_exception
        with contextlib.suppress(RuntimeError):  # the loop is closed already
            loop.call_soon_threadsafe(resolve, set_outcome, outcome)

    threading.Thread(target=run, daemon=True, name="sqs").start()
    return await future
