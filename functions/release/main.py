"""Somebody has decided on a version: what is approved goes to the endpoint."""

import ekiben as ek
from ekiben import release


def handler(event: ek.Event, runtime: ek.Runtime) -> str:
    if event.data.get("state") != "approved":
        return f"{event.subject} is {event.data.get('state')}, so nothing is released"
    revision = release.release(
        runtime,
        event.subject,
        endpoint="employment-api",
        registry="models",
        who="functions/release",
        why="it was approved",
    )
    return f"{event.subject} is released as {revision.id}"
