"""What is approved goes to the endpoint."""

import ekiben as ek
from ekiben import release


def handler(event: ek.Event, runtime: ek.Runtime) -> str:
    if event.data.get("state") != "approved":
        return f"{event.subject} is {event.data.get('state')}"
    return release.release(
        runtime, event.subject, endpoint="line-api", registry="models", who="functions/release", why="it was approved"
    ).id
