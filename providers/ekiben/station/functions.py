"""Functions: what is declared, the loops that deliver events to them, and their routes."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import logging
import shutil
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from aiohttp import web

from ekiben.errors import EkibenError, FunctionFailed, ProviderError, SpecError, Unavailable
from ekiben.packing.fetch import path_of
from ekiben.records import Event, now
from ekiben.specs import FunctionSpec
from ekiben.station import processes, tokens
from ekiben.station.bundles import python_for, unpacked
from ekiben.station.calls import Log, Outcome, call
from ekiben.station.edge import body_of
from ekiben.station.events import Claim, Events
from ekiben.station.noun import Context, Resource
from ekiben.station.triggers import NewFiles, Schedules
from ekiben.station.trouble import Trouble, lacking

__all__ = ["Functions"]

CALLS = 4
HTTP_WAIT_S = 30.0
IDLE_S = 5.0
LACK_S = 2.0
POLL_S = 0.5
# A scan may take a twentieth of the time at most, however many files there are.
POLL_SHARE = 20
CLOCK_S = 15.0
PRUNE_S = 3600.0
KEEP = timedelta(days=30)

logger = logging.getLogger(__name__)


class Functions:
    """{"spec", "code_uri", "code_sha256", "platform", "bucket_uris", "uses"}: an event handler."""

    kind = "function"

    def __init__(self, context: Context, events: Events) -> None:
        self.context = context
        self.events = events
        self.schedules = Schedules(context.store, events)
        self.files = NewFiles(events, self._bucket)
        self._tasks: list[asyncio.Task[None]] = []
        self._calls: dict[str, set[asyncio.Task[Any]]] = {}
        self._wake = asyncio.Event()
        self._clock_wake = asyncio.Event()
        self._delivering = 0
        self._http = asyncio.Semaphore(CALLS)
        self._logs: dict[str, Log] = {}
        self._trouble = Trouble()

    async def put(self, resource: Resource, before: Resource | None) -> Mapping[str, Any]:
        spec = _spec(resource)
        bundle = await asyncio.to_thread(unpacked, self.context.state_dir, resource.spec)
        _check_handler(resource.name, bundle)
        await asyncio.to_thread(python_for, bundle)
        await self.context.store.in_turn(self._declare, resource, spec)
        self._clock_wake.set()
        return {"url": f"{self.context.url}/functions/{resource.name}"}

    def _declare(self, resource: Resource, spec: FunctionSpec) -> None:
        triggers = [trigger.model_dump() for trigger in spec.on]
        schedules = [(one["cron"], one["zone"]) for one in triggers if one["type"] == "Schedule"]
        with self.context.store.transaction():
            tokens.issue(self.context, resource.name, list(resource.spec.get("uses", ())))
            self.events.subscribe(resource.name, triggers, retries=spec.retries, backoff_s=spec.backoff_s)
            self.schedules.declare(resource.name, schedules, datetime.now(UTC))

    def _forget(self, function: str) -> None:
        with self.context.store.transaction():
            self.schedules.declare(function, [], datetime.now(UTC))
            self.events.forget(function)
            tokens.revoke(self.context, function)

    def exists(self, resource: Resource) -> bool:
        return (self.context.state_dir / "code" / str(resource.spec.get("code_sha256"))).is_dir()

    async def delete(self, resource: Resource) -> None:
        await self.context.store.in_turn(self._forget, resource.name)
        running = list(self._calls.pop(resource.name, ()))
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await asyncio.to_thread(shutil.rmtree, self._folder(resource.name), ignore_errors=True)

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        for function in set(self.events.functions()) - {one.name for one in self.context.resources(self.kind)}:
            self.events.forget(function)

        def due() -> None:
            loop.call_soon_threadsafe(self._wake.set)

        self.events.on_delivery = due
        # What a station that is gone had called may still run, whatever has become of its delivery.
        await asyncio.to_thread(processes.kill_marked, processes.STATION, str(self.context.state_dir))
        for left in (self.context.state_dir / "functions").glob("*/calls"):
            await asyncio.to_thread(shutil.rmtree, left, ignore_errors=True)
        self.events.recover()
        loops = {
            "delivering events": self._deliver,
            "following the clock": self._follow_clock,
            "following the files": self._follow_files,
        }
        for doing, run in loops.items():
            self._tasks.append(asyncio.create_task(_forever(run, doing, self._trouble)))

    async def stop(self) -> None:
        self.events.on_delivery = lambda: None
        tasks = [*self._tasks, *(task for tasks in self._calls.values() for task in tasks)]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._tasks.clear()

    @property
    def calling(self) -> bool:
        """Does a call run?"""
        return any(self._calls.values())

    def routes(self) -> Sequence[web.RouteDef]:
        one = "/v1/functions/{name}"
        return [
            web.post("/functions/{name}", self._called),
            web.get(f"{one}/deliveries", self._deliveries),
            web.post(f"{one}/deliveries/{{id}}/replay", self._replay),
            web.get(f"{one}/log", self._log_text),
            web.post("/v1/events", self._publish),
            web.get("/v1/events", self._events),
        ]

    def metrics(self) -> str:
        lines = [
            f'ekiben_deliveries{{function="{row["function"]}",state="{row["state"]}"}} {row["n"]}\n'
            for row in self.events.counts()
        ]
        return "# TYPE ekiben_deliveries gauge\n" + "".join(lines) if lines else ""

    async def _deliver(self) -> None:
        """Make the deliveries that are due, a few at once."""
        while True:
            self._wake.clear()
            while self._delivering < CALLS and (claim := await self.context.store.in_turn(self.events.claim)):
                self._delivering += 1
                task = asyncio.create_task(self._make(claim))
                self._track(claim.function, task)
                task.add_done_callback(self._delivered)
            due_s = self.events.next_due_s() if self._delivering < CALLS else None
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), IDLE_S if due_s is None else min(due_s + 0.01, IDLE_S))

    def _delivered(self, task: asyncio.Task[Any]) -> None:
        self._delivering -= 1
        self._wake.set()

    def _track(self, function: str, task: asyncio.Task[Any]) -> None:
        tasks = self._calls.setdefault(function, set())
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    async def _make(self, claim: Claim, *, final: bool = False) -> Outcome:
        resource = self.context.resource(self.kind, claim.function)
        if resource is None:
            # The declaration is written a moment after the subscription.
            await self._settle(partial(self.events.release, claim, after_s=POLL_S))
            return Outcome(error="the function is not declared yet")
        try:
            outcome = await self._run(resource, claim)
        except asyncio.CancelledError:
            if final:
                self.events.failed(claim, "the station stopped during the call", final=True)
            else:
                self.events.release(claim)
            raise
        except (EkibenError, OSError) as error:
            outcome = Outcome(error=f"the call could not be made: {error}")
            if not final and lacking(error):
                # It is the machine's fault, and no try of the function's.
                await self._settle(partial(self.events.release, claim, after_s=LACK_S))
                return outcome
        if outcome.error:
            await self._settle(partial(self.events.failed, claim, outcome.error, final=final))
        else:
            await self._settle(partial(self.events.done, claim, outcome.result))
        return outcome

    async def _settle(self, write: Callable[[], object]) -> None:
        """Write how a delivery stands. Where the disk does not take it, it is written when it does: else it would wait for ever."""
        while True:
            try:
                await self.context.store.in_turn(write)
                return
            except ProviderError as error:
                self._trouble.tell("writing how a delivery stands", error)
                await asyncio.sleep(LACK_S)

    async def _run(self, resource: Resource, claim: Claim) -> Outcome:
        spec = _spec(resource)
        bundle = await asyncio.to_thread(unpacked, self.context.state_dir, resource.spec)
        folder = self._folder(resource.name) / "calls" / claim.id
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        own = {
            processes.STATION: str(self.context.state_dir),
            "EKIBEN_PLATFORM": str(resource.spec.get("platform", "")),
            "EKIBEN_TOKEN": await self.context.store.in_turn(
                tokens.issue, self.context, resource.name, list(resource.spec.get("uses", ()))
            ),
            "EKIBEN_FUNCTION": resource.name,
        }
        try:
            return await call(
                python=await asyncio.to_thread(python_for, bundle), bundle=bundle, folder=folder, delivery=claim.id,
                event=claim.event, env={"TMPDIR": str(folder), **spec.env, **own}, timeout_s=spec.timeout_s,
                memory_mib=spec.memory_mib, log=self._log(resource.name),
            )  # fmt: skip
        finally:
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)

    async def _follow_clock(self) -> None:
        pruned_s = float("-inf")
        while True:
            self._clock_wake.clear()
            at = datetime.now(UTC)
            if time.monotonic() - pruned_s >= PRUNE_S:
                await self.context.store.in_turn(self.events.prune, (at - KEEP).isoformat())
                pruned_s = time.monotonic()
            await self.context.store.in_turn(self.schedules.fire, at)
            pause_s = self.schedules.pause_s(at, CLOCK_S)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._clock_wake.wait(), max(pause_s, 0.0) + 0.01)

    async def _follow_files(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            triggers = self.events.triggers("NewData")
            began_s = loop.time()
            if triggers:
                await asyncio.to_thread(self.files.scan, triggers)
            await asyncio.sleep(max(POLL_S, POLL_SHARE * (loop.time() - began_s)))

    async def _called(self, request: web.Request) -> web.Response:
        resource = self._resource(request)
        if not any(trigger.type == "Http" for trigger in _spec(resource).on):
            raise SpecError(f"The function {resource.name!r} has no address: give it the trigger ek.Http().")
        data = await body_of(request)
        try:
            await asyncio.wait_for(self._http.acquire(), HTTP_WAIT_S)
        except TimeoutError:
            raise Unavailable(
                "local",
                f"call the function {resource.name!r}",
                f"{CALLS} calls have run for {HTTP_WAIT_S:g} s",
                "Try again later",
            ) from None
        try:
            event = Event(id=f"http-{uuid.uuid4().hex}", type="Http", source=resource.name, time=now(), data=data)
            claim = await self.context.store.in_turn(self.events.claim_call, event, resource.name)
            task = asyncio.create_task(self._make(claim, final=True))
            self._track(resource.name, task)
            outcome = await asyncio.shield(task)
        except asyncio.CancelledError:
            if not task.cancelled():
                raise
            raise Unavailable(
                "local", f"call the function {resource.name!r}", "it was stopped meanwhile", "Try again"
            ) from None
        finally:
            self._http.release()
        if outcome.error:
            log = self._log(resource.name)
            raise FunctionFailed(
                f"local: the function {resource.name!r} failed: {outcome.error}.",
                log_uri=log.path.as_uri(),
                tail=await asyncio.to_thread(log.tail, claim.id),
            )
        return web.json_response({"result": outcome.result})

    async def _deliveries(self, request: web.Request) -> web.Response:
        name = self._resource(request).name
        found = self.events.deliveries(name, request.query.get("state", ""))
        log_uri = self._log(name).path.as_uri()
        return web.json_response({"deliveries": [{**delivery, "log_uri": log_uri} for delivery in found]})

    async def _replay(self, request: web.Request) -> web.Response:
        await self.context.store.in_turn(self.events.replay, self._resource(request).name, request.match_info["id"])
        return web.json_response({})

    async def _log_text(self, request: web.Request) -> web.Response:
        return web.Response(text=await asyncio.to_thread(self._log(self._resource(request).name).read))

    async def _publish(self, request: web.Request) -> web.Response:
        event = Event.from_dict(await body_of(request))
        await self.context.store.in_turn(self.events.publish, event)
        return web.json_response({})

    async def _events(self, request: web.Request) -> web.Response:
        return web.json_response({"events": list(self.events.last())})

    def _resource(self, request: web.Request) -> Resource:
        return self.context.named(self.kind, request.match_info["name"])

    def _bucket(self, storage: str) -> Path:
        for resource in self.context.resources(self.kind):
            if storage in resource.spec.get("bucket_uris", {}):
                return path_of(str(resource.spec["bucket_uris"][storage]))
        return self.context.state_dir / "buckets" / storage

    def _folder(self, name: str) -> Path:
        return self.context.state_dir / "functions" / name

    def _log(self, name: str) -> Log:
        return self._logs.setdefault(name, Log(self._folder(name) / "log.txt"))


def _spec(resource: Resource) -> FunctionSpec:
    return FunctionSpec(**resource.spec["spec"])


def _check_handler(name: str, bundle: Path) -> None:
    """Raise SpecError unless main.py of the bundle defines `handler`."""
    main = bundle / "main.py"
    if not main.is_file():
        raise SpecError(f"The function {name!r} has no main.py in its folder.")
    try:
        tree = ast.parse(main.read_bytes(), "main.py")
    except (SyntaxError, ValueError) as error:
        raise SpecError(f"The function {name!r}: main.py is no Python: {error}.") from error
    names = {
        alias.asname or alias.name for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    names |= {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    assigned = [target for node in tree.body if isinstance(node, ast.Assign) for target in node.targets]
    names |= {target.id for target in assigned if isinstance(target, ast.Name)}
    if "handler" not in names:
        raise SpecError(f"The function {name!r}: main.py defines no handler(event, runtime).")


async def _forever(run: Callable[[], Awaitable[None]], doing: str, trouble: Trouble) -> None:
    """Run a loop that must not end: what goes wrong in a round is told, and it goes on."""
    while True:
        try:
            await run()
        except Exception as error:
            trouble.tell(doing, error)
            await asyncio.sleep(1.0)
