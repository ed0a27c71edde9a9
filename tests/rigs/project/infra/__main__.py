"""One of each component, the same on every provider."""

import pulumi

import ekiben as ek

cloud = ek.provider()
lake = cloud.Storage("lake")
spare = cloud.Storage("spare")
mirror = pulumi.Config("rig").get("mirror") or "where-supported"
models = cloud.Registry("models", ek.RegistrySpec(mirror=mirror), storage=lake)
tiny = cloud.Training(
    "tiny",
    ek.TrainingSpec(
        source="training_jobs/tiny",
        inputs={"points": "lake/points/"},
        params={"scale": 1.0},
        resources=ek.Resources(memory_mib=512),
        timeout_s=60,
        grace_s=1,
    ),
    storage=lake,
)
brittle = cloud.Training(
    "brittle",
    ek.TrainingSpec(
        source="training_jobs/tiny",
        inputs={"points": "lake/points/"},
        params={"scale": 1.0},
        resources=ek.Resources(memory_mib=256),
        timeout_s=8,
        grace_s=1,
        retries=1,
        model="tiny",
    ),
    storage=lake,
)
pair = cloud.Training(
    "pair",
    ek.TrainingSpec(
        source="training_jobs/tiny",
        inputs={"points": "lake/points/"},
        params={"scale": 1.0},
        resources=ek.Resources(vcpu=0.5, memory_mib=512),
        nodes=2,
        model="tiny",
    ),
    storage=lake,
)
fleeting = cloud.Training(
    "fleeting",
    ek.TrainingSpec(
        source="training_jobs/tiny",
        inputs={"points": "lake/points/"},
        params={"scale": 1.0},
        resources=ek.Resources(memory_mib=512),
        spot=True,
        model="tiny",
    ),
    storage=lake,
)
api = cloud.Endpoint(
    "tiny-api",
    ek.EndpointSpec(
        model="tiny@champion", bento="bentos/tiny", max_instances=2, concurrency=2, max_request_bytes=10_000
    ),
    registry=models,
)
fresh = cloud.Endpoint("fresh", ek.EndpointSpec(model="tiny@champion", bento="bentos/tiny"), registry=models)
narrow = cloud.Endpoint(
    "narrow",
    ek.EndpointSpec(
        model="tiny@champion",
        bento="bentos/tiny",
        max_instances=1,
        concurrency=1,
        max_queue=1,
        hold_s=20,
        timeout_s=2,
        idle_s=1,
        auth="none",
    ),
    registry=models,
)
echo = cloud.Function("echo", ek.FunctionSpec(source="functions/echo", on=(ek.Http(),)), uses=[lake])
broken = cloud.Function(
    "broken", ek.FunctionSpec(source="functions/broken", on=(ek.On("Broken"),), retries=1, backoff_s=0.1), uses=[lake]
)
witness = cloud.Function(
    "witness",
    ek.FunctionSpec(
        source="functions/witness",
        on=(ek.NewData("lake", "drop/", settle_s=0.5), ek.On("TrainingEnded"), ek.On("ModelDecided"), ek.On("Custom")),
    ),
    uses=[lake, models, tiny, brittle, pair, fleeting],
)
ek.export(lake, spare, models, tiny, brittle, pair, fleeting, api, fresh, narrow, echo, broken, witness)
