"""What comes all at once: `python -m benchmarks.torture [--files 10000] [--mb 1000] [--json]`.

Files: so many small ones are renamed into a watched prefix; until their events are published, and until each has been handled by
a call of its own. Output: a training job, and a function's handler, print so much. Peak memory is the kernel's high-water mark.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from benchmarks.hosted import Hosted, hosted, tree, until
from ekiben import FunctionSpec, Http, NewData, TrainingSpec
from ekiben.packing.archive import write
from ekiben.records import Job, Platform

PATIENCE_S = 3600.0
# Counting ten thousand deliveries costs the station some milliseconds each time.
LOOK_S = 1.0
HANDLER = b"def handler(event, runtime):\n    return event.subject\n"
PRINT = "block = ('x' * 99 + '\\n') * 10_000\nfor _ in range({mb}):\n    print(block, end='')\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--mb", type=int, default=1000)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    told: dict[str, Any] = {}
    if arguments.files:
        with hosted() as host:
            told["files"] = files(host, arguments.files)
    if arguments.mb:
        with hosted() as host:
            told["output"] = output(host, arguments.mb)
    if arguments.json:
        print(json.dumps(told, indent=2))
    else:
        for part, figures in told.items():
            print(part, ", ".join(f"{name} {value}" for name, value in figures.items()))
    return 0


def files(host: Hosted, count: int) -> dict[str, Any]:
    lake = bucket(host)
    function(host, "lands", HANDLER, NewData("lake", "in/", settle_s=0.5))
    source = Path(tempfile.mkdtemp(dir=lake.parent))
    for number in range(count):
        (source / f"{number}.json").write_text('{"a": 1}')
    before_mib = peak_mib(host.pid)
    began = time.perf_counter()
    with Children(host.pid) as children:
        source.rename(lake / "in")
        until(lambda: sum(states(host, "lands").values()) == count, "all events are published", PATIENCE_S)
        published_s = time.perf_counter() - began
        while states(host, "lands").get("done", 0) < count:
            time.sleep(LOOK_S)
    return {
        "files": count, "published_s": round(published_s, 2), "handled_s": round(time.perf_counter() - began, 1),
        "station_before_mib": before_mib, "station_peak_mib": peak_mib(host.pid), "calls_peak_mib": children.peak_mib,
    }  # fmt: skip


def output(host: Hosted, mb: int) -> dict[str, Any]:
    lake = bucket(host)
    loop = PRINT.format(mb=mb)
    job = f"{loop}import os, pathlib\npathlib.Path(os.environ['EKIBEN_MODEL_DIR'], 'm').touch()\n"
    training(host, "prints", lake, job.encode())
    began = time.perf_counter()
    with Children(host.pid) as children:
        host.client.request("POST", "/v1/trainings/prints/runs", Job(id="prints-1").to_dict())
        state = ""

        def ended() -> bool:
            nonlocal state
            state = host.client.request("GET", "/v1/trainings/prints/runs/prints-1")["state"]
            return state not in ("pending", "running")

        until(ended, "the run ends", PATIENCE_S)
    run_s = time.perf_counter() - began
    log_mb = (host.state_dir / "runs" / "prints-1" / "log.txt").stat().st_size / 1e6
    began = time.perf_counter()
    indented = "".join(f"    {line}\n" for line in loop.splitlines())
    function(host, "says", f"def handler(event, runtime):\n{indented}".encode(), Http())
    host.client.request("POST", "/functions/says", {}, timeout_s=900)
    call_s = time.perf_counter() - began
    logs = sum(path.stat().st_size for path in (host.state_dir / "functions" / "says").glob("log.txt*"))
    return {
        "mb": mb, "state": state, "run_s": round(run_s, 1), "run_log_mb": round(log_mb, 1), "run_peak_mib": children.peak_mib,
        "call_s": round(call_s, 1), "call_log_mb": round(logs / 1e6, 1), "station_peak_mib": peak_mib(host.pid),
    }  # fmt: skip


class Children:
    """The most memory that a process which the station has started held, looked at every 50 ms."""

    def __init__(self, pid: int) -> None:
        self.peak_mib = 0.0
        self._pid, self._done = pid, threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Children:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._done.wait(0.05):
            for pid in set(tree(self._pid)) - {self._pid}:
                self.peak_mib = max(self.peak_mib, peak_mib(pid))


def peak_mib(pid: int) -> float:
    try:
        text = Path(f"/proc/{pid}/status").read_text("ascii")
    except OSError:
        return 0.0
    found = re.search(r"VmHWM:\s+(\d+) kB", text)
    return round(int(found[1]) / 1024, 1) if found else 0.0


def states(host: Hosted, function: str) -> dict[str, int]:
    text = host.client.send("GET", "/metrics").body.decode()
    found = re.findall(rf'ekiben_deliveries{{function="{function}",state="(\w+)"}} (\d+)', text)
    return {state: int(count) for state, count in found}


def bucket(host: Hosted) -> Path:
    host.client.request("PUT", "/v1/resources/bucket/lake", {"spec": {}})
    return host.state_dir / "buckets" / "lake"


def code(lake: Path, name: str, text: bytes) -> dict[str, str]:
    packed = write({name: text}, lake / "code")
    return {"code_uri": packed.path.as_uri(), "code_sha256": packed.sha256}


def function(host: Hosted, name: str, text: bytes, *on: Any) -> None:
    lake = bucket(host)
    body = {
        "spec": FunctionSpec(source="functions/x", on=on, timeout_s=900).model_dump(), **code(lake, "main.py", text),
        "platform": Platform(project="bench", stack="local").to_json(), "bucket_uris": {"lake": lake.as_uri()}, "uses": [],
    }  # fmt: skip
    host.client.request("PUT", f"/v1/resources/function/{name}", {"spec": body})


def training(host: Hosted, name: str, lake: Path, text: bytes) -> None:
    body = {
        "spec": TrainingSpec(source="training_jobs/x", grace_s=0).model_dump(), "storage_uri": lake.as_uri(), "code": {},
        "input_uris": {}, **code(lake, "train.py", text),
    }  # fmt: skip
    host.client.request("PUT", f"/v1/resources/training/{name}", {"spec": body})


if __name__ == "__main__":
    sys.exit(main())
