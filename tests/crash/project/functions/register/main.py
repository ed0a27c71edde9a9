"""A training run has ended: what succeeded becomes a version in the registry."""

import ekiben as ek
from ekiben import release


def handler(event: ek.Event, runtime: ek.Runtime) -> str:
    run = runtime.training(event.source).run(event.subject)
    if run.state != "succeeded":
        return f"{run.id} {run.state}: {run.reason}"
    return release.register(runtime, run, endpoint="line-api", registry="models").id
