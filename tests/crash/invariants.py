"""What must be true of a project after any number of crashes: each check returns the sentences that say what is not."""

from __future__ import annotations

import json
import os
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import ekiben as ek
from ekiben.errors import EkibenError
from tests.crash.traffic import Answer
from tests.crash.victims import left_over

__all__ = ["after_destroy", "of_engine", "of_events", "of_files", "of_models", "of_predictions", "of_runs", "rows"]

FINAL = ("succeeded", "failed", "cancelled")
SUBSCRIBED = {
    "NewData": {"retrain"}, "TrainingEnded": {"register", "witness"}, "ModelDecided": {"release", "witness"}, "Said": {"witness"},
}  # fmt: skip


def rows(state_dir: Path, sql: str) -> list[dict[str, Any]]:
    with closing(sqlite3.connect(f"file:{state_dir / 'station.db'}?mode=ro", uri=True, timeout=10)) as connection:
        connection.row_factory = sqlite3.Row
        return [dict(row) for row in connection.execute(sql)]


def of_events(state_dir: Path, said: Iterable[str], landed: Mapping[str, str]) -> Iterator[str]:
    """Every event that was taken is there, once, and has one delivery for each function that waits for it, which has ended.

    said: ids of events that were published; landed: key -> etag of files that were put.
    """
    events = {row["id"]: json.loads(row["record"]) for row in rows(state_dir, "select id, record from events")}
    for id in set(said) - events.keys():
        yield f"the event {id} was published, and is lost"
    seen = Counter((one["subject"], one["data"]["etag"]) for one in events.values() if one["type"] == "NewData")
    for key, etag in landed.items():
        if seen[key, etag] != 1:
            yield f"the file {key} has landed once, and there are {seen[key, etag]} events of it"
    made: dict[str, list[dict[str, Any]]] = {id: [] for id in events}
    for row in rows(state_dir, "select * from deliveries"):
        made[row["event"]].append(row)
        if row["state"] not in ("done", "dead") or (row["state"] == "dead" and not row["error"]):
            yield f"the delivery of {row['event']} to {row['function']} is {row['state']}: {row['error']!r}"
        name = state_dir / "buckets" / "lake" / "seen" / f"{row['event']}.json"
        if row["state"] == "done" and row["function"] == "witness" and not name.is_file():
            yield f"the event {row['event']} was delivered, and nobody has seen it"
    for id, deliveries in made.items():
        to = sorted(one["function"] for one in deliveries)
        if to != sorted(SUBSCRIBED.get(events[id]["type"], ())):
            yield f"the event {id} ({events[id]['type']}) was delivered to {to}"


def of_runs(state_dir: Path, marks: Path) -> Iterator[str]:
    """Every run has ended once, truly, with a reason when it failed; its process never ran twice at once."""
    told = [json.loads(line) for line in marks.read_text("utf-8").splitlines()] if marks.exists() else []
    marked = Counter((one["run"], one["what"]) for one in told)
    ended = Counter(
        json.loads(row["record"])["subject"]
        for row in rows(state_dir, "select record from events where type = 'TrainingEnded'")
    )
    for row in rows(state_dir, "select * from runs"):
        run, id = ek.Run.from_json(row["record"]), row["id"]
        if row["state"] not in FINAL or run.state != row["state"]:
            yield f"the run {id} is {row['state']}, its record says {run.state}"
        if run.state == "failed" and not run.reason:
            yield f"the run {id} failed, and nobody says why"
        if row["training"] == "again" and run.state != "succeeded":
            yield f"the run {id}, which goes on wherever it is interrupted, has {run.state}: {run.reason}"
        if ended[id] != 1:
            yield f"the run {id} has {ended[id]} events of its end"
        if marked[id, "twice at once"]:
            yield f"the run {id} ran twice at once"
        starts, ends = marked[id, "start"], marked[id, "end"]
        if row["training"] == "once" and starts > 1:
            yield f"the run {id}, which is not to be repeated, was started {starts} times"
        if row["attempt"] < starts:
            yield f"the run {id} was started {starts} times in {row['attempt']} attempts"
        if run.state == "succeeded":
            if not ends or ends > row["attempt"]:
                yield f"the run {id} succeeded, and its process came to its end {ends} times"
            model = state_dir / "buckets" / "lake" / "runs" / row["training"] / id / "model" / "model.json"
            if not model.is_file():
                yield f"the run {id} succeeded, and its model is not at {model}"


def of_models(state_dir: Path, runtime: ek.Runtime) -> Iterator[str]:
    """Manifests, index and audit agree; each run that succeeded is one version; the aliases are where the traffic is."""
    models, api = runtime.registry("models"), runtime.endpoint("line-api")
    try:
        versions, audit = models.versions("line"), models.audit("line")
    except EkibenError as error:
        yield f"the registry cannot be read: {error}"
        return
    if sorted(one.version for one in versions) != list(range(1, len(versions) + 1)):
        yield f"the versions are numbered {sorted(one.version for one in versions)}"
    succeeded = {row["id"] for row in rows(state_dir, "select id from runs where state = 'succeeded'")}
    dead = rows(state_dir, "select event from deliveries where function = 'register' and state = 'dead'")
    registered = Counter(one.run_id for one in versions)
    given_up = {row["event"].removeprefix("training-ended-") for row in dead}
    for id in succeeded - given_up:
        if registered[id] != 1:
            yield f"the run {id} succeeded, and it is {registered[id]} versions"
    for id in registered.keys() - succeeded:
        yield f"the run {id} did not succeed, and it is a version"
    if len([one for one in audit if one.what.startswith("register")]) not in (0, len(versions)):
        yield f"there are {len(versions)} versions, and the audit tells of others"
    revisions = api.revisions()
    if abs(sum(one.weight for one in revisions) - 100) > 1e-6:
        yield f"the weights are {[one.weight for one in revisions]}"
    serving = {one.version for one in revisions if one.weight}
    if serving != {models.version("line@champion").id}:
        yield f"{models.version('line@champion').id} is champion, and the traffic goes to {sorted(serving)}"
    for one in revisions:
        if one.weight and one.state != "ready":
            yield f"{one.id} has {one.weight:g} % of the traffic, and is {one.state}: {one.reason}"


def of_predictions(state_dir: Path, runtime: ek.Runtime, answers: Iterable[Answer]) -> Iterator[str]:
    """Every answer was right for its revision, and what was answered with 200 is in the prediction log, once."""
    slopes = {
        f"v{one.version}-{one.digest[:8]}": one.metrics["slope"] for one in runtime.registry("models").versions("line")
    }
    answers = list(answers)
    for answer in answers:
        if abs(answer.y - slopes[answer.revision] * answer.x) > 1e-9:
            yield f"{answer.revision} answered {answer.x} with {answer.y}, and its slope is {slopes[answer.revision]}"
    if not answers or not answers[0].id:
        return
    logged = Counter(_logged(state_dir))
    for answer in answers:
        if logged[answer.id] != 1:
            yield f"the answer {answer.id} of {answer.revision} is {logged[answer.id]} times in the prediction log"


def _logged(state_dir: Path) -> Iterator[str]:
    import pyarrow.parquet

    for path in (state_dir / "predictions").rglob("*.jsonl"):
        for line in path.read_text("utf-8").splitlines():
            yield json.loads(line)["id"]
    for path in (state_dir / "buckets" / "lake" / "predictions").rglob("*.parquet"):
        yield from pyarrow.parquet.read_table(path, columns=["id"]).column("id").to_pylist()


def of_files(state_dir: Path) -> Iterator[str]:
    """Nothing half written is left, nothing is unpacked that nobody needs, and the database is whole."""
    for folder, _, names in os.walk(state_dir):
        at = Path(folder).relative_to(state_dir)
        for name in names:
            if name.startswith(".") or name.endswith((".tmp", ".part")):
                yield f"the file {at / name} is left"
    for path in state_dir.rglob(".*"):
        if path.is_dir() and path.name != ".ekiben":
            yield f"the folder {path.relative_to(state_dir)} is left"
    for staged in state_dir.glob("buckets/*/.ekiben/staging/*"):
        yield f"{staged.relative_to(state_dir)} is left"
    needed = {
        json.loads(row["spec"])["code_sha256"]
        for row in rows(state_dir, "select spec from resources where kind in ('training', 'function')")
    }
    for path in (state_dir / "code").iterdir():
        if path.name not in needed:
            yield f"the code {path.name[:12]} is unpacked, and nobody needs it"
    digests = {row["digest"] for row in rows(state_dir, "select digest from revisions")}
    for path in (state_dir / "bentos").iterdir():
        if path.name not in digests:
            yield f"the bento {path.name[:12]} is unpacked, and nobody needs it"
    if (found := rows(state_dir, "pragma integrity_check")) != [{"integrity_check": "ok"}]:
        yield f"the database is not whole: {found}"


def after_destroy(root: Path, stack: str, temporary: Path) -> Iterator[str]:
    """No file, no process, no socket, nothing in Pulumi's state."""
    state_dir = root / ".ekiben" / stack
    if state_dir.exists():
        yield f"after destroy there is {sorted(str(path.relative_to(root)) for path in state_dir.rglob('*'))[:20]}"
    for words in left_over(root):
        yield f"after destroy there is the process: {words}"
    for path in temporary.glob("ekiben-*"):
        yield f"after destroy there is {path.name} in the temporary folder"
    yield from of_engine(root, stack)


def of_engine(root: Path, stack: str) -> Iterator[str]:
    """Nothing in Pulumi's state, no lock, nothing half written."""
    pulumi = root / ".ekiben" / ".pulumi"
    for path in [*pulumi.glob("locks/**/*.json"), *pulumi.glob("stacks/**/*.tmp")]:
        yield f"after destroy there is {path.relative_to(root)}"
    for path in pulumi.glob(f"stacks/*/{stack}.json"):
        latest = json.loads(path.read_text("utf-8"))["checkpoint"]["latest"] or {}
        for key in ("resources", "pending_operations"):
            if latest.get(key):
                yield f"after destroy Pulumi's state has {len(latest[key])} {key}"
