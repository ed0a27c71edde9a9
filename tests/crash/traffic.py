"""Calls to the endpoint, all the while: what was answered is remembered, to be looked for afterwards."""

from __future__ import annotations

import json
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from ekiben.errors import AccessDenied, Unavailable
from ekiben.station.client import Client
from tests.waiting import PATIENCE_S

__all__ = ["Answer", "Traffic"]

ENDPOINT = "line-api"
PAUSE_S = 0.1
# What a caller may be told while something is down: try again.
TRY_AGAIN = (502, 503)


@dataclass(frozen=True)
class Answer:
    """One answer with status 200. `id` is empty where the station gives requests none."""

    id: str
    revision: str
    x: float
    y: float


class Traffic:
    """Calls at a slow pace from its own thread, from `start` to `stop`; `burst` calls at once from several."""

    def __init__(self, state_dir: Path) -> None:
        self.client = Client(state_dir)
        self.answers: list[Answer] = []
        self.sent = 0
        self.refused = 0
        self.wrong: list[str] = []
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        if self._thread is None:
            self._over.clear()
            self._thread = threading.Thread(target=self._go_on, daemon=True)
            self._thread.start()

    def stop(self) -> None:
        if self._thread is not None:
            self._over.set()
            self._thread.join()
            self._thread = None

    def call(self) -> bool:
        """One call; was it answered?"""
        with self._lock:
            self.sent += 1
            x = float(self.sent)
        try:
            got = self.client.send(
                "POST", f"/endpoints/{ENDPOINT}/predict", json.dumps({"x": x}).encode(), timeout_s=PATIENCE_S
            )
        except (Unavailable, AccessDenied):  # the station is down
            with self._lock:
                self.refused += 1
            return False
        with self._lock:
            if got.status == 200:
                revision = got.headers.get("ekiben-revision", "")
                self.answers.append(Answer(got.headers.get("ekiben-request-id", ""), revision, x, got.json()["y"]))
            else:
                self.refused += 1
            if got.status not in (200, *TRY_AGAIN):
                self.wrong.append(f"a call got HTTP {got.status}: {got.body[:300]!r}")
            if got.status == 503 and not got.headers.get("retry-after"):
                self.wrong.append("a call got HTTP 503 without Retry-After")
        return got.status == 200

    def burst(self, callers: int, each: int) -> list[Future[None]]:
        """Begin calls from `callers` at once: each goes on until it has had `each` answers, or has waited too long."""

        def caller(number: int) -> None:
            left, deadline = each, time.monotonic() + PATIENCE_S
            while left and time.monotonic() < deadline:
                answered = self.call()
                left -= answered
                if not answered:
                    time.sleep(PAUSE_S)
            if left:
                self.wrong.append(f"a caller had {left} calls without an answer after {PATIENCE_S:g} s")

        pool = ThreadPoolExecutor(callers)
        begun = [pool.submit(caller, number) for number in range(callers)]
        pool.shutdown(wait=False)
        return begun

    def _go_on(self) -> None:
        while not self._over.wait(PAUSE_S):
            self.call()
