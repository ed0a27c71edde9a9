"""The dead-letter queue of a function: what Lambda gave up, and what EventBridge or Scheduler could not hand over to it."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from ekiben.aws.client import Cloud
from ekiben.aws.payloads import event_of, records, unknown_id
from ekiben.errors import EkibenError
from ekiben.records import Platform
from ekiben.runtime import Runtime

__all__ = ["Letter", "Letters"]

# While a letter is looked at, nobody else sees it; it is shown again as soon as that is over, and by itself after this time.
HIDDEN_S, READ_S = 120, 90.0
# https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/quotas-messages.html
BATCH = 10
# A queue that is asked without waiting does not tell all that is in it.
WAIT_S = 1
OTHERS_S = 10.0


@dataclass(frozen=True, kw_only=True)
class Letter:
    """One event of a message. event: empty where the payload is none; request: of Lambda's, empty where it never ran.

    turn: of the replay that failed; whole: there is nothing else in the message.
    """

    id: str
    event: dict[str, Any]
    payload: Any
    request: str
    turn: str
    error: str
    attempts: int
    at: str
    receipt: str
    whole: bool


class Letters:
    """The queue at a URL; an empty URL is one that is always empty."""

    def __init__(self, cloud: Cloud, url: str, operation: str) -> None:
        self._cloud, self._url, self._operation = cloud, url, operation

    @contextlib.contextmanager
    def held(self, platform: Platform, *, wanted: str = "") -> Iterator[list[Letter]]:
        """All that is in the queue, the oldest first, hidden from others meanwhile.

        wanted: an id whose letter is waited for, while others who look at the queue may have it.
        """
        receipts: list[str] = []
        try:
            found: list[Letter] = []
            for message in self._received(receipts):
                found.extend(_read(message, platform))
            deadline = time.monotonic() + OTHERS_S
            while wanted and all(one.id != wanted for one in found) and self._others(receipts, deadline):
                for message in self._received(receipts):
                    found.extend(_read(message, platform))
            yield sorted(found, key=lambda one: one.at)
        finally:
            for at in range(0, len(receipts), BATCH):
                entries = [
                    {"Id": str(number), "ReceiptHandle": receipt, "VisibilityTimeout": 0}
                    for number, receipt in enumerate(receipts[at : at + BATCH])
                ]
                with contextlib.suppress(EkibenError):  # it shows them by itself later
                    self._cloud.call(
                        "sqs", "change_message_visibility_batch", self._operation, QueueUrl=self._url, Entries=entries
                    )

    def remove(self, letter: Letter) -> None:
        """Take the letter's message away, unless it holds other events, too."""
        if letter.whole:
            self._cloud.call("sqs", "delete_message", self._operation, QueueUrl=self._url, ReceiptHandle=letter.receipt)

    def _received(self, receipts: list[str]) -> Iterator[dict[str, Any]]:
        deadline = time.monotonic() + READ_S
        while self._url and time.monotonic() < deadline:
            asked = {"MaxNumberOfMessages": BATCH, "VisibilityTimeout": HIDDEN_S, "WaitTimeSeconds": WAIT_S}
            told = {"MessageSystemAttributeNames": ["SentTimestamp"], "MessageAttributeNames": ["All"]}
            answer = self._cloud.call("sqs", "receive_message", self._operation, QueueUrl=self._url, **asked, **told)
            if not (messages := answer.get("Messages")):
                return
            receipts.extend(message["ReceiptHandle"] for message in messages)
            yield from messages

    def _others(self, receipts: list[str], deadline: float) -> bool:
        """Has somebody else letters of this queue in hand?"""
        if not self._url or time.monotonic() > deadline:
            return False
        name = "ApproximateNumberOfMessagesNotVisible"
        answer = self._cloud.call(
            "sqs", "get_queue_attributes", self._operation, QueueUrl=self._url, AttributeNames=[name]
        )
        return int(answer["Attributes"][name]) > len(receipts)


def _read(message: Mapping[str, Any], platform: Platform) -> Iterator[Letter]:
    said = {name: str(one.get("StringValue", "")) for name, one in message.get("MessageAttributes", {}).items()}
    at = datetime.fromtimestamp(int(message["Attributes"]["SentTimestamp"]) / 1000, UTC)
    try:
        body = json.loads(message["Body"])
    except ValueError:
        body = message["Body"]
    record: Mapping[str, Any] = body if isinstance(body, dict) and "requestPayload" in body else {}
    context, payload = record.get("requestContext", {}), record.get("requestPayload", body)
    request = said.get("RequestID") or str(context.get("requestId", ""))
    # Lambda's own words, EventBridge's and Scheduler's, and those of a destination.
    error = said.get("ErrorMessage") or said.get("ERROR_MESSAGE") or _raised(record.get("responsePayload"))
    attempts = int(context.get("approximateInvokeCount") or 0)
    turn = str(payload.get("turn", "")) if isinstance(payload, dict) else ""
    batch = isinstance(payload, dict) and isinstance(payload.get("Records"), list)
    parts = [part for _, part in records(payload)] if batch else [payload]
    for part in parts:
        try:
            event = event_of(part, Runtime(platform))
        except EkibenError:
            event = None
        yield Letter(
            id=event.id if event else unknown_id(part), event=event.to_dict() if event else {}, payload=part, request=request,
            turn=turn, error=error, attempts=attempts, receipt=message["ReceiptHandle"], whole=len(parts) == 1,
            at=at.isoformat(timespec="microseconds").replace("+00:00", "Z"),
        )  # fmt: skip


def _raised(response: Any) -> str:
    found = response if isinstance(response, dict) else {}
    return ": ".join(str(found[key]) for key in ("errorType", "errorMessage") if found.get(key))
