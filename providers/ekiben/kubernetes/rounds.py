"""How the nodes of a run go together without anybody over them: a round is an attempt of all nodes, agreed on in the store.

    rounds/0001/0000.json        node 0 is in it, where it is found, and a number that grows while its pod lives
    rounds/0001/done-0000.json   node 0 has succeeded
    rounds/0001/end.json         it has failed, or was interrupted: written once, by whichever node knows first; all others follow

A pod that was killed comes back and finds itself in a round that it knows nothing of: that round is over, and the next begins with
all nodes. Needs the standard library alone.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable
from typing import Any

from ekiben.kubernetes.s3 import Refused, Store
from ekiben.records import now

__all__ = ["Rounds"]

BEAT_S = 3.0
# A pod that has not said a word for so long, while its peers fail, was most likely what they failed of.
SILENT_S = 12.0
LOOK_S = 1.0


class Rounds:
    """The rounds of a run below `uri`, seen by the node `rank` of `count`, which is found at `address`."""

    def __init__(self, store: Store, uri: str, rank: int, count: int, address: str) -> None:
        self._store, self._uri, self._rank, self._count, self._address = store, uri, rank, count, address
        self.number = 0
        self._beating = threading.Event()

    def ended(self) -> list[dict[str, Any]]:
        """How each round that is over has ended, the first first."""
        found = sorted(uri for uri, _ in self._store.list(f"{self._uri}/") if uri.endswith("/end.json"))
        return [self._read(uri) or {"state": "interrupted"} for uri in found]

    def enter(self, stopped: Callable[[], bool]) -> bool:
        """Be in the round that goes on, and wait until all nodes are. False where it ended before that, or somebody `stopped` it.

        One that this node was in already is one that its pod did not outlive: it ends here.
        """
        self.number = len(self.ended()) + 1
        if not self._store.put(self._at(self._name(self._rank)), self._sign(0), absent=True):
            self.end("interrupted", f"the pod of node {self._rank} was killed, or its node went away")
            return False
        self._beat()
        while not stopped() and self.end_of() is None:
            if all(self._read(self._at(self._name(rank))) for rank in range(self._count) if rank != self._rank):
                return True
            time.sleep(LOOK_S)
        return False

    def master(self) -> str:
        """Where node 0 of this round is found."""
        return self._address if self._rank == 0 else str((self._read(self._at(self._name(0))) or {}).get("address", ""))

    def end_of(self) -> dict[str, Any] | None:
        """How this round has ended; None while it goes on."""
        return self._read(self._at("end.json"))

    def end(self, state: str, reason: str) -> dict[str, Any]:
        """End this round, unless another node has; how it has ended."""
        told = {"state": state, "reason": reason, "node": self._rank, "at": now()}
        self._store.put(self._at("end.json"), json.dumps(told).encode(), absent=True)
        return self.end_of() or told

    def failed(self, reason: str) -> dict[str, Any]:
        """End this round for a failure here, unless it was another node's going that it failed of."""
        before, since = self._signs(), time.monotonic()
        while (
            silent := [rank for rank, sign in self._signs().items() if sign == before.get(rank)]
        ) and not self.end_of():
            if time.monotonic() - since > SILENT_S:
                return self.end("interrupted", f"the pod of node {silent[0]} is gone")
            time.sleep(LOOK_S)
        return self.end("failed", reason)

    def succeeded(self, stopped: Callable[[], bool]) -> bool:
        """This node has: wait until all have. False where the round ends before that, or somebody `stopped` it."""
        self._store.put(self._at(f"done-{self._name(self._rank)}"), b"{}")
        while not stopped() and self.end_of() is None:
            if all(self._read(self._at(f"done-{self._name(rank)}")) is not None for rank in range(self._count)):
                return True
            time.sleep(LOOK_S)
        return False

    def leave(self) -> None:
        """Say no more that this pod lives."""
        self._beating.set()

    def _beat(self) -> None:
        self._beating.set()
        self._beating = over = threading.Event()
        uri = self._at(self._name(self._rank))

        def beat() -> None:
            sign = 0
            while not over.wait(BEAT_S):
                sign += 1
                with contextlib.suppress(OSError, Refused):
                    self._store.put(uri, self._sign(sign))

        if self._count > 1:
            threading.Thread(target=beat, daemon=True).start()

    def _signs(self) -> dict[int, Any]:
        others = (rank for rank in range(self._count) if rank != self._rank)
        return {rank: (self._read(self._at(self._name(rank))) or {}).get("sign") for rank in others}

    def _sign(self, sign: int) -> bytes:
        return json.dumps({"address": self._address, "sign": sign}).encode()

    def _read(self, uri: str) -> dict[str, Any] | None:
        try:
            return dict(json.loads(self._store.get(uri)))
        except Refused as error:
            if error.status == 404:
                return None
            raise

    def _at(self, name: str) -> str:
        return f"{self._uri}/{self.number:04d}/{name}"

    @staticmethod
    def _name(rank: int) -> str:
        return f"{rank:04d}.json"
