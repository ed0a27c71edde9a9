"""`python -m ekiben.emulators.kubernetes.policies`: the process that has the kernel enforce NetworkPolicies, in the node's network.

It follows policies, namespaces and pods. The address of a pod it is told by the CNI plugin, which waits until the rules are there:
a pod is guarded before it begins, and reaches what it may with its first packet. All rules are in the table `mangle`, where
kube-proxy has none that would let something through before them.
"""

from __future__ import annotations

import argparse
import logging
import os
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ekiben.emulators.kubernetes.api import Api
from ekiben.emulators.kubernetes.policies.cni import DONE, SOCKET
from ekiben.emulators.kubernetes.policies.rules import FORWARD, INPUT, PREFIX, Chains, Pod, chains, pod_of

__all__ = ["Guard", "main", "transaction"]

TABLE = "mangle"
# What the kernel's own chains jump to ours with. The node is no stranger to itself.
JUMPS = (f"-A FORWARD -j {FORWARD}", f"-A INPUT ! -i lo -j {INPUT}")
ASKER_WAITS_S = 20.0
RESTORE_S = 60.0
AGAIN_AFTER_S = 1.0
Held = Mapping[tuple[str, str], Mapping[str, Any]]

logger = logging.getLogger("ekiben.emulators.kubernetes.policies")


class Guard:
    """What is known, and what the kernel has of it. `restore`: has a text of iptables-restore take effect, or raises OSError."""

    def __init__(
        self, restore: Callable[[str], None], there: Chains | None = None, jumps: tuple[str, ...] = JUMPS
    ) -> None:
        self._restore, self._there, self._jumps = restore, there or {}, jumps
        self._changed = threading.Condition()
        self._known: dict[str, Any] = {}
        # What the plugin has told, by the pod's uid; and for whom the kernel has rules.
        self._told: dict[str, str] = {}
        self._guarded: set[tuple[str, str]] = set()
        self._news = False

    def set_policies(self, held: Held) -> None:
        self._set(
            "policies", {key: {"metadata": {"namespace": key[0]}, "spec": one["spec"]} for key, one in held.items()}
        )

    def set_namespaces(self, held: Held) -> None:
        self._set("namespaces", {one["metadata"]["name"]: one["metadata"].get("labels") or {} for one in held.values()})

    def set_pods(self, held: Held) -> None:
        found = {one["metadata"]["uid"]: pod for one in held.values() if (pod := pod_of(one)) is not None}
        with self._changed:
            for gone in self._known.get("pods", {}).keys() - found.keys():
                self._told.pop(gone, None)
        self._set("pods", found)

    def wait_for(self, uid: str, address: str, patience_s: float = ASKER_WAITS_S) -> bool:
        """Have the pod be guarded at its address; whether it is."""
        with self._changed:
            for former in [one for one, its in self._told.items() if its == address]:
                del self._told[former]
            self._told[uid] = address
            self._news = True
            self._changed.notify_all()
            return self._changed.wait_for(lambda: (uid, address) in self._guarded, patience_s)

    def enforce(self) -> None:
        """Wait for something new, and have the kernel enforce it. What fails is tried again by the next call."""
        with self._changed:
            self._changed.wait_for(lambda: self._news and len(self._known) == len(KINDS))
            self._news = False
            addresses = self._addresses()
            pods: dict[str, Pod] = self._known["pods"]
            policies, namespaces = self._known["policies"].values(), self._known["namespaces"]
        wanted = chains(policies, {address: pods[uid] for uid, address in addresses.items()}, namespaces)
        try:
            if text := transaction(self._there, wanted, self._jumps):
                self._restore(text)
        except OSError:
            with self._changed:
                self._news = True
            raise
        self._there, self._jumps = wanted, ()
        with self._changed:
            self._guarded = set(addresses.items())
            self._changed.notify_all()

    def _set(self, kind: str, found: Any) -> None:
        with self._changed:
            if self._known.get(kind) != found:
                self._known[kind] = found
                self._news = True
                self._changed.notify_all()

    def _addresses(self) -> dict[str, str]:
        """By uid. What the API has of a pod of this process's life before, or the cluster's, may be another's by now."""
        taken = set(self._told.values())
        pods: dict[str, Pod] = self._known["pods"]
        old = {uid: pod.reported for uid, pod in pods.items() if pod.reported and pod.reported not in taken}
        return {**old, **{uid: address for uid, address in self._told.items() if uid in pods}}


KINDS: Mapping[str, Callable[[Guard, Held], None]] = {
    "/apis/networking.k8s.io/v1/networkpolicies": Guard.set_policies,
    "/api/v1/namespaces": Guard.set_namespaces,
    "/api/v1/pods": Guard.set_pods,
}


def transaction(there: Chains, wanted: Chains, jumps: tuple[str, ...]) -> str:
    """What brings the kernel from one to the other at once, for iptables-restore; empty where they are the same."""
    fresh = {name: rules for name, rules in wanted.items() if there.get(name) != rules}
    gone = [name for name in there if name not in wanted]
    if not (fresh or gone or jumps):
        return ""
    lines = [f"*{TABLE}", *(f":{name} - [0:0]" for name in fresh)]
    lines += [f"-A {name} {rule}" for name, rules in fresh.items() for rule in rules]
    lines += [*jumps, *(f"-F {name}" for name in gone), *(f"-X {name}" for name in gone)]
    return "\n".join([*lines, "COMMIT", ""])


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m ekiben.emulators.kubernetes.policies", description="Has the kernel enforce NetworkPolicies."
    )
    parser.add_argument("--kubeconfig", required=True, type=Path)
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    api = Api(args.kubeconfig)
    guard = Guard(_restore, *_there())
    _answer(guard)
    for path, seen in KINDS.items():
        threading.Thread(target=api.follow, args=(path, lambda held, seen=seen: seen(guard, held)), daemon=True).start()
    while True:
        try:
            guard.enforce()
        except OSError:
            logger.exception("the rules are not in the kernel")
            time.sleep(AGAIN_AFTER_S)


def _answer(guard: Guard) -> None:
    class Asked(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            uid, address = self.rfile.readline().decode("ascii").split()
            if guard.wait_for(uid, address):
                self.wfile.write(DONE)

    class Server(socketserver.ThreadingUnixStreamServer):
        daemon_threads = True
        request_queue_size = 128

    with suppress(FileNotFoundError):  # of a process before this one
        os.unlink(SOCKET)
    threading.Thread(target=Server(SOCKET, Asked).serve_forever, daemon=True).start()


def _there() -> tuple[Chains, tuple[str, ...]]:
    """The chains that a process before this one has left, as if empty, so that all are made anew; and the jumps that it lacks."""
    saved = subprocess.run(
        ["iptables-save", "-t", TABLE], capture_output=True, text=True, timeout=RESTORE_S, check=True
    )
    lines = saved.stdout.splitlines()
    left: Chains = {line[1:].split()[0]: [] for line in lines if line.startswith(f":{PREFIX}")}
    return left, tuple(one for one in JUMPS if one not in lines)


def _restore(text: str) -> None:
    command = ["iptables-restore", "--noflush", "--wait"]
    try:
        subprocess.run(command, input=text, capture_output=True, text=True, timeout=RESTORE_S, check=True)
    except subprocess.SubprocessError as error:
        raise OSError(f"{error}: {getattr(error, 'stderr', '') or ''}".strip()) from error


if __name__ == "__main__":
    sys.exit(main())
