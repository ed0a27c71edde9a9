"""An edge in front of moto's server: what moto pretends is put right by the test that needs it, in the words of AWS.

It fails what the test names, refuses a second job of a name, keeps jobs in the state that the test gives them, and stops them.
"""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Callable
from typing import Any

App = Callable[[dict[str, Any], Any], Any]
REASONS = {200: "OK", 400: "Bad Request", 403: "Forbidden", 429: "Too Many Requests", 500: "Internal Server Error"}


class Edge:
    """`seen`: every call by its target ("SageMaker.CreateTrainingJob", or "PUT /path"), with its body."""

    def __init__(self, app: App) -> None:
        self._app, self._lock = app, threading.Lock()
        self.clear()

    def clear(self) -> None:
        self.seen: list[tuple[str, dict[str, Any]]] = []
        self._fail: list[tuple[str, int, dict[str, Any]]] = []
        self._jobs: dict[str, dict[str, Any]] = {}

    def fail(
        self, target: str, code: str, message: str = "as the test asked", *, status: int = 400, times: int = 1
    ) -> None:
        """Answer the next calls of `target` (how it ends) with an error."""
        self._fail += [(target, status, {"__type": code, "message": message, "Type": "User"})] * times

    def hold(self, job: str, **state: Any) -> None:
        """What DescribeTrainingJob says of a job beside or instead of what moto does; None takes a key away."""
        self._jobs.setdefault(job, {}).update(state)

    def count(self, target: str) -> int:
        return sum(name.endswith(target) for name, _ in self.seen)

    def __call__(self, environ: dict[str, Any], start: Any) -> list[bytes]:
        # moto keeps no lock: of many conditional writes at once several would succeed.
        with self._lock:
            return self._answer(environ, start)

    def _answer(self, environ: dict[str, Any], start: Any) -> list[bytes]:
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        environ["wsgi.input"] = io.BytesIO(body)
        target = environ.get("HTTP_X_AMZ_TARGET") or f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}"
        asked = _parsed(body)
        self.seen.append((target, asked))
        for number, (name, status, said) in enumerate(self._fail):
            if target.endswith(name):
                del self._fail[number]
                return _reply(start, status, said)
        name = asked.get("TrainingJobName", "")
        if target == "SageMaker.CreateTrainingJob":
            if name in self._jobs:
                why = f"Training job names must be unique within an AWS account and region, and {name} is taken."
                return _reply(start, 400, {"__type": "ResourceInUse", "message": why})
            self.hold(name)
        if target == "SageMaker.StopTrainingJob":
            return self._stop(start, name)
        if target == "SageMaker.DescribeTrainingJob" and name in self._jobs:
            return self._describe(environ, start, name)
        return list(self._app(environ, start))

    def _stop(self, start: Any, name: str) -> list[bytes]:
        if self._jobs.get(name, {}).get("TrainingJobStatus") != "InProgress":
            why = "The request was rejected because the training job is in status Completed"
            return _reply(start, 400, {"__type": "ValidationException", "message": why})
        self.hold(name, TrainingJobStatus="Stopping", SecondaryStatus="Stopping")
        return _reply(start, 200, {})

    def _describe(self, environ: dict[str, Any], start: Any, name: str) -> list[bytes]:
        told: list[Any] = []
        text = b"".join(self._app(environ, lambda status, headers, *rest: told.append(status)))
        if not told[0].startswith("200"):
            return _reply(start, int(told[0][:3]), _parsed(text))
        found = {key: value for key, value in {**_parsed(text), **self._jobs[name]}.items() if value is not None}
        if self._jobs[name].get("TrainingJobStatus") == "Stopping":
            self.hold(name, TrainingJobStatus="Stopped", SecondaryStatus="Stopped")
        return _reply(start, 200, found)


def _parsed(body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _reply(start: Any, status: int, said: dict[str, Any]) -> list[bytes]:
    body = json.dumps(said).encode()
    headers = [("Content-Type", "application/x-amz-json-1.1"), ("Content-Length", str(len(body)))]
    if status >= 400:
        headers.append(("x-amzn-errortype", str(said.get("__type", ""))))
    start(f"{status} {REASONS.get(status, 'Error')}", headers)
    return [body]
