"""What runs inside a training pod: `python3 -m ekiben.kubernetes.container`, the supervisor of one node of a training run.

It keeps the same contract as the station does, with the station's own code for the job's processes. What the run writes goes to the
store while it goes on, and comes back to the pod that takes this one's place:

    runs/TRAINING/RUN/checkpoints/   what the job keeps          output/   metrics, signature, reports
    attempts.json   every attempt, and its end                   model/    what it has made
    status.json     how the run has ended                        log.txt, log-1.txt, ...   of each node

Needs the standard library, and the part of Ekiben that `packing.job_library` packs.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ekiben.errors import SpecError
from ekiben.keys import is_data
from ekiben.kubernetes.keeping import Kept
from ekiben.kubernetes.keys import EARLIER, FAILED, INTERRUPTED, MASTER_PORT, event_key
from ekiben.kubernetes.rounds import Rounds
from ekiben.kubernetes.s3 import Refused, Store
from ekiben.lineage.data import snapshot
from ekiben.packing.archive import unpack
from ekiben.records import Event, now
from ekiben.runs import lineage_of, metrics_of
from ekiben.station import processes
from ekiben.station.attempts import RESUMES
from ekiben.station.contained import (
    Attempts,
    Shown,
    empty,
    environment_of,
    failed_by,
    has_files,
    interpreter,
    own_copy,
)
from ekiben.station.interruptions import last_checkpoint, lost_s
from ekiben.station.nodes import Verdict, start, watch

__all__ = ["main"]

NAME_TIMEOUT_S = 30.0
LOOK_S = 1.0
# How the run has ended: written last, by node 0.
STATUS = "status.json"


class Node:
    """This pod: one node of the run that `ask` describes, with its folders below `scratch`."""

    def __init__(self, ask: dict[str, Any], store: Store, scratch: Path, told: list[int]) -> None:
        self.ask, self.store, self.told = ask, store, told
        self.rank = int(os.environ.get("JOB_COMPLETION_INDEX", "0"))
        self.run_dir = scratch / "run"
        for part in ("inputs", "checkpoints", "output", "model"):
            (self.run_dir / part).mkdir(parents=True)
        (self.run_dir / "lib").symlink_to(os.environ["EKIBEN_ARCHIVE"], target_is_directory=True)
        self.kept = Kept(store, ask["run_uri"], self.run_dir, self.rank, lambda text: self.log.note(text))
        earlier = self.kept.earlier("log.txt" if self.rank == 0 else f"log-{self.rank}.txt")
        (self.run_dir / "log.txt").write_bytes(earlier)
        if earlier:
            head = EARLIER.format(len(earlier.splitlines())).encode()
            sys.stdout.buffer.write(head + b"\n" + earlier.rstrip(b"\n") + b"\n")
            sys.stdout.buffer.flush()
        self.log = Shown(self.run_dir / "log.txt")
        (self.run_dir / "attempts.json").write_bytes(self.kept.earlier("attempts.json") or b"[]")
        self.attempts, self.saving = Attempts(self.run_dir / "attempts.json"), threading.Lock()
        for one in self.attempts.all:
            one.setdefault("reason", "its pod was killed, or its node went away")
            one.setdefault("ended_at", now())
        self.rounds = Rounds(
            store, f"{ask['run_uri']}/rounds", self.rank, ask["nodes"], os.environ.get("POD_IP", "127.0.0.1")
        )
        self.found: dict[str, Any] = {}

    @property
    def stopped(self) -> bool:
        return bool(self.told)

    def failures(self, ended: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The rounds that count as failed: an interruption is one, too, unless the run is on spot capacity."""
        return [
            one for one in ended if one["state"] == "failed" or (one["state"] == "interrupted" and not self.ask["spot"])
        ]


def main() -> int:
    """Make this node's part of the run. Returns the exit status that the Job is to see."""
    told: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: told.append(number))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])  # as `bootstrap` has left it, it waits
    processes.adopt_orphans()
    store = Store.of_environment()
    ask = json.loads(store.get(os.environ["EKIBEN_ASK_URI"]))
    with tempfile.TemporaryDirectory(prefix="ekiben-run-", ignore_cleanup_errors=True) as scratch:
        node = Node(ask, store, Path(scratch), told)
        try:
            status = _run(node)
        finally:
            node.rounds.leave()
            node.kept.finish(everything=False)
            node.log.close()
    return status


def _run(node: Node) -> int:
    """Round after round, until the run has ended, or this pod is told to stop."""
    node.kept.begin(lambda: _account(node))
    while not node.stopped:
        if told := node.kept.earlier(STATUS):
            return _ended(node, json.loads(told))
        verdict = _given_up(node) or _tried(node)
        if verdict is not None and node.rank == 0:
            return _over(node, verdict)
        if verdict is not None:
            _wait_for_node_0(node, verdict)
    return _stopped(node)


def _given_up(node: Node) -> Verdict | None:
    """How the run has ended, where its rounds so far are all that it gets."""
    ended = node.rounds.ended()
    failures = node.failures(ended)
    if len(failures) > node.ask["retries"]:
        return Verdict(state="failed", reason=str(failures[-1]["reason"]))
    if (times := sum(one["state"] == "interrupted" for one in ended)) > RESUMES:
        return Verdict(state="failed", reason=f"it was interrupted {times} times, at last: {ended[-1]['reason']}")
    return None


def _tried(node: Node) -> Verdict | None:
    """How the run has ended, where the round that goes on succeeds; None where there has to be another one."""
    if not node.rounds.enter(lambda: node.stopped or bool(node.kept.earlier(STATUS))):
        return None
    verdict = _round(node, node.rounds.number)
    return verdict if verdict.state == "succeeded" else None


def _wait_for_node_0(node: Node, verdict: Verdict) -> None:
    """Node 0 says how the run has ended. One that goes before it has stored the model ends the round: then all make another."""
    while not node.stopped and not node.kept.earlier(STATUS):
        if verdict.state == "succeeded" and node.rounds.end_of():
            return
        time.sleep(LOOK_S)


def _round(node: Node, number: int) -> Verdict:
    """This node's part of a round, and how the round has ended."""
    with node.saving:
        attempt = node.attempts.begin()
    if number > 1:
        node.kept.restore()
        _, checkpoint = last_checkpoint(node.run_dir)
        node.log.note(f"attempt {number}, " + (f"with the checkpoint {checkpoint}" if checkpoint else "from the start"))
    verdict = _attempt(node, attempt)
    if verdict.state == "succeeded" and node.rounds.succeeded(lambda: node.stopped):
        pass
    elif verdict.state == "failed":
        verdict = _verdict(node.rounds.failed(verdict.reason))
    else:
        verdict = _verdict(node.rounds.end("interrupted", verdict.reason or _told(node)))
    if verdict.state == "interrupted":
        attempt["lost_s"] = lost_s(node.run_dir, attempt.get("working_since", 0.0), time.time())
    if verdict.state != "succeeded":
        node.log.note(f"{verdict.state}: {verdict.reason}")
    attempt |= {"state": verdict.state, "reason": verdict.reason, "ended_at": now()}
    _save_attempts(node)
    with _forgiven(node):
        node.kept.store_now()
    return verdict


def _attempt(node: Node, attempt: dict[str, Any]) -> Verdict:
    looked = [0.0]

    def asked() -> Verdict | None:
        if node.told:
            return Verdict(state="interrupted", reason=_told(node))
        if node.ask["nodes"] > 1 and time.monotonic() - looked[0] > 1.0:
            looked[0] = time.monotonic()
            if end := node.rounds.end_of():
                return Verdict(state="interrupted", reason=str(end["reason"]))
        return None

    try:
        if "python" not in node.found:
            node.found |= _prepared(node)
        for part in ("model", "output"):
            empty(node.run_dir / part)
        code = own_copy(node.found["bundle"], node.run_dir / "code")
        given = {**node.ask, **_given(node), "python": node.found["python"]}
        if verdict := asked():
            return verdict
        attempt["working_since"] = time.time()
        verdict = watch(start(node.run_dir, code, given, node.log), node.run_dir, given, asked)
    except Exception as error:
        # What it was waiting for may have been told to stop, too.
        if verdict := asked():
            return verdict
        return failed_by(error)
    if verdict.state == "interrupted" and not asked():
        # Nobody told this pod to stop: something in it did, or the kernel, for lack of memory. On spot capacity it goes on.
        return verdict if node.ask["spot"] else Verdict(state="failed", reason=verdict.reason)
    if verdict.state == "succeeded" and node.rank == 0 and not has_files(node.run_dir / "model"):
        return Verdict(state="failed", reason="it left no model: there is nothing in EKIBEN_MODEL_DIR")
    return verdict


def _told(node: Node) -> str:
    who = f"the pod of node {node.rank}" if node.ask["nodes"] > 1 else "its pod"
    return f"{who} was told to stop (SIGTERM)" if node.told else f"{who} was interrupted"


def _stopped(node: Node) -> int:
    """This pod was told to stop: what there is, is stored, and another pod goes on."""
    with _forgiven(node):
        if node.rounds.number:
            node.rounds.end("interrupted", _told(node))
        _save_attempts(node)
        node.kept.finish()
    return INTERRUPTED


def _over(node: Node, verdict: Verdict) -> int:
    """The run has ended so: this is node 0, which says it, once all that it has made is stored."""
    output = node.run_dir / "output"
    ask = {**node.ask, "attempt": len(node.attempts.all), "lost_s": node.attempts.lost_s}
    lineage = lineage_of(output, ask, node.found.get("inputs", {}), node.found.get("environment", {}), node.log.note)
    metrics = metrics_of(output, node.log.note)
    if verdict.state == "succeeded":
        node.kept.replace("model")
    else:
        node.log.note(f"failed: {verdict.reason}")
    node.kept.finish()
    status = {
        "state": verdict.state, "reason": verdict.reason, "attempts": ask["attempt"], "ended_at": now(),
        "metrics": metrics, "lineage": lineage,
    }  # fmt: skip
    node.kept.put(STATUS, json.dumps(status, allow_nan=False).encode())
    return _ended(node, status)


def _ended(node: Node, status: Mapping[str, Any]) -> int:
    """The run has ended, and says so. A pod that comes again tells it again: the one before may have gone in between."""
    ask = node.ask
    event = Event(
        id=f"training-ended-{ask['id']}", type="TrainingEnded", source=ask["training"], subject=ask["id"],
        time=status["ended_at"], data={"state": status["state"], "reason": status["reason"]},
    )  # fmt: skip
    with _forgiven(node):
        if node.rank == 0:
            node.store.put(f"{ask['bus']}/{event_key(event.id)}", event.to_json().encode())
        node.kept.finish()
    return 0 if status["state"] == "succeeded" else FAILED


def _prepared(node: Node) -> dict[str, Any]:
    """The code, its interpreter, the inputs, and (on node 0) what the inputs and the environment are."""
    ask, scratch = node.ask, node.run_dir.parent
    node.store.download(ask["code"]["uri"], scratch / "code.tar")
    bundle = unpack(scratch / "code.tar", ask["code_sha256"], scratch / "bundle")
    wheels = scratch / "wheels"
    for uri, _ in node.store.list(ask["wheels_uri"]) if ask["wheels_uri"] else ():
        node.store.download(uri, wheels / uri.rpartition("/")[2])
    lock = bundle / "requirements.txt"
    inputs = {name: _fetched(node, name, uri) for name, uri in sorted(ask["inputs"].items())}
    found: dict[str, Any] = {"bundle": bundle, "python": interpreter(lock, scratch / "environment", wheels)}
    if node.rank:
        return found
    environment = environment_of(found["python"], lock, node.run_dir / "lib")
    return {**found, "inputs": inputs, "environment": environment}


def _fetched(node: Node, name: str, uri: str) -> dict[str, Any]:
    """Bring an input; what it is. Raises SpecError where there is nothing."""
    folder, start = node.run_dir / "inputs" / name, uri if uri.endswith("/") else uri.rpartition("/")[0] + "/"
    bucket = "/".join(uri.split("/")[:3]) + "/"
    there = {}
    for found, _ in node.store.list(uri):
        if is_data(found.removeprefix(bucket)) and not found.endswith("/"):
            there[found] = folder / found.removeprefix(start)
            node.store.download(found, there[found])
    if not there:
        raise SpecError(f"The input {name!r} is empty: nothing in {uri} is complete data.")
    return {"uri": uri, **snapshot(there)}


def _given(node: Node) -> dict[str, Any]:
    """What this pod adds to the ask: the station's code sees one node of a single one, the job sees which of them it is."""
    ask = node.ask
    gpus = [str(number) for number in range(ask["gpu_count"])]
    return {
        "nodes": 1, "cpus": [[]], "gpus": [gpus], "spec_uri": os.environ["EKIBEN_ASK_URI"],
        "machine_env": {
            "EKIBEN_NODE_RANK": str(node.rank), "EKIBEN_NODE_COUNT": str(ask["nodes"]),
            "EKIBEN_MASTER_ADDR": _master(node), "EKIBEN_MASTER_PORT": str(MASTER_PORT),
        },
    }  # fmt: skip


def _master(node: Node) -> str:
    """Where node 0 is: by its name in the Job's Service, or by its address where nobody knows the name in time."""
    if node.ask["nodes"] == 1:
        return "127.0.0.1"
    name, address = os.environ.get("EKIBEN_MASTER_NAME", ""), node.rounds.master()
    deadline = time.monotonic() + NAME_TIMEOUT_S
    while name and time.monotonic() < deadline and not node.stopped:
        with contextlib.suppress(OSError):
            if address in {str(one[4][0]) for one in socket.getaddrinfo(name, MASTER_PORT)}:
                return name
        time.sleep(0.5)
    if name:
        node.log.note(f"the name {name} is not known yet, so node 0 is called {address}")
    return address


def _verdict(end: Mapping[str, Any]) -> Verdict:
    return Verdict(state=str(end["state"]), reason=str(end["reason"]))


def _account(node: Node) -> None:
    """What an attempt would have lost if this pod were killed now: nobody can tell afterwards."""
    if node.rank == 0 and node.attempts.all and "state" not in node.attempts.all[-1]:
        last = node.attempts.all[-1]
        last["lost_s"] = lost_s(node.run_dir, last.get("working_since", 0.0), time.time())
        _save_attempts(node)


def _save_attempts(node: Node) -> None:
    with node.saving:
        node.attempts.save()
        if node.rank == 0:
            node.kept.put("attempts.json", (node.run_dir / "attempts.json").read_bytes())


@contextlib.contextmanager
def _forgiven(node: Node) -> Any:
    """The store may be away at the last moment: then what it has is what there is."""
    try:
        yield
    except (OSError, Refused) as error:
        node.log.note(f"not stored: {error}")


if __name__ == "__main__":
    sys.exit(main())
