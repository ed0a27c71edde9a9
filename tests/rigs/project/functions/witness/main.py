"""Writes down every event it sees, under the event's id: a second delivery is seen, not doubled."""

import json

import ekiben as ek


def handler(event: ek.Event, runtime: ek.Runtime) -> None:
    name = "".join(c if c.isalnum() else "-" for c in event.id)
    runtime.storage("lake").put(f"seen/{event.type}/{name}.json", json.dumps(event.to_dict()).encode())
