"""Writes down every event that it is given."""

import json

import ekiben as ek


def handler(event: ek.Event, runtime: ek.Runtime) -> None:
    runtime.storage("lake").put(f"seen/{event.id}.json", json.dumps(event.to_dict()).encode())
