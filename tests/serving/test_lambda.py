"""`ekiben serve` on Lambda: with the web adapter, and without, where it asks the Runtime API itself, as AWS's own client does."""

from __future__ import annotations

import base64
import importlib.util
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ekiben.packing.archive import files, write
from tests.fakes.lambda_runtime import Posted, Server, runtime_api
from tests.waiting import PATIENCE_S, until

from .conftest import folder
from .platforms import SERVICE, container, free_port, sealed, why_not_sealed

MORE = (
    SERVICE
    + """
    @bentoml.api
    def die(self) -> int:
        os._exit(70)

    @bentoml.api
    def large(self, count: int) -> str:
        return count * "x"

    @bentoml.api
    def asked(self, context: bentoml.Context, name: str) -> str:
        context.response.set_cookie("a", "1")
        context.response.set_cookie("b", "2")
        return context.request.headers.get(name, "") + " " + str(context.request.url.query)
"""
)
ROOT = Path(__file__).parents[2]
ROW = json.dumps({"x": [1, 2]})
# What Lambda sets in each environment. There is no home, and only /tmp can be written.
LAMBDA = {
    "AWS_LAMBDA_FUNCTION_NAME": "probe", "AWS_LAMBDA_FUNCTION_VERSION": "1", "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "1769",
    "AWS_REGION": "eu-west-1", "LAMBDA_TASK_ROOT": "/var/task", "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
}  # fmt: skip


def http(
    path: str, body: str | bytes | None = None, *, method: str = "POST", stage: str = "$default", **more: Any
) -> dict[str, Any]:
    """An event of a function URL (stage: of an API), payload format 2.0."""
    headers = {
        "content-type": "application/json",
        "host": "abc.lambda-url.eu-west-1.on.aws",
        "x-forwarded-proto": "https",
    }
    encoded = isinstance(body, bytes)
    return {
        "version": "2.0", "routeKey": "$default", "rawPath": path, "rawQueryString": "",
        "headers": {**headers, **more.pop("headers", {})},
        "requestContext": {
            "accountId": "anonymous", "apiId": "abc", "domainName": "abc.lambda-url.eu-west-1.on.aws", "stage": stage,
            "requestId": "e1506fd5", "time": "22/Nov/2026:08:00:00 +0000", "timeEpoch": 1795334400000,
            "http": {"method": method, "path": path, "protocol": "HTTP/1.1", "sourceIp": "1.2.3.4", "userAgent": "curl"},
        },
        "body": base64.b64encode(body).decode() if isinstance(body, bytes) else body, "isBase64Encoded": encoded,
        **more,
    }  # fmt: skip


@pytest.fixture
def api() -> Iterator[Server]:
    with runtime_api() as server:
        yield server
        assert server.wrong == []


def on_lambda(api: Server, bento: Path | str) -> dict[str, str]:
    return {**LAMBDA, "AWS_LAMBDA_RUNTIME_API": api.address, "EKIBEN_BENTO": str(bento), "PORT": "8080"}


def test_invocations_are_answered(tmp_path: Path, api: Server) -> None:
    with container(tmp_path, env=on_lambda(api, folder(tmp_path / "bento", MORE))) as running:
        posted = api.invoke(http("/predict", ROW))
        assert (posted.kind, posted.headers["content-type"]) == ("response", "application/json")
        assert (posted.json["statusCode"], posted.json["body"], posted.json["isBase64Encoded"]) == (200, "[2,4]", False)
        assert posted.json["headers"]["content-type"] == "application/json"
        assert not {"connection", "content-length"} & set(posted.json["headers"])
        assert api.invoke(http("/predict", ROW.encode())).json["body"] == "[2,4]"
        assert api.invoke(http("/prod/predict", ROW, stage="prod")).json["body"] == "[2,4]"
        assert api.invoke(http("/readyz", method="GET")).json["statusCode"] == 200
        assert api.invoke(http("/predict", "{")).json["statusCode"] == 400
        assert api.invoke(http("/nowhere/à b", ROW)).json["statusCode"] == 404
        asked = http("/asked", '{"name": "cookie"}', cookies=["k=v", "l=w"], rawQueryString="q=%C3%A9&r=1")
        answer = api.invoke(asked).json
        assert answer["body"] == "k=v; l=w q=%C3%A9&r=1"
        assert [cookie.partition(";")[0] for cookie in answer["cookies"]] == ["a=1", "b=2"]
        trace = api.invoke(http("/asked", '{"name": "x-amzn-trace-id"}')).json
        assert trace["body"].startswith("Root=1-5759e988")
        invocation = api.send(http("/predict", ROW))
        assert invocation.posted.get(timeout=PATIENCE_S).json["headers"]["x-request-id"] == invocation.id
        binary = api.invoke(http("/predict", ROW, headers={"accept": "application/x-npy"})).json
        assert binary["isBase64Encoded"] is True
        assert np.load(io.BytesIO(base64.b64decode(binary["body"]))).tolist() == [2, 4]
        assert running.stop() == 0


def test_a_call_without_http_is_one_of_the_default_method(tmp_path: Path, api: Server) -> None:
    with container(tmp_path, env=on_lambda(api, folder(tmp_path / "bento", MORE))):
        assert (posted := api.invoke({"x": [1.5]})).kind == "response"
        assert posted.json == [3.0]
        posted = api.invoke({"y": 1})
        assert (posted.kind, posted.json["errorType"]) == ("error", "Ekiben.Http400")
        assert posted.headers["lambda-runtime-function-error-type"] == "Ekiben.Http400"
        posted = api.invoke({"httpMethod": "POST", "path": "/predict", "body": ROW})
        assert (posted.kind, posted.json["errorType"]) == ("error", "Ekiben.PayloadFormat")
        assert api.invoke({"x": [1]}).json == [2]


def test_the_first_invocation_is_asked_for_when_it_can_be_answered(tmp_path: Path, api: Server) -> None:
    held = tmp_path / "held"
    held.touch()
    env = {**on_lambda(api, folder(tmp_path / "bento", MORE)), "HELD_BY": str(held)}
    with container(tmp_path, env=env):
        until(lambda: list(tmp_path.glob("ekiben-serve-*/1/tmp")), "the worker begins")
        assert not api.asked.is_set()
        held.unlink()
        assert api.asked.wait(PATIENCE_S)
        assert api.invoke(http("/predict", ROW)).json["body"] == "[2,4]"


def test_a_service_that_does_not_start_is_an_error_of_the_init(tmp_path: Path, api: Server) -> None:
    bento = folder(tmp_path / "bento", MORE + "\nraise RuntimeError('no licence')\n")
    with container(tmp_path, env=on_lambda(api, bento)) as running:
        posted = api.init_errors.get(timeout=PATIENCE_S)
        assert (posted.json["errorType"], posted.headers["lambda-runtime-function-error-type"]) == (
            "Ekiben.ServiceFailed", "Ekiben.ServiceFailed",
        )  # fmt: skip
        assert "ended with 1" in posted.json["errorMessage"]
        assert running.process.wait(PATIENCE_S) == 1
        assert "no licence" in running.said()
    assert not api.asked.is_set()


def test_a_worker_that_ends_fails_its_invocation_and_no_other(tmp_path: Path, api: Server) -> None:
    with container(tmp_path, env=on_lambda(api, folder(tmp_path / "bento", MORE))):
        posted = api.invoke(http("/die", "{}"))
        assert (posted.kind, posted.json["errorType"]) == ("error", "Ekiben.WorkerEnded")
        assert api.invoke(http("/predict", ROW)).json["body"] == "[2,4]"


def test_what_takes_too_long_or_is_too_large_is_said_before_lambda_ends_it_all(tmp_path: Path, api: Server) -> None:
    with container(tmp_path, env=on_lambda(api, folder(tmp_path / "bento", MORE))):
        assert api.invoke(http("/slow", '{"seconds": 3}'), timeout_s=1.5).json["statusCode"] == 504
        posted = api.invoke(http("/large", '{"count": 6291556}'))
        assert (posted.kind, posted.json["errorType"]) == ("error", "Function.ResponseSizeTooLarge")
        assert len(api.invoke(http("/large", '{"count": 6000000}')).json["body"]) == 6000000


def test_a_sigterm_ends_it_at_once_or_after_the_answer(tmp_path: Path, api: Server) -> None:
    bento = folder(tmp_path / "bento", MORE)
    with container(tmp_path, env=on_lambda(api, bento)) as running:
        assert api.asked.wait(PATIENCE_S)
        invocation = api.send(http("/slow", '{"seconds": 1}'))
        assert api.taken.wait(PATIENCE_S)
        running.process.send_signal(signal.SIGTERM)
        assert invocation.posted.get(timeout=PATIENCE_S).json["body"] == "1.0"
        assert running.process.wait(PATIENCE_S) == 0
    api.asked.clear()
    with container(tmp_path, env=on_lambda(api, bento)) as running:
        assert api.asked.wait(PATIENCE_S)
        assert running.stop() == 0
    assert not list(tmp_path.glob("ekiben-serve-*"))


def test_when_lambda_is_gone_it_ends(tmp_path: Path) -> None:
    with runtime_api() as api:
        bento = folder(tmp_path / "bento", MORE)
        with container(tmp_path, env=on_lambda(api, bento)) as running:
            assert api.asked.wait(PATIENCE_S)
            api.waiting.put(None)
            assert running.process.wait(PATIENCE_S) == 1


@pytest.mark.skipif(bool(why_not_sealed()), reason=why_not_sealed() or "it can")
def test_only_tmp_is_written(tmp_path: Path, api: Server) -> None:
    packed = write(files(folder(tmp_path / "bento", MORE)), tmp_path)
    writable = tmp_path / "tmp"
    writable.mkdir()
    env = {**on_lambda(api, packed.path.as_uri()), "TMPDIR": str(writable)}
    with container(tmp_path, env=env, command=sealed(writable)) as running:
        assert api.invoke(http("/predict", ROW)).json["body"] == "[2,4]"
        assert "Read-only" not in running.said()
        assert running.stop() == 0
    assert [path.name for path in writable.iterdir()] == [f"ekiben-{os.getuid()}"]


@pytest.mark.skipif(bool(why_not_sealed()), reason=why_not_sealed() or "it can")
def test_with_the_web_adapter_in_the_image_requests_come_by_http(tmp_path: Path, api: Server) -> None:
    """The adapter asks the Runtime API, polls for readiness, and sends what it was given to the port."""
    writable = tmp_path / "tmp"
    writable.mkdir()
    adapter = ("mount -t tmpfs none /opt", "mkdir -p /opt/extensions", "touch /opt/extensions/lambda-adapter")
    env = {
        **on_lambda(api, folder(tmp_path / "bento", MORE)), "TMPDIR": str(writable), "PORT": str(free_port()),
        "AWS_LWA_READINESS_CHECK_PATH": "/readyz", "AWS_LWA_ASYNC_INIT": "true",
    }  # fmt: skip
    with container(tmp_path, env=env, command=sealed(writable, *adapter)) as running:
        running.ready()
        given = {"content-type": "application/json", "x-amzn-lambda-context": "{}", "x-amzn-request-context": "{}"}
        assert running.send("POST", "/predict", ROW.encode(), given).json == [2, 4]
        assert running.stop() == 0
    assert not api.asked.is_set()


EVENTS: list[Any] = [
    http("/predict", ROW),
    http("/predict", ROW.encode()),
    http("/predict", "{"),
    http("/readyz", method="GET"),
    http("/large", '{"count": 70000}'),
    http("/asked", json.dumps({"name": "cookie"}), cookies=["k=v"], rawQueryString="a=b"),
    http("/predict", ROW, headers={"accept": "application/x-npy"}),
    {"x": [1, 2]},
    {"x": ["é\u2028\ud800"]},
    {"y": 1},
    {"httpMethod": "GET", "path": "/"},
    None,
    [1],
]


@pytest.mark.skipif(importlib.util.find_spec("awslambdaric") is None, reason="AWS's runtime client is not installed")
def test_lambda_hears_the_same_from_aws_s_own_client(tmp_path: Path) -> None:
    """The genuine client with our handler, and ours by itself, before the same worker: what each posts is the same."""
    path = str(tmp_path / "socket")
    with container(tmp_path, "--socket", path, env={"EKIBEN_BENTO": str(folder(tmp_path / "bento", MORE))}) as running:
        until(lambda: f"unix:{path}" in running.said(), "it is served")
        ours = "import sys; from ekiben.serving import lambda_runtime as l; l.run(*sys.argv[1:])"
        commands = {
            "aws": [sys.executable, "-m", "awslambdaric", "tests.serving.lambda_handler.handler"],
            "ours": [sys.executable, "-c", ours],
        }
        heard = {name: told(command, path) for name, command in commands.items()}
    for event, aws, own in zip(EVENTS, heard["aws"], heard["ours"], strict=True):
        assert (own.kind, without_id(own)) == (aws.kind, without_id(aws)), event
        assert own.headers["content-type"] == aws.headers["content-type"], event


def told(command: list[str], path: str) -> list[Posted]:
    with runtime_api() as api:
        if command[-1] != "tests.serving.lambda_handler.handler":
            command = [*command, api.address, path]
        env = {**os.environ, **LAMBDA, "AWS_LAMBDA_RUNTIME_API": api.address, "PROBE_SOCKET": path}
        process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            return [api.invoke(event) for event in EVENTS]
        finally:
            process.kill()
            process.wait()


def without_id(posted: Posted) -> Any:
    found = posted.json
    if posted.kind == "error":
        return found["errorType"], found["errorMessage"]
    if isinstance(found, dict):
        found["headers"].pop("x-request-id", None)
    return found
