"""Training runs: submitted once, queued while the machine is full, each watched over by a supervisor that outlives the station."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from aiohttp import web

from ekiben.errors import AlreadyExists, EkibenError, NotFound, Unavailable
from ekiben.folder import system_error
from ekiben.records import Event, Job, Run, RunState, now
from ekiben.specs import TrainingSpec
from ekiben.station import machine, supervision
from ekiben.station.attempts import after
from ekiben.station.bundles import unpacked
from ekiben.station.edge import body_of
from ekiben.station.jobs import ask_of, check_capacity
from ekiben.station.noun import Context, Resource
from ekiben.station.staging import clear_away, result_uris, store_results
from ekiben.station.trouble import Trouble

__all__ = ["Trainings"]

DDL = """
create table if not exists runs (
  seq integer primary key autoincrement, id text not null unique, training text not null, state text not null,
  attempt integer not null default 1, record text not null, ask text not null, cpus text not null default '[]',
  gpus text not null default '[]');
create index if not exists runs_by_state on runs (state);
create index if not exists runs_by_training on runs (training);
"""

TICK_S = 0.1
CANCEL_SLACK_S = 30.0
LOG_CHUNK_BYTES = 1 << 20
IDLE_S = 5.0
TROUBLE_S = 1.0
STARTS = 3

logger = logging.getLogger(__name__)


class Trainings:
    """{"spec", "storage_uri", "code_uri", "code_sha256", "code", "input_uris"}: a way to train. Its runs are in SQLite."""

    kind = "training"

    def __init__(self, context: Context) -> None:
        self.context = context
        self.store = context.store
        self.store.declare(DDL)
        self._wake = asyncio.Event()
        self._follower: asyncio.Task[None] | None = None
        self._starting: dict[str, asyncio.Task[None]] = {}
        self._starts: dict[tuple[str, int], int] = {}
        self._gpus: list[machine.Gpu] | None = None
        self._trouble = Trouble()

    async def put(self, resource: Resource, before: Resource | None) -> Mapping[str, Any]:
        spec = TrainingSpec(**resource.spec["spec"])
        bundle = await asyncio.to_thread(unpacked, self.context.state_dir, resource.spec)
        if not (bundle / spec.entry).is_file():
            raise NotFound(
                "local", f"declare the training {resource.name!r}", f"there is no {spec.entry} in {spec.source}",
                "Correct `entry` or `source`",
            )  # fmt: skip
        return {}

    def exists(self, resource: Resource) -> bool:
        return (self.context.state_dir / "code" / str(resource.spec.get("code_sha256"))).is_dir()

    def code(self) -> set[str]:
        """The code, by its SHA-256, that runs which have not ended were submitted with."""
        rows = self.store.all("select ask from runs where state in ('pending', 'running')")
        return {str(json.loads(row["ask"])["code_sha256"]) for row in rows}

    async def delete(self, resource: Resource) -> None:
        """Cancel its runs and forget them; what they stored stays in the storage."""
        rows = self.store.all("select id, state from runs where training = ?", (resource.name,))
        for row in rows:
            if row["state"] in ("pending", "running"):
                await self._stop(row["id"])
        await self.store.in_turn(self.store.run, "delete from runs where training = ?", (resource.name,))
        for row in rows:
            await asyncio.to_thread(clear_away, self._dir(row["id"]))

    async def start(self) -> None:
        self._follower = asyncio.create_task(self._follow())

    async def stop(self) -> None:
        """Supervisors go on without us; the next station finds them."""
        tasks = [*([self._follower] if self._follower else []), *self._starting.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def routes(self) -> Sequence[web.RouteDef]:
        runs = "/v1/trainings/{name}/runs"
        return [
            web.post(runs, self._submit),
            web.get(runs, self._list),
            web.get(f"{runs}/{{id}}", self._show),
            web.get(f"{runs}/{{id}}/log", self._log),
            web.post(f"{runs}/{{id}}/cancel", self._cancel),
        ]

    def metrics(self) -> str:
        rows = self.store.all("select training, state, count(*) as n from runs group by training, state order by 1, 2")
        lines = [f'ekiben_runs{{training="{row["training"]}",state="{row["state"]}"}} {row["n"]}\n' for row in rows]
        return "# TYPE ekiben_runs gauge\n" + "".join(lines) if lines else ""

    async def _submit(self, request: web.Request) -> web.Response:
        resource = self._resource(request)
        job = Job.from_dict(await body_of(request))
        if (there := self._row(job.id)) is None:
            await self._add(resource, job)
            there = self._row(job.id)
        assert there is not None
        if there["training"] != resource.name:
            raise AlreadyExists(
                "local",
                f"submit the run {job.id!r}",
                f"the training {there['training']!r} has a run of that id",
                "Use another id",
            )
        return web.json_response(self._shown(there).to_dict())

    async def _add(self, resource: Resource, job: Job) -> None:
        ask = ask_of(resource, job, self.context.state_dir)
        check_capacity(ask, await self._find_gpus())
        run = Run(
            id=job.id, training=resource.name, state="pending", submitted_at=now(), nodes=ask["nodes"],
            params=ask["params"], model=ask["model"],
        )  # fmt: skip
        await self.store.in_turn(
            self.store.run,
            "insert into runs (id, training, state, record, ask) values (?, ?, 'pending', ?, ?) on conflict (id) do nothing",
            (job.id, resource.name, run.to_json(), json.dumps(ask)),
        )
        self._wake.set()

    async def _list(self, request: web.Request) -> web.Response:
        name = self._resource(request).name
        rows = self.store.all("select * from runs where training = ? order by seq desc", (name,))
        found = await asyncio.to_thread(lambda: [self._shown(row).to_dict() for row in rows])
        return web.json_response({"runs": found})

    async def _show(self, request: web.Request) -> web.Response:
        found = await asyncio.to_thread(self._shown, self._known(request))
        return web.json_response(found.to_dict())

    async def _log(self, request: web.Request) -> web.Response:
        ended = self._known(request)["state"] not in ("pending", "running")
        try:
            offset = max(0, int(request.query.get("offset", "0")))
        except ValueError:
            offset = 0
        chunk = await asyncio.to_thread(_chunk, self._dir(request.match_info["id"]) / "log.txt", offset, ended)
        last = ended and len(chunk) < LOG_CHUNK_BYTES
        headers = {"Ekiben-Offset": str(offset + len(chunk)), "Ekiben-Ended": "1" if last else "0"}
        return web.Response(body=chunk, content_type="text/plain", charset="utf-8", headers=headers)

    async def _cancel(self, request: web.Request) -> web.Response:
        row = self._known(request)
        await self._stop(row["id"])
        return web.json_response(self._shown(self._known(request)).to_dict())

    async def _stop(self, id: str) -> None:
        """Cancel a run, and wait until it has ended with all its processes."""
        if await self._dropped(id):
            return
        row = self._row(id)
        if row is None or row["state"] != "running":
            return
        self._dir(id).mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            (self._dir(id) / "cancel").touch()
        except OSError as error:
            raise system_error("local", f"cancel the run {id!r}", error) from error
        self._wake.set()
        deadline = asyncio.get_running_loop().time() + json.loads(row["ask"])["grace_s"] + CANCEL_SLACK_S
        while (row := self._row(id)) is not None and row["state"] in ("pending", "running"):
            if asyncio.get_running_loop().time() > deadline:
                raise Unavailable(
                    "local", f"cancel the run {id!r}", "its processes do not end", f"Look at {self._dir(id)}"
                )
            await asyncio.sleep(TICK_S / 2)

    async def _dropped(self, id: str) -> bool:
        """Cancel the run where it waits. An interrupted one has results of its own."""
        run_dir = self._dir(id)
        row = self._row(id)
        if row is None or row["state"] != "pending":
            return False
        stored = not (run_dir / "log.txt").exists() or await self._store_what_is_left(row, run_dir)

        def drop() -> bool:
            with self.store.transaction():
                now_there = self._row(id)
                if now_there is None or now_there["state"] != "pending":
                    return False
                self._conclude(now_there, {"state": "cancelled", "reason": "cancelled"})
                return True

        if not await self.store.in_turn(drop):
            return False
        await asyncio.to_thread(supervision.tidy, run_dir, stored=stored)
        return True

    async def _find_gpus(self) -> list[machine.Gpu]:
        if self._gpus is None:
            self._gpus = await asyncio.to_thread(machine.gpus)
        return self._gpus

    async def _follow(self) -> None:
        await self._find_gpus()
        while True:
            self._wake.clear()
            try:
                running = self.store.all("select * from runs where state = 'running' order by seq")
                for row in running:
                    await self._look(row)
                for row in await self.store.in_turn(self._admit):
                    self._begin(row)
                pause_s = TICK_S if running or self._starting else IDLE_S
            except Exception as error:
                self._trouble.tell("following the runs", error)
                pause_s = TROUBLE_S
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), pause_s)

    async def _look(self, row: Mapping[str, Any]) -> None:
        """Take up what has become of a running run's supervisor."""
        run_dir = self._dir(row["id"])
        if row["id"] in self._starting or await asyncio.to_thread(supervision.alive, run_dir):
            return
        status = await asyncio.to_thread(supervision.status, run_dir)
        if status is None or status["attempt"] != row["attempt"]:
            tries = self._starts[row["id"], row["attempt"]] = self._starts.get((row["id"], row["attempt"]), 0) + 1
            if tries <= STARTS:
                self._begin(row)
                return
            status = {"state": "failed", "reason": f"its supervisor does not start; see {run_dir / 'supervisor.log'}"}
        elif status["state"] == "running":
            status = await asyncio.to_thread(supervision.cut_short, run_dir, status)
        await self._ended(row, status)

    async def _ended(self, row: Mapping[str, Any], status: dict[str, Any]) -> None:
        """An attempt has ended: the run goes on with another, or has ended, too."""
        self._starts.pop((row["id"], row["attempt"]), None)
        cancelled = (self._dir(row["id"]) / "cancel").exists()
        run, status = after(
            Run.from_json(row["record"]), row["attempt"], json.loads(row["ask"]), status, cancelled=cancelled
        )
        if status["state"] == "pending":
            record = replace(run, state="pending", reason=status["reason"])
            await self.store.in_turn(
                self.store.run,
                "update runs set state = 'pending', attempt = attempt + 1, record = ?, cpus = '[]', gpus = '[]' where id = ?",
                (record.to_json(), row["id"]),
            )
        else:
            await self._finish({**row, "record": run.to_json()}, status)
        self._wake.set()

    async def _finish(self, row: Mapping[str, Any], status: dict[str, Any]) -> None:
        run_dir = self._dir(row["id"])
        if "stored" not in status and (run_dir / "log.txt").exists():
            status["stored"] = await self._store_what_is_left(row, run_dir)
        await self.store.in_turn(self._conclude, row, status)
        await asyncio.to_thread(supervision.tidy, run_dir, stored=status.get("stored", True))

    async def _store_what_is_left(self, row: Mapping[str, Any], run_dir: Path) -> bool:
        storage_uri = json.loads(row["ask"])["storage_uri"]
        try:
            await asyncio.to_thread(
                store_results, run_dir, storage_uri, row["training"], row["id"], model=False, note=logger.warning
            )
        except (EkibenError, OSError) as error:
            logger.warning("the results of the run %s are not stored, and stay in %s: %s", row["id"], run_dir, error)
            return False
        return True

    def _conclude(self, row: Mapping[str, Any], status: Mapping[str, Any]) -> None:
        """The run's last state, and its event, in one transaction."""
        uris = result_uris(json.loads(row["ask"])["storage_uri"], row["training"], row["id"])
        state: RunState = status["state"]
        stored = "ended_at" in status or self._dir(row["id"]).exists()
        before = Run.from_json(row["record"])
        run = replace(
            before, state=state, reason=status["reason"], ended_at=status.get("ended_at") or now(),
            metrics=status.get("metrics", {}), lineage=status.get("lineage", {}),
            model_uri=uris["model_uri"] if state == "succeeded" else "",
            output_uri=uris["output_uri"] if stored else "", log_uri=uris["log_uri"] if stored else "",
        )  # fmt: skip
        with self.store.transaction() as connection:
            connection.execute(
                "update runs set state = ?, record = ?, cpus = '[]', gpus = '[]' where id = ?",
                (state, run.to_json(), run.id),
            )
            self.context.publish(
                Event(id=f"training-ended-{run.id}", type="TrainingEnded", source=run.training, subject=run.id,
                      time=run.ended_at, data={"state": state, "reason": run.reason})
            )  # fmt: skip

    def _admit(self) -> list[dict[str, Any]]:
        """Give the runs that are next what they ask for, as long as the machine has room; a large one is not overtaken."""
        admitted: list[dict[str, Any]] = []
        for row in self.store.all("select * from runs where state = 'pending' order by seq"):
            ask = json.loads(row["ask"])
            running = [
                {**json.loads(one["ask"]), "cpus": json.loads(one["cpus"]), "gpus": json.loads(one["gpus"])}
                for one in self.store.all("select ask, cpus, gpus from runs where state = 'running'")
            ]
            given = supervision.allot(ask, running, machine.cpus(), machine.memory_mib(), self._gpus or [])
            if given is None:
                break
            before = Run.from_json(row["record"])
            record = replace(before, state="running", started_at=before.started_at or now(), attempts=row["attempt"])
            # It may have been cancelled meanwhile.
            if self.store.run(
                "update runs set state = 'running', record = ?, cpus = ?, gpus = ? where id = ? and state = 'pending'",
                (record.to_json(), json.dumps(given.cpus), json.dumps(given.gpus), row["id"]),
            ):
                fresh = self._row(row["id"])
                assert fresh is not None
                admitted.append(fresh)
        return admitted

    def _begin(self, row: Mapping[str, Any]) -> None:
        task = asyncio.create_task(self._launch(row))
        self._starting[row["id"]] = task
        task.add_done_callback(lambda _: self._starting.pop(row["id"], None))

    async def _launch(self, row: Mapping[str, Any]) -> None:
        """Prepare the code and its interpreter, then start the supervisor."""
        ask = json.loads(row["ask"]) | {
            "attempt": row["attempt"], "lost_s": Run.from_json(row["record"]).lost_s,
            "cpus": json.loads(row["cpus"]), "gpus": json.loads(row["gpus"]),
        }  # fmt: skip
        run_dir = self._dir(row["id"])
        try:
            await asyncio.to_thread(supervision.launch, run_dir, ask, self.context.state_dir)
        except (EkibenError, OSError) as error:
            await self._ended(row, {"state": "failed", "reason": f"it could not be started: {error}"})

    def _shown(self, row: Mapping[str, Any]) -> Run:
        run = Run.from_json(row["record"])
        if row["state"] == "running":
            return replace(run, metrics=supervision.live_metrics(self._dir(row["id"])))
        return replace(run, state=row["state"])

    def _row(self, id: str) -> dict[str, Any] | None:
        return self.store.one("select * from runs where id = ?", (id,))

    def _known(self, request: web.Request) -> dict[str, Any]:
        name, id = self._resource(request).name, request.match_info["id"]
        row = self._row(id)
        if row is None or row["training"] != name:
            raise NotFound("local", f"show the run {id!r}", f"the training {name!r} has no such run",
                           "List them with `ekiben runs`")  # fmt: skip
        return row

    def _resource(self, request: web.Request) -> Resource:
        return self.context.named(self.kind, request.match_info["name"])

    def _dir(self, id: str) -> Path:
        return self.context.state_dir / "runs" / id


def _chunk(path: Path, offset: int, ended: bool) -> bytes:
    """The log from `offset` on, cut after a line while the run goes on."""
    try:
        with path.open("rb") as file:
            file.seek(offset)
            data = file.read(LOG_CHUNK_BYTES)
    except FileNotFoundError:
        return b""
    whole = data[: data.rfind(b"\n") + 1]
    return data if ended and len(data) < LOG_CHUNK_BYTES else whole or (data if len(data) == LOG_CHUNK_BYTES else b"")
