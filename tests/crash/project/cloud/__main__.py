"""Every type of resource that the components of a cloud make, in few of them. `change.txt` makes another program."""

from pathlib import Path
from typing import Any

import ekiben as ek

change = (Path(__file__).resolve().parents[1] / "change.txt").read_text("utf-8").strip()
asked: dict[str, Any] = {"model": "line@champion", "bento": "bentos/line", "auth": "none", "timeout_s": 30}
mails = ("ops@example.org",)

cloud = ek.provider()
lake = cloud.Storage("lake")
models = cloud.Registry("models", storage=lake)
line = cloud.Training(
    "line",
    ek.TrainingSpec(
        source="training_jobs/line", inputs={"points": "lake/points/"}, params={"change": change}, spot=True
    ),
    storage=lake,
)
api = cloud.Endpoint("line-api", ek.EndpointSpec(**asked), registry=models)
# More than Lambda holds: on AWS it is on ECS.
large = ek.EndpointSpec(**asked, min_instances=1, resources=ek.Resources(vcpu=4, memory_mib=16384))
large_api = cloud.Endpoint("large-api", large, registry=models)
witness = cloud.Function(
    "witness",
    ek.FunctionSpec(
        source="functions/witness",
        on=(ek.NewData("lake", "points/"), ek.On("Said"), ek.Schedule("0 3 * * *"), ek.Http()),
        env={"CHANGE": change},
    ),
    uses=[lake, models, line, api],
)
watch = cloud.Monitor(
    "watch", ek.MonitorSpec(notify=mails, window_s=60 * (1 + int(change))), watches=[api, line, witness]
)
limit = cloud.Budget("limit", ek.BudgetSpec(monthly_usd=250, notify=mails))
ek.export(lake, models, line, api, large_api, witness, watch, limit)
