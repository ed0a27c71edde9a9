"""Calls of AWS: clients made once, with time limits and bounded retries, pages followed, errors translated."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from typing import Any

from ekiben.aws.errors import translated
from ekiben.errors import MissingDependency

__all__ = ["Cloud"]

CONNECT_TIMEOUT_S = 5
READ_TIMEOUT_S = 60
ATTEMPTS = 4
# A call of a function or a model is sent once: what runs long must not run twice because somebody got no answer.
PATIENT_TIMEOUT_S = 910

# Making a client takes tens of milliseconds, and a session is not safe to share while one is made.
_clients: dict[tuple[str, ...], Any] = {}
_making = threading.Lock()


class Cloud:
    """The services of one region, with the credentials that boto3 finds. Making one calls nothing, and imports nothing."""

    def __init__(self, region: str) -> None:
        self.region = region

    def call(self, service: str, operation: str, to: str, /, **request: Any) -> dict[str, Any]:
        """One call, tried again where that is safe: throttling, 5xx, no connection. `to` completes "cannot ..." in errors."""
        with translated(to):
            return dict(getattr(self._client(service), operation)(**request))

    def call_once(self, service: str, operation: str, to: str, /, **request: Any) -> dict[str, Any]:
        """One call that is sent once and may take as long as a function may run."""
        with translated(to):
            return dict(getattr(self._client(service, patient=True), operation)(**request))

    def pages(self, service: str, operation: str, to: str, /, **request: Any) -> Iterator[Any]:
        """The items of all pages of a list, asked for as they are read."""
        with translated(to):
            pages = self._client(service).get_paginator(operation)
            yield from pages.paginate(**request).search(pages.result_keys[0].expression)

    def _client(self, service: str, *, patient: bool = False) -> Any:
        seen = (
            "AWS_PROFILE",
            "AWS_ACCESS_KEY_ID",
            "AWS_ENDPOINT_URL",
            f"AWS_ENDPOINT_URL_{service.upper().replace('-', '_')}",
        )
        key = (service, self.region, str(patient), *(os.environ.get(name, "") for name in seen))
        with _making:
            if key not in _clients:
                _clients[key] = self._make(service, patient)
            return _clients[key]

    def _make(self, service: str, patient: bool) -> Any:
        try:
            import boto3
            from botocore.config import Config
        except ImportError as error:
            raise MissingDependency("boto3", "aws") from error
        config = Config(
            connect_timeout=CONNECT_TIMEOUT_S,
            read_timeout=PATIENT_TIMEOUT_S if patient else READ_TIMEOUT_S,
            retries={"mode": "standard", "total_max_attempts": 1 if patient else ATTEMPTS},
            tcp_keepalive=True,
            user_agent_extra="ekiben",
        )
        return boto3.session.Session(region_name=self.region).client(service, config=config)
