"""Leave it running: `python -m benchmarks.soak [--minutes 30] [--json]`.

A private copy of the example is brought up and kept busy: steady calls, bursts on an endpoint that has gone to zero, wrong
requests, batches, new data that trains, registers and releases a model, rollbacks, questions to the station. Every answer is
checked. At the end: what was asked and answered, and the memory, open files and disk of the station at start and end.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import ekiben as ek

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
PARTS = ("infra", "functions", "training_jobs", "bentos", "Pulumi.yaml", "Pulumi.local.yaml")
ENDPOINT = 'bento="bentos/employment"'
IDLE_S = 15
PERSON = {
    "AGEP": 40, "SCHL": 21, "MAR": 1, "RELP": 0, "DIS": 2, "ESP": 0, "MIG": 1, "MIL": 4, "DEAR": 2, "DEYE": 2, "DREM": 2,
}  # fmt: skip
WRONG: tuple[tuple[bytes, int], ...] = (
    (b"{", 400), (b"", 400), (b"[1, 2", 400), (json.dumps({"person": {**PERSON, "AGEP": -7}}).encode(), 400),
    (json.dumps({"person": {**PERSON, "AGEP": "40"}}).encode(), 400), (b'{"person": {}}', 400),
)  # fmt: skip


class Caller:
    """Calls an endpoint and counts what came of it."""

    def __init__(self, url: str, token: str) -> None:
        self.parts = urlsplit(url)
        self.headers = {"Content-Type": "application/json", "Authorization": f"Bearer {token}"}
        self.counts: Counter[str] = Counter()
        self.odd: list[str] = []
        self.latencies_ms: list[float] = []
        self.lock = threading.Lock()

    def __call__(self, route: str, body: bytes, expect: int = 200) -> Any:
        began = time.perf_counter()
        connection = http.client.HTTPConnection(self.parts.hostname or "", self.parts.port, timeout=120)
        try:
            connection.request("POST", f"{self.parts.path}/{route}", body, self.headers)
            answer = connection.getresponse()
            text = answer.read()
            status, retry = answer.status, answer.headers.get("Retry-After")
        except (OSError, http.client.HTTPException) as error:
            status, retry, text = 0, None, f"{type(error).__name__}: {error}".encode()
        finally:
            connection.close()
        with self.lock:
            if status == expect:
                self.counts["as expected"] += 1
                if status == 200:
                    self.latencies_ms.append((time.perf_counter() - began) * 1000)
            elif status in (429, 503) and retry:
                self.counts["told to try again"] += 1
            else:
                self.counts["lost or wrong"] += 1
                self.odd.append(f"{route}: {status} instead of {expect}: {text[:200].decode(errors='replace')}")
        return json.loads(text) if status == expect == 200 else None


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.soak", description=__doc__.splitlines()[0] if __doc__ else ""
    )
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--seed", type=int, default=7)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ekiben-soak-") as folder:
        project = Path(folder)
        _copy(project)
        try:
            figures = _soak(project, args.minutes * 60, random.Random(args.seed))  # noqa: S311
        finally:
            _say("destroying")
            _run(project, "destroy", "--yes")
        left = subprocess.run(
            [str(BIN / "ekiben"), "inventory"], cwd=project, capture_output=True, timeout=120
        ).returncode
    figures["left_after_destroy"] = left != 0
    print(json.dumps(figures, indent=1) if args.json else _table(figures))
    return 0


def _copy(project: Path) -> None:
    """The example, with an endpoint that goes to zero sooner."""
    for part in PARTS:
        source = ROOT / part
        if source.is_dir():
            shutil.copytree(source, project / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, project / part)
    (project / ".venv").symlink_to(Path(sys.prefix), target_is_directory=True)
    program = project / "infra" / "__main__.py"
    text = program.read_text(encoding="utf-8")
    assert ENDPOINT in text
    program.write_text(text.replace(ENDPOINT, f"{ENDPOINT}, idle_s={IDLE_S}"), encoding="utf-8")


def _soak(project: Path, length_s: float, chance: random.Random) -> dict[str, Any]:
    _run(project, "up")
    os.environ["EKIBEN_PLATFORM"] = (project / ".ekiben" / "local" / "platform.json").read_text(encoding="utf-8")
    runtime = ek.connect()
    station = json.loads((project / ".ekiben" / "local" / "station.json").read_text(encoding="utf-8"))
    token = (project / ".ekiben" / "local" / "token").read_text(encoding="ascii").strip()
    source = subprocess.run(
        [sys.executable, "training_jobs/employment/fetch.py"],
        cwd=project,
        capture_output=True,
        text=True,
        timeout=600,
        check=True,
    )
    files = sorted(Path(source.stdout.strip().splitlines()[-1]).glob("*.pq"))
    _say("the first model")
    for path in files:
        runtime.storage("lake").put(f"employment/{path.name}", path)
    _approve_next(runtime, 0, 300)
    call = Caller(str(runtime.endpoint("employment-api").part.facts["url"]), token)
    body = json.dumps({"person": PERSON}).encode()
    batch = json.dumps({"people": [PERSON] * 200}).encode()
    stop = threading.Event()
    steady = threading.Event()
    steady.set()
    models: list[str] = []

    def every(pause_s: float, act: Callable[[], object]) -> Callable[[], None]:
        def loop() -> None:
            while not stop.wait(pause_s):
                try:
                    act()
                except Exception as error:
                    with call.lock:
                        call.counts["lost or wrong"] += 1
                        call.odd.append(f"{getattr(act, '__name__', 'an act')}: {type(error).__name__}: {error}")

        return loop

    def calls() -> None:
        if steady.is_set():
            call("predict", body)

    def burst() -> None:
        steady.clear()
        stop.wait(IDLE_S + 10)
        crowd = [threading.Thread(target=call, args=("predict", body)) for _ in range(50)]
        for one in crowd:
            one.start()
        for one in crowd:
            one.join()
        steady.set()

    def wrong() -> None:
        if steady.is_set():
            call("predict", *chance.choice(WRONG))

    def batches() -> None:
        if steady.is_set():
            call("predict_batch", batch)

    def questions() -> None:
        runtime.training("employment").runs()
        runtime.endpoint("employment-api").revisions()
        runtime.registry("models").versions("employment")

    def retrain() -> None:
        count = len(runtime.registry("models").versions("employment"))
        number = len(models) + 1
        runtime.storage("lake").put(f"employment/{files[0].name}", files[0])
        runtime.training("employment").submit(ek.Job(id=f"soak-{number}", params={"max_depth": 3 + number % 4}))
        models.append(_approve_next(runtime, count, 600))

    def rollback() -> None:
        if models:
            _run(project, "rollback", "employment-api", "--why", "the soak wants it")

    acts = (
        (0.05, calls), (0.05, calls), (60, burst), (1, wrong), (2, batches), (5, questions), (240, retrain), (390, rollback),
    )  # fmt: skip
    threads = [threading.Thread(target=every(pause_s, act), daemon=True) for pause_s, act in acts]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    stop.wait(min(120.0, length_s / 4))
    start, samples = _look(station["pid"], project), []
    while time.monotonic() - began < length_s:
        stop.wait(10)
        samples.append(_look(station["pid"], project))
        if len(samples) % 30 == 0:
            _say(
                f"{(time.monotonic() - began) / 60:.0f} min: {dict(call.counts)}, station {samples[-1]['station_mib']:.0f} MiB"
            )
    stop.set()
    for thread in threads:
        thread.join(600)
    quiet = _quiet(station["pid"], project)
    logged = _logged(runtime)
    ordered = sorted(call.latencies_ms)
    return {
        "minutes": round((time.monotonic() - began) / 60, 1),
        "requests": sum(call.counts.values()), "counts": dict(call.counts), "odd": call.odd[:20],
        "models": len(models), "answers": len(ordered), "prediction_logs": logged,
        "p50_ms": round(statistics.median(ordered), 2), "p99_ms": round(ordered[int(0.99 * len(ordered))], 2),
        "start": start, "end": samples[-1] if samples else start, "quiet": quiet,
        "peak_station_mib": max((one["station_mib"] for one in samples), default=0.0),
    }  # fmt: skip


def _approve_next(runtime: ek.Runtime, known: int, within_s: float) -> str:
    """Wait for the next version, approve it, wait until it has the traffic. Raises TimeoutError."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        versions = runtime.registry("models").versions("employment")
        if len(versions) > known:
            version = max(versions, key=lambda one: one.version)
            runtime.registry("models").decide(version.id, "approved", who="benchmarks/soak", why="the soak wants it")
            break
        time.sleep(1)
    while time.monotonic() < deadline:
        weights = {one.version: one.weight for one in runtime.endpoint("employment-api").revisions()}
        if weights.get(version.id):
            return version.id
        time.sleep(1)
    raise TimeoutError(f"no model was released within {within_s:g} s")


def _logged(runtime: ek.Runtime) -> int:
    return len(list(runtime.storage("lake").list("predictions/")))


def _quiet(pid: int, project: Path) -> dict[str, float]:
    """When nobody has called for a while."""
    time.sleep(IDLE_S + 15)
    return _look(pid, project)


def _look(pid: int, project: Path) -> dict[str, float]:
    """Memory (pages that are shared count once), open files, threads and disk of the station and all that it has started."""
    own, tree, queue = 0.0, 0.0, [pid]
    while queue:
        entry = Path("/proc") / str(queue.pop())
        try:
            for task in (entry / "task").iterdir():
                queue += map(int, (task / "children").read_text("ascii").split())
            lines = (entry / "smaps_rollup").read_text("ascii").splitlines()
        except OSError:
            continue
        mib = next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024
        tree += mib
        own += mib if entry.name == str(pid) else 0
    state = project / ".ekiben" / "local"
    disk = 0
    for path in state.rglob("*"):
        try:
            disk += path.lstat().st_size
        except OSError:
            continue
    return {
        "station_mib": round(own, 1), "tree_mib": round(tree, 1), "open_files": len(os.listdir(f"/proc/{pid}/fd")),
        "threads": len(os.listdir(f"/proc/{pid}/task")), "disk_mib": round(disk / 2**20, 1),
    }  # fmt: skip


def _run(project: Path, *words: str) -> None:
    subprocess.run([str(BIN / "ekiben"), *words], cwd=project, check=True, timeout=900, stdout=subprocess.DEVNULL)


def _table(figures: dict[str, Any]) -> str:
    rows = [f"{'':14}{'start':>10}{'end':>10}{'quiet':>10}"]
    rows += [
        f"{name:14}{figures['start'][name]:>10}{figures['end'][name]:>10}{figures['quiet'][name]:>10}"
        for name in figures["start"]
    ]
    head = f"{figures['requests']} requests in {figures['minutes']} minutes, {figures['models']} releases: {figures['counts']}"
    return "\n".join([head, f"p50 {figures['p50_ms']} ms, p99 {figures['p99_ms']} ms", *rows, *figures["odd"]])


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
