"""A handler for AWS's own runtime client: it hands what it is given to a worker that is there already."""

from __future__ import annotations

import os
from typing import Any

from ekiben.serving import lambda_runtime
from ekiben.serving.lambda_events import Failed


def handler(event: Any, context: Any) -> Any:
    deadline_s = float(context._epoch_deadline_time_in_ms) / 1000
    try:
        return lambda_runtime.answer(event, os.environ["PROBE_SOCKET"], deadline_s, context.aws_request_id)
    except Failed as error:
        # AWS's client names an error by its class.
        raise type(error.kind, (Exception,), {})(str(error)) from None
