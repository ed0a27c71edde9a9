"""The whole loop: data lands, functions train, register and release, an endpoint serves. `change.txt` makes another program."""

from pathlib import Path
from typing import Any

import ekiben as ek

root = Path(__file__).resolve().parents[1]
change = (root / "change.txt").read_text("utf-8").strip()

cloud = ek.provider()
lake = cloud.Storage("lake")
models = cloud.Registry("models", storage=lake)
jobs = {
    name: cloud.Training(
        name,
        ek.TrainingSpec(
            source="training_jobs/line",
            inputs={"points": "lake/points/"},
            params={"change": change},
            env={"MARKS": str(root / "marks")},
            resources=ek.Resources(vcpu=0.5, memory_mib=512),
            timeout_s=120,
            grace_s=1,
            spot=spot,
            model="line",
        ),
        storage=lake,
    )
    for name, spot in (("once", False), ("again", True))
}
api = cloud.Endpoint(
    "line-api",
    ek.EndpointSpec(model="line@champion", bento="bentos/line", concurrency=4, max_instances=2, idle_s=30),
    registry=models,
)


def function(name: str, *on: Any, uses: list[Any]) -> Any:
    spec = ek.FunctionSpec(source=f"functions/{name}", on=on, retries=10, backoff_s=0.2, env={"CHANGE": change})
    return cloud.Function(name, spec, uses=uses)


every = [lake, models, api, *jobs.values()]
functions = [
    function("retrain", ek.NewData("lake", "points/", settle_s=0.5), uses=[lake, *jobs.values()]),
    function("register", ek.On("TrainingEnded"), uses=every),
    function("release", ek.On("ModelDecided"), uses=every),
    function("witness", ek.On("TrainingEnded"), ek.On("ModelDecided"), ek.On("Said"), uses=[lake]),
]
ek.export(*every, *functions)
