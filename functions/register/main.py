"""A training run has ended: what succeeded becomes a version in the registry, and waits there for approval."""

import ekiben as ek
from ekiben import release


def handler(event: ek.Event, runtime: ek.Runtime) -> str:
    run = runtime.training(event.source).run(event.subject)
    if run.state != "succeeded":
        return f"{run.id} {run.state}, so there is nothing to register: {run.reason}"
    version = release.register(runtime, run, endpoint="employment-api", registry="models")
    return f"{version.id} is {version.state}"
