"""The deliveries of a function, in the store: one object each, in the folder that says where it stands.

    deliveries/NAME/open/HASH.json    waits, or runs       done/HASH.json   is done       dead/HASH.json   is a dead letter
    deliveries/NAME/again/HASH        a dead letter that is to be delivered again
    deliveries/NAME/log.txt           what the calls have printed

One process alone writes them, that in the function's pod; others ask it for a replay. HASH is of the event's id, so that an event
that comes twice is one delivery. Needs the standard library alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any

from ekiben.kubernetes.s3 import Refused, Store

__all__ = ["Deliveries", "name_of"]

FOLDERS = ("open", "done", "dead")


def name_of(id: str) -> str:
    """What the object of a delivery is called."""
    return hashlib.sha256(id.encode("utf-8", "surrogatepass")).hexdigest()[:32]


class Deliveries:
    """Those below `uri`, s3://BUCKET/deliveries/NAME."""

    def __init__(self, store: Store, uri: str) -> None:
        self._store, self._uri = store, uri.rstrip("/")

    def known(self, id: str) -> bool:
        """Has the event been delivered, or is it to be?"""
        return any(self._read(f"{folder}/{name_of(id)}.json") is not None for folder in FOLDERS)

    def save(self, delivery: dict[str, Any]) -> None:
        """Write where it stands; it is found there by whoever comes after a crash, too."""
        name, state = f"{name_of(delivery['id'])}.json", delivery["state"]
        folder = state if state in ("done", "dead") else "open"
        self._store.put(f"{self._uri}/{folder}/{name}", json.dumps(delivery, ensure_ascii=False).encode())
        if folder != "open":
            self._store.delete(f"{self._uri}/open/{name}")
        else:
            self._store.delete(f"{self._uri}/dead/{name}")

    def waiting(self) -> Iterator[dict[str, Any]]:
        """Those that are not over. One that is in two folders, since its pod was killed, is over."""
        over = {uri.rpartition("/")[2] for uri, _ in self._store.list(f"{self._uri}/done/")}
        for uri, _ in list(self._store.list(f"{self._uri}/open/")):
            name = uri.rpartition("/")[2]
            if name in over:
                self._store.delete(uri)
            elif found := self._read(f"open/{name}"):
                yield found

    def asked_again(self) -> Iterator[dict[str, Any]]:
        """The dead letters that somebody wants delivered again; each is told of once, when it is saved as waiting."""
        for uri, _ in list(self._store.list(f"{self._uri}/again/")):
            found = self._read(f"dead/{uri.rpartition('/')[2]}.json")
            if found is not None:
                yield found
            self._store.delete(uri)

    def remember(self, name: str, value: Any) -> None:
        """Keep a value of the pod's own, such as how far it has looked."""
        self._store.put(f"{self._uri}/{name}.json", json.dumps(value).encode())

    def recalled(self, name: str) -> Any:
        """What was kept; None where nothing was."""
        return self._read(f"{name}.json")

    def put_log(self, data: bytes) -> None:
        self._store.put(f"{self._uri}/log.txt", data)

    def log(self) -> bytes:
        try:
            return self._store.get(f"{self._uri}/log.txt")
        except Refused as error:
            if error.status != 404:
                raise
            return b""

    def prune(self, before: str) -> None:
        """Forget those that were done before a time (RFC 3339)."""
        for one in list(self._store.look(f"{self._uri}/done/")):
            if one.modified < before:
                self._store.delete(one.uri)

    def _read(self, name: str) -> Any:
        try:
            return json.loads(self._store.get(f"{self._uri}/{name}"))
        except Refused as error:
            if error.status != 404:
                raise
            return None
