"""New data has landed: train on all that is there, in both ways. The runs are named after the data."""

import hashlib

import ekiben as ek


def handler(event: ek.Event, runtime: ek.Runtime) -> str:
    listing = [f"{found.key} {found.etag}" for found in runtime.storage("lake").list("points/")]
    name = hashlib.sha256("\n".join(listing).encode()).hexdigest()[:12]
    for training in ("once", "again"):
        runtime.training(training).submit(ek.Job(id=f"{training}-{name}"))
    return name
