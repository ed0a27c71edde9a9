"""Fails until the object `mended` is in the lake."""

import ekiben as ek


def handler(event: ek.Event, runtime: ek.Runtime) -> str:
    if not any(runtime.storage("lake").list("mended")):
        raise RuntimeError(f"not mended, says {event.subject}")
    return "mended"
