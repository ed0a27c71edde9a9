"""Answers with what it was given."""

import ekiben as ek


def handler(event: ek.Event, runtime: ek.Runtime) -> dict[str, object]:
    print(f"echo {event.id}")
    return {"type": event.type, "data": event.data, "parts": sorted(runtime.platform.parts)}
