"""New data has landed, or it is 3 in the morning: train on all that is there."""

import hashlib

import ekiben as ek

PREFIX = "employment/"


def handler(event: ek.Event, runtime: ek.Runtime) -> str:
    listing = [f"{found.key} {found.etag}" for found in runtime.storage("lake").list(PREFIX)]
    if not listing:
        return f"there is nothing in {PREFIX}"
    # The run is named after the data it reads, so three files, a second delivery or a quiet night make one run, not many.
    name = hashlib.sha256("\n".join(listing).encode()).hexdigest()[:12]
    run = runtime.training("employment").submit(ek.Job(id=f"data-{name}"))
    return f"{run.id} is {run.state}"
