"""Fits y = slope * x to the points in its input: the smallest job that keeps every side of the contract."""

import json
import signal
import subprocess
import sys
import time

from ekiben import job

params = job.params()
points = [
    json.loads(line)
    for file in sorted(job.inputs()["points"].rglob("*.jsonl"))
    for line in file.read_text(encoding="utf-8").splitlines()
]
print(f"read {len(points)} points on node {job.node().rank}", flush=True)
marks = job.checkpoint_dir() / "attempts.txt"
attempt = len(marks.read_text().splitlines()) if marks.exists() else 0
with marks.open("a") as file:
    file.write("attempt\n")
signal.signal(signal.SIGTERM, lambda *_: (marks.with_name("terminated.txt").write_text("yes"), sys.exit(143)))
if params.get("eat_mib"):
    ballast = bytearray(int(params["eat_mib"]) * 1024 * 1024)
    time.sleep(30)
if params.get("fork"):
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", params["fork"]])
if params.get("fail_rank", -1) == job.node().rank:
    job.fail(f"rank {job.node().rank} gives up")
if params.get("fail_first") and attempt == 0:
    job.fail("the first attempt always fails")
if params.get("fail"):
    job.fail(str(params["fail"]))
for step in range(int(params.get("first_steps", 0) if attempt == 0 else 0) or int(params.get("steps", 1))):
    job.log_metric("loss", 1.0 / (step + 1), step)
    time.sleep(float(params.get("step_s", 0)))
slope = params["scale"] * sum(p["x"] * p["y"] for p in points) / sum(p["x"] * p["x"] for p in points)
if job.node().rank == 0 and not params.get("no_model"):
    (job.model_dir() / "model.json").write_text(json.dumps({"slope": slope}), encoding="utf-8")
    output = job.output_dir()
    answer = slope * 2.0 + float(params.get("wrong_sample", 0))
    sample = {"route": "predict", "request": {"x": 2.0}, "response": {"y": answer}}
    (output / "signature.json").write_text(json.dumps({"columns": ["x"], "target": "y", "sample": sample}), "utf-8")
    (output / "metrics.json").write_text(json.dumps({"metrics": {"slope": slope, "points": len(points)}}), "utf-8")
    (output / "lineage.json").write_text(json.dumps({"rows": {"points": len(points)}, "seeds": {"none": 0}}), "utf-8")
