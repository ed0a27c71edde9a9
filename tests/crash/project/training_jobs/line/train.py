"""Fits y = slope * x. It marks its start and its end outside of the run, so that a run that was made twice is seen."""

import fcntl
import json
import os
import time
from pathlib import Path

from ekiben import job

STEPS, STEP_S = 10, 0.12
marks, run = Path(os.environ["MARKS"]), os.environ["EKIBEN_RUN_ID"]


def mark(what: str) -> None:
    line = json.dumps({"run": run, "what": what, "pid": os.getpid()}) + "\n"
    with open(marks / "marks.jsonl", "ab", buffering=0) as file:
        file.write(line.encode())


alone = os.open(marks / f"{run}.lock", os.O_RDWR | os.O_CREAT)
try:
    fcntl.flock(alone, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    mark("twice at once")
mark("start")
lines = [
    line for file in sorted(job.inputs()["points"].rglob("*.jsonl")) for line in file.read_text("utf-8").splitlines()
]
points = [json.loads(line) for line in lines]
step_file = job.checkpoint_dir() / "step.txt"
for step in range(int(step_file.read_text()) if step_file.exists() else 0, STEPS):
    job.log_metric("loss", 1.0 / (step + 1), step)
    time.sleep(STEP_S)
    fresh = step_file.with_name("step.tmp")
    fresh.write_text(str(step + 1))
    fresh.replace(step_file)
slope = sum(p["x"] * p["y"] for p in points) / sum(p["x"] * p["x"] for p in points)
sample = {"route": "predict", "request": {"x": 2.0}, "response": {"y": slope * 2.0}}
(job.model_dir() / "model.json").write_text(json.dumps({"slope": slope}), "utf-8")
output = job.output_dir()
(output / "signature.json").write_text(json.dumps({"columns": ["x"], "target": "y", "sample": sample}), "utf-8")
(output / "metrics.json").write_text(json.dumps({"metrics": {"slope": slope}}), "utf-8")
mark("end")
