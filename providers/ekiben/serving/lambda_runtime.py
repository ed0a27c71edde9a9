"""AWS Lambda without a web adapter: a process beside the worker that fetches invocations and brings their answers back.

It is what AWS calls a runtime: it asks the Runtime API for the next invocation, hands it to the worker as the HTTP request that it
is, and posts the answer, or why there is none. One at a time: Lambda has no more in one environment. Standard library only.
Source: "Using the Lambda runtime API for custom runtimes" (AWS), version 2018-06-01.
"""

from __future__ import annotations

import http.client
import json
import os
import select
import signal
import socket
import time
from contextlib import suppress
from typing import Any, NamedTuple

from .lambda_events import Failed, request_of, result_of
from .sagemaker import PING

__all__ = ["RuntimeApi", "answer", "init_failed", "run"]

VERSION = "/2018-06-01/runtime"
# Lambda gives an environment 10 s to become ready, in which it has a whole core; it begins again when they are over.
INIT_S = 9.0
# Before the deadline, which ends the environment with all that it has loaded, the caller is told that it took too long.
MARGIN_S = 0.25
# "Payload limits": the answer of a function that is called synchronously, as JSON.
MAX_ANSWER_BYTES = 6 * 1024 * 1024 + 100


class Invocation(NamedTuple):
    id: str
    deadline_s: float
    trace: str
    event: Any


class Worker(http.client.HTTPConnection):
    """A connection to the worker, by its unix socket."""

    def __init__(self, path: str, timeout_s: float | None) -> None:
        super().__init__("localhost")
        self.path, self.timeout_s = path, timeout_s

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout_s)
        self.sock.connect(self.path)


class RuntimeApi:
    """The Runtime API at `address` (host:port). Each call raises OSError or HTTPException when it is gone, as it is at the end."""

    def __init__(self, address: str) -> None:
        self._connection = http.client.HTTPConnection(address)

    def next(self, told: int) -> Invocation | None:
        """The next invocation, whenever that comes; None when the descriptor `told` can be read before.

        Raises ConnectionError for an answer that is none.
        """
        if select.select([told], [], [], 0)[0]:
            return None
        self._send("GET", "/invocation/next")
        ready, _, _ = select.select([self._connection.sock, told], [], [])
        if self._connection.sock not in ready:
            return None
        status, headers, body = self._answer()
        if status != 200:
            raise ConnectionError(f"the Runtime API answers {status} where the next invocation was asked for")
        deadline_s = int(headers.get("Lambda-Runtime-Deadline-Ms") or 0) / 1000
        trace = headers.get("Lambda-Runtime-Trace-Id") or ""
        return Invocation(headers["Lambda-Runtime-Aws-Request-Id"], deadline_s, trace, json.loads(body or b"null"))

    def post(self, invocation: str, result: bytes) -> None:
        self._told(f"/invocation/{invocation}/response", result, {})

    def post_error(self, invocation: str, error: Failed) -> None:
        self._told(f"/invocation/{invocation}/error", _error(error, invocation), {_TYPE: error.kind})

    def post_init_error(self, error: Failed) -> None:
        self._told("/init/error", _error(error, ""), {_TYPE: error.kind})

    def _told(self, path: str, body: bytes, headers: dict[str, str]) -> None:
        self._send("POST", path, body, {"Content-Type": "application/json", **headers})
        status, _, said = self._answer()
        if status >= 500:  # "Container error. Non-recoverable state. Runtime should exit promptly."
            raise ConnectionError(f"the Runtime API answers {status}: {said.decode('utf-8', 'replace')}")
        if status != 202:
            print(f"ekiben: the Runtime API refuses {path}: {status} {said.decode('utf-8', 'replace')}", flush=True)

    def _send(self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> None:
        self._connection.request(method, VERSION + path, body, {"User-Agent": "ekiben", **(headers or {})})

    def _answer(self) -> tuple[int, http.client.HTTPMessage, bytes]:
        answer = self._connection.getresponse()
        return answer.status, answer.headers, answer.read()


_TYPE = "Lambda-Runtime-Function-Error-Type"


def run(address: str, path: str) -> None:
    """Bring the worker at the socket `path` its invocations until SIGTERM. Raises OSError and HTTPException when Lambda is gone."""
    told, tell = os.pipe()
    os.set_blocking(tell, False)
    signal.set_wakeup_fd(tell, warn_on_full_buffer=False)
    signal.signal(signal.SIGTERM, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # What is loaded before the first invocation is asked for is loaded with a whole core, and is no caller's time.
    with suppress(OSError, http.client.HTTPException):
        worker = Worker(path, INIT_S)
        worker.request("GET", PING)
        worker.getresponse().read()
        worker.close()
    api = RuntimeApi(address)
    while invocation := api.next(told):
        try:
            result = json.dumps(
                answer(invocation.event, path, invocation.deadline_s, invocation.id, invocation.trace),
                ensure_ascii=False,
            ).encode("utf-8", "surrogatepass")
            if len(result) > MAX_ANSWER_BYTES:
                raise Failed(
                    "Function.ResponseSizeTooLarge",
                    f"The answer has {len(result)} bytes, and Lambda takes {MAX_ANSWER_BYTES}. Ask for less at once.",
                )
        except Failed as error:
            print(f"ekiben: {invocation.id} {error.kind}: {error}", flush=True)
            api.post_error(invocation.id, error)
        else:
            api.post(invocation.id, result)


def answer(event: Any, path: str, deadline_s: float = 0.0, id: str = "", trace: str = "") -> Any:
    """What the worker at the socket `path` makes of an event: the result for Lambda. Raises Failed.

    `deadline_s` is a time of day (0: none); `id` and `trace` reach the worker as headers where the caller has sent none.
    """
    request = request_of(event)
    known = {name.lower() for name, _ in request.headers}
    own = (("x-request-id", id), ("x-amzn-trace-id", trace))
    headers = [*request.headers, *((name, value) for name, value in own if value and name not in known)]
    worker = Worker(path, max(deadline_s - time.time() - MARGIN_S, 0.001) if deadline_s else None)
    try:
        worker.putrequest(request.method, request.target, skip_host="host" in known, skip_accept_encoding=True)
        for name, value in headers:
            worker.putheader(name, value)
        if request.body or request.method in ("POST", "PUT", "PATCH"):
            worker.putheader("content-length", str(len(request.body)))
        worker.endheaders(request.body)
        got = worker.getresponse()
        status, given, body = got.status, got.getheaders(), got.read()
    except ValueError as error:
        raise Failed("Ekiben.Request", f"The event describes no HTTP request: {error}.") from error
    except TimeoutError:
        status, given = 504, [("content-type", "application/json")]
        body = b'{"error": "The function would have had to end before there was an answer."}'
    except (OSError, http.client.HTTPException) as error:
        raise Failed("Ekiben.WorkerEnded", f"The worker ended before it had answered: {error!r}.") from error
    finally:
        worker.close()
    return result_of(event, status, given, body)


def init_failed(address: str, why: str) -> None:
    """Tell Lambda that the function cannot start; nothing happens where it does not listen any more."""
    with suppress(OSError, http.client.HTTPException):
        RuntimeApi(address).post_init_error(Failed("Ekiben.ServiceFailed", why))


def _error(error: Failed, id: str) -> bytes:
    said = {"errorMessage": str(error), "errorType": error.kind, "requestId": id, "stackTrace": []}
    return json.dumps(said).encode()
