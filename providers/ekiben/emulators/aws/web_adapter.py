"""Lambda's web adapter (https://github.com/awslabs/aws-lambda-web-adapter): events become requests to an HTTP server.

It takes the place of the Runtime API: events go in by `offer`, and what comes of them out by `told`.
"""

from __future__ import annotations

import http.client
import json
import queue
import threading
from collections.abc import Mapping
from typing import Any

from ekiben.emulators.aws.containers import Container
from ekiben.serving.lambda_events import Failed, Request, request_of, result_of

__all__ = ["WebAdapter"]

POLL_S = 0.01


class WebAdapter:
    """Of one container, with the variables of the image and the function, of which those that begin with AWS_LWA_ are for it."""

    def __init__(self, container: Container, variables: Mapping[str, str], timeout_s: float) -> None:
        self._container, self._timeout_s = container, timeout_s
        self._ready = variables.get("AWS_LWA_READINESS_CHECK_PATH", "/")
        self._other = variables.get("AWS_LWA_PASS_THROUGH_PATH", "/events")
        self._offered: queue.SimpleQueue[tuple[str, bytes] | None] = queue.SimpleQueue()
        self.told: queue.SimpleQueue[tuple[str, bytes]] = queue.SimpleQueue()
        self._closing = threading.Event()
        threading.Thread(target=self._run, daemon=True, name="web-adapter").start()

    def offer(self, id: str, payload: bytes) -> None:
        self._offered.put((id, payload))

    def close(self) -> None:
        self._closing.set()
        self._offered.put(None)

    def _run(self) -> None:
        while not self._container.answers(self._ready):
            if self._closing.wait(POLL_S) or self._container.exit_status is not None:
                return
        while (offered := self._offered.get()) is not None:
            id, payload = offered
            self.told.put(("started", b""))
            try:
                self.told.put(("response", json.dumps(self._answer(id, json.loads(payload))).encode()))
            except Failed as error:
                said = {"errorType": error.kind, "errorMessage": str(error)}
                self.told.put(("error", json.dumps(said).encode()))
            except (OSError, http.client.HTTPException):
                # It has ended, or was ended because its time was over: who waits for the answer sees that.
                return

    def _answer(self, id: str, event: Any) -> Any:
        by_http = isinstance(event, dict) and "http" in (event.get("requestContext") or {})
        body = json.dumps(event).encode()
        request = (
            request_of(event) if by_http else Request("POST", self._other, [("content-type", "application/json")], body)
        )
        headers = {**dict(request.headers), "content-length": str(len(request.body))}
        headers["x-amzn-lambda-context"] = json.dumps({"request_id": id})
        if by_http:
            headers["x-amzn-request-context"] = json.dumps(event["requestContext"])
        status, given, said = self._container.ask(
            request.method, request.target, headers, request.body, self._timeout_s + 1.0
        )
        if by_http:
            return result_of(event, status, given, said)
        try:
            return json.loads(said)
        except ValueError:
            return None
