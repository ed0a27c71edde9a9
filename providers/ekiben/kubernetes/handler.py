"""The process in a function's pod: `python -m ekiben.kubernetes.handler`.

It looks for what starts the function, delivers each event at least once, with retries and growing pauses, and answers calls by
HTTP. Each call is a process of its own, with the station's own code: its limits, its end with all that it started. One call at a
time: the pod has the memory of one. Its environment says the rest: EKIBEN_FUNCTION (the facts), EKIBEN_PLATFORM, the store's keys.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import os
import re
import signal
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from ekiben.errors import EkibenError
from ekiben.kubernetes.adopting import heard, take_over
from ekiben.kubernetes.calls import TOKEN_HEADER
from ekiben.kubernetes.deliveries import Deliveries
from ekiben.kubernetes.facts import PORT, FunctionFacts
from ekiben.kubernetes.s3 import Refused, Store
from ekiben.kubernetes.triggers import KEPT, Bus, Landings
from ekiben.records import Event, now
from ekiben.station import processes
from ekiben.station.calls import Log, Outcome, call

__all__ = ["Handler", "main"]

LOOK_S, PRUNE_S, ADOPT_S = 1.0, 3600.0, 60.0
LONGEST_PAUSE_S = 3600.0
BODY_BYTES = 6 << 20
# Neither negative, which would be read to the end of the connection, nor anything else that is no length.
LENGTH = re.compile(r"[0-9]{1,12}")
TAIL_LINES = 20
# What the pod alone has to know.
OWN = ("EKIBEN_SERVER_TOKEN", "EKIBEN_FUNCTION", "EKIBEN_ARCHIVE", "PYTHONPATH", "HOSTNAME")


class Handler:
    """The function's deliveries and calls. `bundle`: the folder of its code; `scratch`: where its calls leave what they answer."""

    def __init__(self, name: str, facts: FunctionFacts, store: Store, bundle: Path, scratch: Path) -> None:
        self.name, self.facts, self._store, self._bundle, self._scratch = name, facts, store, bundle, scratch
        self.deliveries = Deliveries(store, facts.deliveries_uri)
        self.log = Log(scratch / "log" / "log.txt")
        self.stopping = asyncio.Event()
        self._turn = asyncio.Lock()
        self._open: dict[str, dict[str, Any]] = {}
        self._bus: Bus
        self._landings: list[Landings] = []
        self._env = {key: value for key, value in os.environ.items() if not key.startswith(OWN)}

    async def run(self) -> None:
        """Look, and deliver, until it is told to stop. What runs then is given back: it is delivered again.

        Raises what they cannot go on after, so that the pod ends, and says why: one that goes on would look well, and do nothing.
        """
        going = (self.stopping.wait(), self._look(), self._deliver(), self._adopt())
        tasks = [asyncio.create_task(one) for one in going]
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for task in done:
            task.result()

    async def begin(self) -> None:
        """Know what is new from here on. Until then the pod is not ready; the store may be away for a while."""
        while not self.stopping.is_set():
            try:
                await asyncio.to_thread(self._resume)
                await asyncio.to_thread(self._begin)
                return
            except (OSError, Refused, ValueError) as error:
                _say(f"it could not begin: {error}")
            await asyncio.sleep(LOOK_S)

    async def called(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """What an HTTP call comes to: {"result"}, or {"error", "tail"}."""
        event = Event(id=f"http-{uuid.uuid4().hex}", type="Http", source=self.name, time=now(), data=dict(data))
        outcome = await self._call(event)
        if outcome.error:
            return {"error": outcome.error, "tail": self.log.tail(event.id, TAIL_LINES)}
        return {"result": outcome.result}

    def _resume(self) -> None:
        path = self.log.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self.deliveries.log())
        for one in self.deliveries.waiting():
            # One that ran did so in a pod that is gone.
            self._open[one["id"]] = {
                **one,
                "state": "waiting",
                "next_at": time.time() if one["state"] == "running" else one["next_at"],
            }

    async def _look(self) -> None:
        """See what has come. The store may be away for a while."""
        pruned = float("-inf")
        while True:
            try:
                await asyncio.to_thread(self._seen)
                if time.monotonic() - pruned > PRUNE_S:
                    pruned = time.monotonic()
                    await asyncio.to_thread(self._prune)
            except (OSError, Refused, ValueError) as error:
                _say(f"it could not look for events: {error}")
            await asyncio.sleep(LOOK_S)

    async def _adopt(self) -> None:
        """Take over what is decided in the mirrors of registries, if the function waits for it. What is wrong is said once."""
        registries, said = list(heard(self.facts.on)), set[str]()
        while True:
            for registry in registries:
                try:
                    await asyncio.to_thread(take_over, registry)
                except (EkibenError, OSError, ValueError) as error:
                    if str(error) not in said:
                        said.add(str(error))
                        _say(f"it could not look for decisions: {error}")
            await asyncio.sleep(ADOPT_S)

    def _begin(self) -> None:
        marks = self.deliveries.recalled("_marks") or {}
        bus = Bus(self._store, self.facts.bus, self.name, self.facts.on, marks.get("bus"))
        wanted = [one for one in self.facts.on if one["type"] == "NewData"]
        landings = [Landings(self._store, one, marks.get(_key(one))) for one in wanted]
        for one in landings:
            if not one.mark:
                list(one.look())
        self._bus, self._landings = bus, landings
        self.deliveries.remember("_marks", self._marks())

    def _seen(self) -> None:
        before = self._marks()
        for looked in (self._bus.look(), *(one.look() for one in self._landings)):
            for event in looked:
                self._take(event)
        for one in self.deliveries.asked_again():
            fresh = {**one, "state": "waiting", "attempts": 0, "next_at": time.time(), "ended_at": ""}
            self.deliveries.save(fresh)
            self._open[one["id"]] = fresh
        if (after := self._marks()) != before:
            self.deliveries.remember("_marks", after)

    def _marks(self) -> dict[str, Any]:
        return {"bus": self._bus.mark, **{_key(one.trigger): dict(one.mark) for one in self._landings}}

    def _take(self, event: Event) -> None:
        if event.id in self._open or self.deliveries.known(event.id):
            return
        one = {
            "id": event.id, "event": event.to_dict(), "state": "waiting", "attempts": 0, "error": "", "created_at": now(),
            "next_at": time.time(), "ended_at": "", "log_uri": f"{self.facts.deliveries_uri}/log.txt",
        }  # fmt: skip
        self.deliveries.save(one)
        self._open[event.id] = one

    def _prune(self) -> None:
        self._bus.prune()
        self.deliveries.prune((datetime.now(UTC) - KEPT).isoformat(timespec="milliseconds").replace("+00:00", "Z"))

    async def _deliver(self) -> None:
        while True:
            # A copy: what has come is put there from a thread.
            due = [one for one in list(self._open.values()) if one["next_at"] <= time.time()]
            if not due:
                await asyncio.sleep(LOOK_S / 4)
                continue
            one = min(due, key=lambda one: (one["next_at"], one["created_at"]))
            try:
                await self._attempt(one)
            except (OSError, Refused) as error:
                _say(f"it could not tell how {one['id']} went: {error}")
                one["next_at"] = time.time() + LOOK_S

    async def _attempt(self, one: dict[str, Any]) -> None:
        one.update(state="running", attempts=one["attempts"] + 1)
        await asyncio.to_thread(self.deliveries.save, dict(one))
        outcome = await self._call(Event.from_dict(one["event"]))
        one["error"] = outcome.error
        if not outcome.error:
            one.update(state="done", ended_at=now())
        elif one["attempts"] > self.facts.retries:
            one.update(state="dead", ended_at=now())
        else:
            pause_s = min(self.facts.backoff_s * 2 ** (one["attempts"] - 1), LONGEST_PAUSE_S)
            one.update(state="waiting", next_at=time.time() + pause_s)
        await asyncio.to_thread(self.deliveries.save, dict(one))
        if one["state"] != "waiting":
            self._open.pop(one["id"], None)

    async def _call(self, event: Event) -> Outcome:
        async with self._turn:
            try:
                return await call(
                    python=Path(sys.executable), bundle=self._bundle, folder=self._scratch, delivery=event.id, event=event,
                    env=self._env, timeout_s=self.facts.timeout_s, memory_mib=self.facts.memory_mib, log=self.log,
                )  # fmt: skip
            finally:
                with contextlib.suppress(OSError, Refused):
                    await asyncio.to_thread(self._keep_log)

    def _keep_log(self) -> None:
        self.deliveries.put_log(self.log.read().encode())


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    answer: Callable[[Mapping[str, Any]], dict[str, Any]]
    token: str
    open: bool


class _Request(BaseHTTPRequestHandler):
    """POST /call with a JSON object; GET /readyz."""

    server: _Server
    protocol_version = "HTTP/1.1"
    timeout = 60

    def do_GET(self) -> None:
        self._reply(HTTPStatus.OK if self.path == "/readyz" else HTTPStatus.NOT_FOUND, {})

    def do_POST(self) -> None:
        length = self.headers.get("content-length") or "0"
        if not LENGTH.fullmatch(length) or int(length) > BODY_BYTES:
            self.close_connection = True
            self._reply(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, {"error": f"{BODY_BYTES} bytes are the most"})
            return
        body = self.rfile.read(int(length))
        given = self.headers.get("authorization", "").removeprefix("Bearer ") or self.headers.get(TOKEN_HEADER, "")
        if not hmac.compare_digest(given.encode(), self.server.token.encode()):
            self._reply(HTTPStatus.UNAUTHORIZED, {"error": "the token is missing or wrong"})
        elif self.path not in ("/", "/call") or not self.server.open:
            self._reply(HTTPStatus.NOT_FOUND, {"error": "the function is not called by HTTP"})
        else:
            try:
                data = json.loads(body or b"{}")
            except ValueError:
                self._reply(HTTPStatus.BAD_REQUEST, {"error": "what was sent is no JSON"})
                return
            told = self.server.answer(data if isinstance(data, dict) else {"body": data})
            self._reply(HTTPStatus.INTERNAL_SERVER_ERROR if "error" in told else HTTPStatus.OK, told)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: a call has its log."""

    def _reply(self, status: HTTPStatus, told: Mapping[str, Any]) -> None:
        body = json.dumps(told, allow_nan=False).encode()
        with contextlib.suppress(OSError):  # who has asked may have gone
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)


async def serve(handler: Handler, token: str, port: int = PORT) -> None:
    """Look, deliver and answer until the handler is told to stop."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, handler.stopping.set)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])  # as `bootstrap` has left it, it waits
    await handler.begin()
    server = _Server(("", port), _Request)
    server.token, server.open = token, any(one["type"] == "Http" for one in handler.facts.on)
    server.answer = lambda data: asyncio.run_coroutine_threadsafe(handler.called(data), loop).result()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        await handler.run()
    finally:
        server.shutdown()
        server.server_close()


def main() -> int:
    """Be the function's pod."""
    processes.adopt_orphans()
    facts = FunctionFacts.from_json(os.environ["EKIBEN_FUNCTION"])
    token = os.environ["EKIBEN_SERVER_TOKEN"]
    if not token:
        raise EkibenError("EKIBEN_SERVER_TOKEN is empty: nobody could be told from anybody. Run `ekiben up` again.")
    with tempfile.TemporaryDirectory(prefix="ekiben-calls-", ignore_cleanup_errors=True) as scratch:
        bundle = Path(os.environ["EKIBEN_ARCHIVE"])

        async def run() -> None:
            handler = Handler(os.environ["EKIBEN_FUNCTION_NAME"], facts, Store.of_environment(), bundle, Path(scratch))
            await serve(handler, token, int(os.environ.get("EKIBEN_PORT", PORT)))

        asyncio.run(run())
    return 0


def _key(trigger: Mapping[str, Any]) -> str:
    """A trigger by what it looks at: another order of the spec is the same trigger."""
    return json.dumps([trigger["uri"], trigger.get("prefix", ""), trigger.get("suffix", "")])


def _say(text: str) -> None:
    print(f"ekiben: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
