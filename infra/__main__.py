"""What this project stands up. `pulumi up`, or `ekiben up`; the stack's config names the provider."""

import ekiben as ek

cloud = ek.provider()

lake = cloud.Storage("lake")
models = cloud.Registry("models", storage=lake)
employment = cloud.Training(
    "employment",
    ek.TrainingSpec(
        source="training_jobs/employment",
        inputs={"census": "lake/employment/"},
        resources=ek.Resources(vcpu=2, memory_mib=4096),
        timeout_s=900,
        spot=True,
    ),
    storage=lake,
)
api = cloud.Endpoint(
    "employment-api", ek.EndpointSpec(model="employment@champion", bento="bentos/employment"), registry=models
)
retrain = cloud.Function(
    "retrain",
    ek.FunctionSpec(source="functions/retrain", on=(ek.NewData("lake", "employment/"), ek.Schedule("0 3 * * *"))),
    uses=[lake, employment],
)
register = cloud.Function(
    "register",
    ek.FunctionSpec(source="functions/register", on=(ek.On("TrainingEnded", "employment"),)),
    uses=[lake, employment, models, api],
)
release = cloud.Function(
    "release",
    ek.FunctionSpec(source="functions/release", on=(ek.On("ModelDecided", "models"),)),
    uses=[lake, models, api],
)

ek.export(lake, models, employment, api, retrain, register, release)
