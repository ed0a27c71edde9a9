"""A request at the edge, and what goes back."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from urllib.parse import parse_qsl

from moto.iam.models import get_account_id_from

__all__ = ["Answer", "Call", "Refused"]

Environ = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What goes back to the caller."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""

    @staticmethod
    def of(value: Any, status: int = 200, **headers: str) -> Answer:
        more = {name.replace("_", "-"): text for name, text in headers.items()}
        body = json.dumps(value, default=str).encode()
        return Answer(status=status, headers={"Content-Type": "application/x-amz-json-1.1", **more}, body=body)


class Refused(Exception):
    """An error as a service answers it: `code` is the class that boto3 raises."""

    def __init__(self, code: str, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.code, self.message, self.status = code, message, status

    def answer(self) -> Answer:
        body = {"__type": self.code, "Type": "User", "message": self.message, "Message": self.message}
        return Answer.of(body, self.status, x_amzn_ErrorType=self.code)


class Call:
    """A request. `service` and `region` are those that it is signed for; `action` is there where the protocol names it."""

    def __init__(self, environ: Environ) -> None:
        self.environ = environ
        self.method: str = environ["REQUEST_METHOD"]
        self.path: str = environ.get("PATH_INFO", "").encode("latin-1").decode("utf-8", "replace")
        self.query = dict(parse_qsl(environ.get("QUERY_STRING", ""), keep_blank_values=True))
        self.action = environ.get("HTTP_X_AMZ_TARGET", "").rpartition(".")[2]
        self.service, self.region, self.key = "", "us-east-1", ""
        scope = environ.get("HTTP_AUTHORIZATION", "").partition("Credential=")[2].partition(",")[0].split("/")
        if len(scope) != 5:  # a request may be signed in its address
            scope = self.query.get("X-Amz-Credential", "").split("/")
        if len(scope) == 5:
            self.key, self.region, self.service = scope[0], scope[2], scope[3].lower()

    @property
    def account(self) -> str:
        return self.header("X-Moto-Account-Id") or get_account_id_from(self.key)

    @cached_property
    def body(self) -> bytes:
        """The whole body; moto can still read it afterwards."""
        data: bytes = self.environ["wsgi.input"].read(int(self.environ.get("CONTENT_LENGTH") or 0))
        self.environ["wsgi.input"] = io.BytesIO(data)
        return data

    @property
    def json(self) -> dict[str, Any]:
        return dict(json.loads(self.body or b"{}"))

    def header(self, name: str) -> str:
        return str(self.environ.get("HTTP_" + name.upper().replace("-", "_"), ""))
