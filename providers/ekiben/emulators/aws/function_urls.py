"""Function URLs that answer: below a path of the emulator, because a host name of their own would need a DNS of their own."""

from __future__ import annotations

import base64
import json
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any
from urllib.parse import unquote

from moto.awslambda.models import FunctionUrlConfig, lambda_backends

from ekiben.emulators.aws.asking import Asked
from ekiben.emulators.aws.call import Answer, Call
from ekiben.emulators.aws.functions import Functions
from ekiben.emulators.aws.metrics import count, lambda_dimensions

__all__ = ["PREFIX", "Urls"]

PREFIX = "/_function-urls/"
# Bodies of these are text; any other one travels as base64 (as API Gateway's payload format 2.0 has it).
TEXT = ("text/", "application/json", "application/xml", "application/javascript", "application/x-www-form-urlencoded")


class Urls:
    """Calls that make and change URLs go through moto, and the URL that it makes up is replaced by one that answers."""

    def __init__(self, functions: Functions, url: str, moto: Callable[[Call], Answer]) -> None:
        self._functions, self._url, self._moto = functions, url, moto

    def create(self, call: Call) -> Answer:
        answer = self._moto(call)
        if answer.status != 201:
            return answer
        config = self._config(call)
        config.qualifier = call.query.get("Qualifier", "")
        config.url = f"{self._url}{PREFIX}{uuid.uuid4().hex}/"
        return replace(answer, body=json.dumps(config.to_dict()).encode())

    def update(self, call: Call) -> Answer:
        """Moto changes only the cross-origin rules of a URL."""
        answer = self._moto(call)
        if answer.status < 300:
            config = self._config(call)
            config.config |= {
                key: value for key, value in call.json.items() if key in ("AuthType", "InvokeMode", "Cors")
            }
            answer = replace(answer, body=json.dumps(config.to_dict()).encode())
        return answer

    def asks(self, call: Call) -> list[Asked]:
        """What IAM is asked for a request to a URL; nothing where the URL is open to all, or is not there."""
        _, _, found = self._found(call)
        if found is None or found[1].config.get("AuthType") == "NONE":
            return []
        name, qualifier = found[1].function.function_name, getattr(found[1], "qualifier", "")
        whole = f"arn:aws:lambda:{found[1].function.region}:{found[0]}:function:{name}" + (
            f":{qualifier}" if qualifier else ""
        )
        return [Asked(f"lambda:{action}", whole) for action in ("InvokeFunctionUrl", "InvokeFunction")]

    def answer(self, call: Call) -> Answer:
        """A request to a URL."""
        id, path, found = self._found(call)
        if found is None:
            return _said(403, "Forbidden")
        account, config = found
        if config.config.get("AuthType") != "NONE" and call.service != "lambda":
            return _said(403, "Forbidden")
        name, qualifier = config.function.function_name, getattr(config, "qualifier", "")
        function = self._functions.resolve(account, config.function.region, name, qualifier or None)
        event = json.dumps(_event(call, id, "/" + path, account)).encode()
        outcome = self._functions.run(function, event, qualifier)
        answer = _said(502, "Internal Server Error") if outcome.error else _response(outcome.payload)
        where = lambda_dimensions(name, str(function.version), qualifier)
        counted = {
            "UrlRequestCount": 1.0,
            "Url4xxCount": answer.status // 100 == 4,
            "Url5xxCount": answer.status // 100 == 5,
        }
        values = {metric: (float(value), "Count") for metric, value in counted.items()}
        count(account, function.region, "AWS/Lambda", where, values)
        return answer

    def _found(self, call: Call) -> tuple[str, str, tuple[str, FunctionUrlConfig] | None]:
        """The id of the URL and the path below it, and whose URL it is."""
        id, _, path = call.path.removeprefix(PREFIX).partition("/")
        return id, path, next((one for one in _all() if f"{PREFIX}{id}/" in one[1].url), None)

    def _config(self, call: Call) -> Any:
        name = unquote(call.path.split("/")[3])
        return lambda_backends[call.account][call.region].get_function_url_config(name)


def _all() -> Iterator[tuple[str, FunctionUrlConfig]]:
    for account, regions in list(lambda_backends.items()):
        for backend in list(regions.values()):
            for function in backend.list_functions():
                if function.url_config is not None:
                    yield account, function.url_config


def _event(call: Call, id: str, path: str, account: str) -> dict[str, Any]:
    """Payload format 2.0 (https://docs.aws.amazon.com/lambda/latest/dg/urls-invocation.html)."""
    headers = {
        name.removeprefix("HTTP_").replace("_", "-").lower(): str(value)
        for name, value in call.environ.items()
        if name.startswith("HTTP_") or name in ("CONTENT_TYPE", "CONTENT_LENGTH") and value
    }
    cookies = headers.pop("cookie", "")
    now, text = time.time(), headers.get("content-type", "").startswith(TEXT)
    event: dict[str, Any] = {
        "version": "2.0", "routeKey": "$default", "rawPath": path, "rawQueryString": call.environ.get("QUERY_STRING", ""),
        "headers": headers,
        "requestContext": {
            "accountId": account if call.service else "anonymous", "apiId": id, "domainName": headers.get("host", ""),
            "domainPrefix": id, "requestId": str(uuid.uuid4()), "routeKey": "$default", "stage": "$default",
            "http": {
                "method": call.method, "path": path, "protocol": "HTTP/1.1", "sourceIp": "127.0.0.1",
                "userAgent": headers.get("user-agent", ""),
            },
            "time": time.strftime("%d/%b/%Y:%H:%M:%S +0000", time.gmtime(now)), "timeEpoch": int(now * 1000),
        },
        "isBase64Encoded": bool(call.body) and not text,
    }  # fmt: skip
    if call.query:
        event["queryStringParameters"] = call.query
    if cookies:
        event["cookies"] = [cookie.strip() for cookie in cookies.split(";")]
    if call.body:
        event["body"] = call.body.decode("utf-8") if text else base64.b64encode(call.body).decode()
    return event


def _response(payload: bytes) -> Answer:
    """What the function returned, as HTTP: an object with a status code says all, any other value is the body."""
    value = json.loads(payload or b"null")
    if not isinstance(value, dict) or "statusCode" not in value:
        body = value if isinstance(value, str) else json.dumps(value)
        return Answer(headers={"Content-Type": "application/json"}, body=body.encode())
    body = value.get("body") or ""
    data = base64.b64decode(body) if value.get("isBase64Encoded") else str(body).encode()
    headers = {
        "Content-Type": "application/json",
        **{str(key): str(one) for key, one in (value.get("headers") or {}).items()},
    }
    return Answer(status=int(value["statusCode"]), headers=headers, body=data)


def _said(status: int, message: str) -> Answer:
    return Answer(
        status=status, headers={"Content-Type": "application/json"}, body=json.dumps({"Message": message}).encode()
    )
