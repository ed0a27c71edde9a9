"""The prediction log of a server by itself: what the service answers to a POST, in the spool of a host (see spool.py)."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from .application import Application
from .exchange import Exchange
from .spool import Spool

__all__ = ["Predictions"]


class Predictions:
    """`start` takes up what others have left, `answering` logs, `stop` brings the last rows to storage.

    `given` is what `ekiben serve` has made of its options: folder (of the spool), storage_uri, share, compaction (a command),
    endpoint, revision and model_version.
    """

    def __init__(self, application: Application, given: dict[str, Any]) -> None:
        self._application, self._share = application, given["share"]
        self._named = {name: given[name] for name in ("endpoint", "revision", "model_version")}
        uri = given["storage_uri"]
        self.spool = Spool(Path(given["folder"]), lambda endpoint: uri, given["compaction"])
        self.start, self.stop = self.spool.start, self.spool.flush
        application.metrics.counters |= {
            "ekiben_predictions_logged_total": ("Predictions in the log", self.spool.logged.total),
            "ekiben_predictions_dropped_total": ("Predictions that the log could not take", self.spool.dropped.total),
        }

    def answering(self, exchange: Exchange, status: int, body: bytes | None) -> None:
        if exchange.method != b"POST" or exchange.endpoint not in self._application.routes:
            return
        trace = exchange.trace
        self.spool.write(
            self._share, id=exchange.id.decode("latin-1"), **self._named, route=exchange.path.lstrip("/"), status=status,
            latency_ms=(time.perf_counter() - exchange.started) * 1000, request=exchange.body, response=body,
            trace_id=trace.trace_id if trace is not None else "",
        )  # fmt: skip
