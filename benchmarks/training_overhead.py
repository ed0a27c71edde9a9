"""What a training run costs beside its own script: `python -m benchmarks.training_overhead [--repeats 5] [--json]`.

The example's job on its real data, turn by turn: by hand, as `python train.py` with the environment and the CPUs that the station
gives it; as a run of the station, from `submit` until it has succeeded; and as a run on two nodes with the same CPUs each.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.hosted import JOB, Hosted, census, hosted
from ekiben import TrainingSpec
from ekiben.packing import bundle
from ekiben.packing.archive import write
from ekiben.records import Job, Run

POLL_S = 0.02
PATIENCE_S = 1800
# A job that only tells what it was given; the runs by hand get the same.
PROBE = b"""\
import json, os
from ekiben import job
told = {"env": dict(os.environ), "cpus": sorted(os.sched_getaffinity(0))}
(job.model_dir() / "told.json").write_text(json.dumps(told))
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--repeats", type=int, default=5, help="how often each is run")
    parser.add_argument("--json", action="store_true", help="print JSON on stdout, and nothing else there")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ekiben-bench-") as folder, hosted() as station:
        found = measure(station, Path(folder), given.repeats)
    print(json.dumps(found, indent=2) if given.json else table(found))
    return 0


def measure(station: Hosted, folder: Path, repeats: int) -> dict[str, Any]:
    """Medians of all three, and whether they make the same model."""
    vcpu = max(1, len(os.sched_getaffinity(0)) // 2)  # two nodes are to fit at once
    station.client.request("PUT", "/v1/resources/bucket/lake", {"spec": {}})
    lake = station.state_dir / "buckets" / "lake"
    shutil.copytree(census(), lake / "employment")
    code, probe = bundle(JOB), write({"train.py": PROBE}, lake / "code")
    for name, source, nodes in (("probe", probe, 1), ("one", code, 1), ("two", code, 2)):
        spec = TrainingSpec(
            source="training_jobs/employment", inputs={"census": "lake/employment/"}, nodes=nodes, timeout_s=PATIENCE_S,
            resources={"vcpu": vcpu, "memory_mib": 2048},
        )  # fmt: skip
        body = {
            "spec": spec.model_dump(), "storage_uri": lake.as_uri(), "code_uri": source.path.as_uri(),
            "code_sha256": source.sha256, "code": {}, "input_uris": {"census": f"{lake.as_uri()}/employment/"},
        }  # fmt: skip
        station.client.request("PUT", f"/v1/resources/training/{name}", {"spec": body})
    told = json.loads((Path(run(station, "probe", "probe")[1]) / "told.json").read_text("utf-8"))

    seconds: dict[str, list[float]] = {"by_hand": [], "one_node": [], "two_nodes": []}
    models: dict[str, list[Path]] = {name: [] for name in seconds}
    for i in range(repeats):
        for name, (took_s, model) in {
            "by_hand": by_hand(told, lake / "employment", folder / str(i)),
            "one_node": run(station, "one", f"one-{i}"),
            "two_nodes": run(station, "two", f"two-{i}"),
        }.items():
            seconds[name].append(took_s)
            models[name].append(model)
            print(f"{i + 1}/{repeats} {name}: {took_s:.2f} s", file=sys.stderr, flush=True)

    median = {name: statistics.median(each) for name, each in seconds.items()}
    overhead_s = statistics.median(b - a for a, b in zip(seconds["by_hand"], seconds["one_node"], strict=True))
    auc = {name: metric(station, name) for name in ("one", "two")}
    return {
        "repeats": repeats, "vcpu_per_node": vcpu, "by_hand_s": median["by_hand"], "one_node_s": median["one_node"],
        "overhead_s": overhead_s, "overhead_percent": 100 * overhead_s / median["by_hand"], "two_nodes_s": median["two_nodes"],
        "two_nodes_speedup": median["one_node"] / median["two_nodes"],
        "same_model_by_hand": digests(models["by_hand"]) == digests(models["one_node"]),
        "same_model_on_two_nodes": digests(models["two_nodes"]) == digests(models["one_node"]),
        "two_nodes_repeat": len(digests(models["two_nodes"])) == 1,
        "one_node_auc": auc["one"], "two_nodes_auc": auc["two"],
        "seconds": seconds,
    }  # fmt: skip


def by_hand(told: dict[str, Any], inputs: Path, into: Path) -> tuple[float, Path]:
    """Seconds from the start of `python train.py` to its end, and the folder of its model."""
    shutil.copytree(JOB, into / "code", ignore=shutil.ignore_patterns("__pycache__"))
    folders = {"EKIBEN_MODEL_DIR": "model", "EKIBEN_OUTPUT_DIR": "output", "EKIBEN_CHECKPOINT_DIR": "checkpoints"}
    env = {**told["env"], "EKIBEN_INPUT_CENSUS": str(inputs)}
    for name, part in folders.items():
        (into / part).mkdir()
        env[name] = str(into / part)
    began = time.perf_counter()
    with (into / "log.txt").open("wb") as log:
        done = subprocess.run(
            [sys.executable, "-u", "train.py"], cwd=into / "code", env=env, stdout=log, stderr=log, timeout=PATIENCE_S,
            check=False, preexec_fn=lambda: os.sched_setaffinity(0, told["cpus"]),
        )  # fmt: skip
    took_s = time.perf_counter() - began
    if done.returncode:
        raise RuntimeError((into / "log.txt").read_text("utf-8")[-2000:])
    return took_s, into / "model"


def run(station: Hosted, training: str, id: str) -> tuple[float, Path]:
    """Seconds from `submit` until the run is known to have succeeded, and the folder of its model."""
    runs = f"/v1/trainings/{training}/runs"
    began = time.perf_counter()
    station.client.request("POST", runs, Job(id=id).to_dict())
    while not (now := Run.from_dict(station.client.request("GET", f"{runs}/{id}"))).ended:
        time.sleep(POLL_S)
    took_s = time.perf_counter() - began
    if now.state != "succeeded":
        raise RuntimeError(f"the run {id} has {now.state}: {now.reason}")
    return took_s, Path(now.model_uri.removeprefix("file://"))


def metric(station: Hosted, training: str) -> float:
    newest = station.client.request("GET", f"/v1/trainings/{training}/runs")["runs"][0]
    return float(newest["metrics"]["auc"])


def digests(folders: list[Path]) -> set[str]:
    return {hashlib.sha256((folder / "model.ubj").read_bytes()).hexdigest() for folder in folders}


def table(found: dict[str, Any]) -> str:
    same = "the same bytes" if found["same_model_by_hand"] else "NOT the same bytes"
    alike = "the same bytes" if found["same_model_on_two_nodes"] else "other bytes"
    faster = f"{alike}, {found['two_nodes_speedup']:.2f} times as fast as one"
    return f"""\
The example's job, medians of {found["repeats"]}, {found["vcpu_per_node"]} CPU a node

                   seconds    AUC
by hand           {found["by_hand_s"]:8.2f}
on one node       {found["one_node_s"]:8.2f}    {found["one_node_auc"]:.4f}   {same} as by hand
on two nodes      {found["two_nodes_s"]:8.2f}    {found["two_nodes_auc"]:.4f}   {faster}

Overhead of a run: {found["overhead_s"]:.2f} s, {found["overhead_percent"]:.1f} %"""


if __name__ == "__main__":
    sys.exit(main())
