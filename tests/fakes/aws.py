"""An edge in front of moto's server: what moto pretends is put right by the test that needs it, in the words of AWS.

It fails what the test names, refuses a second job of a name, keeps jobs in the state that the test gives them, and stops them.
"""

from __future__ import annotations

import base64
import io
import json
import random
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, unquote

from ekiben.emulators.aws import provisioned
from ekiben.emulators.aws.call import Answer, Call, Refused as Denied
from ekiben.emulators.aws.sagemaker import update_endpoint
from ekiben.emulators.aws.versions import Changes
from tests.fakes.express import Express, Refused

ECS = "AmazonEC2ContainerServiceV20141113."
App = Callable[[dict[str, Any], Any], Any]
# Changes of a function, of which Lambda refuses one that comes too late; moto takes all.
CHANGE = re.compile(r"PUT /2015-03-31/functions/[^/]+/(configuration|code)|POST /2015-03-31/functions/[^/]+/versions")
REASONS = {
    200: "OK",
    202: "Accepted",
    204: "No Content",
    400: "Bad Request",
    403: "Forbidden",
    412: "Precondition Failed",
    429: "Too Many Requests",
    500: "Internal Server Error",
}


@dataclass(frozen=True, kw_only=True)
class Ran:
    """What a function returned; `error` says how it failed."""

    payload: Any = None
    error: str = ""
    log: str = "REPORT Duration: 1.00 ms"


class Edge:
    """`seen`: every call by its target ("SageMaker.CreateTrainingJob", or "PUT /path"), with its body."""

    def __init__(self, app: App) -> None:
        self._app, self._lock = app, threading.Lock()
        self._changes = Changes(lambda call: Answer())
        self.clear()

    def clear(self) -> None:
        self.seen: list[tuple[str, dict[str, Any]]] = []
        self._say: list[tuple[str, int, Any, dict[str, str]]] = []
        # What DescribeEndpoint says instead of moto, until the endpoint is deleted.
        self.endpoints: dict[str, dict[str, Any]] = {}
        self._jobs: dict[str, dict[str, Any]] = {}
        # Lambda's lists come in pages of this many, where moto gives all at once.
        self.page = 0
        # What runs when a function is called: given its name, the version that is to run, and the event.
        self.runs: Callable[[str, str, dict[str, Any]], Ran] | None = None
        # ECS Express, for the test that needs one.
        self.express: Express | None = None

    def fail(
        self, target: str, code: str, message: str = "as the test asked", *, status: int = 400, times: int = 1
    ) -> None:
        """Answer the next calls of `target` (how it ends) with an error."""
        for _ in range(times):
            self.say(target, status, {"__type": code, "message": message, "Type": "User"})

    def say(self, target: str, status: int, said: Any, headers: dict[str, str] | None = None) -> None:
        """Answer the next call of `target` with this."""
        self._say.append((target, status, said, headers or {}))

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
        if body.startswith(b"Action="):
            target += " " + body.decode().partition("&")[0]
        self.seen.append((target, asked))
        for number, (name, status, said, headers) in enumerate(self._say):
            if target.endswith(name):
                del self._say[number]
                return _reply(start, status, said, headers)
        if CHANGE.fullmatch(target) and (late := _answered(self._changes.answer, environ)).status != 200:
            return _reply(start, late.status, json.loads(late.body))
        if target == "SageMaker.DeleteEndpoint":
            self.endpoints.pop(asked["EndpointName"], None)
        if target == "SageMaker.DescribeEndpoint" and asked["EndpointName"] in self.endpoints:
            found = _parsed(b"".join(self._app(environ, lambda *_: None)))
            if "EndpointArn" in found:
                return _reply(start, 200, {**found, **self.endpoints[asked["EndpointName"]]})
            environ["wsgi.input"] = io.BytesIO(body)
        if target == "SageMaker.UpdateEndpoint":
            answer = update_endpoint(Call(environ))
            return _reply(start, answer.status, json.loads(answer.body))
        if self.express and target.startswith(ECS):
            try:
                said = self.express(target.removeprefix(ECS), asked)
            except Refused as refused:
                return _reply(start, 400, {"__type": refused.code, "message": str(refused)})
            if said is not None:
                return _reply(start, 200, said)
        if provisioned.PATH.fullmatch(environ["PATH_INFO"]):
            answered = _answered(provisioned.answer, environ)
            return _reply(start, answered.status, json.loads(answered.body or b"{}"))
        called = re.fullmatch(r"POST /endpoints/([^/]+)/invocations", target)
        if called and called[1] not in _endpoints(environ["HTTP_AUTHORIZATION"].split("/")[2]):
            why = f"Endpoint {called[1]} of account 123456789012 not found."
            return _reply(start, 400, {"__type": "ValidationError", "Message": why})
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
        if self.runs and (called := re.fullmatch(r"POST /2015-03-31/functions/([^/]+)/invocations", target)):
            return self._invoke(start, unquote(called[1]), parse_qs(environ["QUERY_STRING"]), environ, asked)
        if self.page and re.fullmatch(r"GET /2015-03-31/functions/[^/]+/versions", target):
            return self._paged(environ, start, "Versions")
        return list(self._app(environ, start))

    def _paged(self, environ: dict[str, Any], start: Any, key: str) -> list[bytes]:
        at = int(parse_qs(environ["QUERY_STRING"]).get("Marker", ["0"])[0])
        found = _parsed(b"".join(self._app(environ, lambda *_: None)))[key]
        more = {"NextMarker": str(at + self.page)} if at + self.page < len(found) else {}
        return _reply(start, 200, {key: found[at : at + self.page], **more})

    def _invoke(self, start: Any, name: str, query: Any, environ: dict[str, Any], event: dict[str, Any]) -> list[bytes]:
        assert self.runs is not None
        region = environ["HTTP_AUTHORIZATION"].split("/")[2]
        version = _version(name, query.get("Qualifier", ["$LATEST"])[0], region)
        if not version:
            return _reply(start, 404, {"__type": "ResourceNotFoundException", "Message": f"Function not found: {name}"})
        if environ.get("HTTP_X_AMZ_INVOCATION_TYPE") == "Event":
            self.runs(name, version, event)
            return _reply(start, 202, {})
        ran = self.runs(name, version, event)
        log = base64.b64encode(ran.log.encode()).decode()
        headers = {"X-Amz-Executed-Version": version, "X-Amz-Log-Result": log, "x-amzn-RequestId": "request-1"}
        if ran.error:
            headers["X-Amz-Function-Error"] = "Unhandled"
        payload = {"errorType": "Error", "errorMessage": ran.error} if ran.error else ran.payload
        return _reply(start, 200, payload, headers)

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


def _version(name: str, qualifier: str, region: str) -> str:
    """The version that a qualifier stands for; of an alias with weights one by chance. Empty where there is none."""
    from moto.awslambda.models import lambda_backends

    backend = lambda_backends["123456789012"][region]
    try:
        alias = backend.get_alias(qualifier, name)
    except Exception:
        try:
            return str(backend.get_function(name, qualifier).version)
        except Exception:
            return ""
    others = (alias.routing_config or {}).get("AdditionalVersionWeights") or {}
    shares = {alias.function_version: 1.0 - sum(others.values()), **others}
    return str(random.choices(list(shares), list(shares.values()))[0])


def _answered(addition: Callable[[Call], Answer], environ: dict[str, Any]) -> Answer:
    """What an addition of the emulator answers."""
    try:
        return addition(Call(environ))
    except Denied as denied:
        return denied.answer()


def _endpoints(region: str) -> Any:
    """The SageMaker endpoints of a region."""
    from moto.sagemaker.models import sagemaker_backends

    return sagemaker_backends["123456789012"][region].endpoints


def _reply(start: Any, status: int, said: Any, more: dict[str, str] | None = None) -> list[bytes]:
    body = (said if isinstance(said, str) else json.dumps(said)).encode()
    headers = [
        ("Content-Type", "application/x-amz-json-1.1"),
        ("Content-Length", str(len(body))),
        *(more or {}).items(),
    ]
    if status >= 400:
        headers.append(("x-amzn-errortype", str(said.get("__type", ""))))
    start(f"{status} {REASONS.get(status, 'Error')}", headers)
    return [body]
