"""The log of a run that goes on, as its pods print it: also over the change of a pod, and of a connection, without a line twice."""

from __future__ import annotations

import queue
import re
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from ekiben.errors import AccessDenied, ProviderError
from ekiben.kubernetes.client import Cluster
from ekiben.kubernetes.keys import EARLIER

__all__ = ["lines"]

LOOK_S = 1.0
INDEX = "batch.kubernetes.io/job-completion-index"
HEAD = re.compile(re.escape(EARLIER).replace(r"\{\}", r"(\d+)"))


def lines(
    cluster: Cluster, job: str, nodes: int, operation: str, *, ended: Callable[[], bool], follow: bool
) -> Iterator[str]:
    """The lines of all nodes, each marked with its node where there are several; with `follow` until the run has `ended`."""
    if not follow or nodes == 1:
        for rank in range(nodes):
            mark = f"[{rank}] " if nodes > 1 else ""
            for line in _of_node(cluster, job, rank, operation, ended, follow):
                yield mark + line
        return
    found: queue.Queue[Any] = queue.Queue(maxsize=1000)
    over = threading.Event()

    def read(rank: int) -> None:
        try:
            for line in _of_node(cluster, job, rank, operation, lambda: over.is_set() or ended(), True):
                while not over.is_set():
                    try:
                        found.put(f"[{rank}] {line}", timeout=LOOK_S)
                        break
                    except queue.Full:
                        continue
            found.put(None)
        except Exception as error:  # whoever reads waits for one or the other
            found.put(error)

    for rank in range(nodes):
        threading.Thread(target=read, args=(rank,), daemon=True).start()
    left = nodes
    try:
        while left:
            one = found.get()
            if isinstance(one, Exception):
                raise one
            if one is None:
                left -= 1
            else:
                yield one
    finally:
        over.set()


def _of_node(
    cluster: Cluster, job: str, rank: int, operation: str, ended: Callable[[], bool], follow: bool
) -> Iterator[str]:
    told, uid, had, skip, whole = 0, "", 0, 0, False
    while True:
        # Before the pod: what has ended by now has logged all of it.
        last = not follow or ended()
        pod = _newest(cluster, job, rank, operation)
        phase = (pod.get("status") or {}).get("phase") if pod else "Pending"
        if pod is not None and phase != "Pending" and not (whole and pod["metadata"]["uid"] == uid):
            if pod["metadata"]["uid"] != uid:
                uid, had, skip = pod["metadata"]["uid"], 0, 0
            for number, line in enumerate(_printed(cluster, pod["metadata"]["name"], operation, follow)):
                if number < had:  # the connection broke off, and the log is read again
                    continue
                had = number + 1
                if number == 0 and (head := HEAD.fullmatch(line)):
                    # Of what is told again only that which nobody has seen; of what is new all.
                    skip = min(told, int(head[1])) + 1
                if number >= skip:
                    told += 1
                    yield line
            whole = phase in ("Succeeded", "Failed")
        if last:
            return
        time.sleep(LOOK_S)


def _printed(cluster: Cluster, pod: str, operation: str, follow: bool) -> Iterator[str]:
    try:
        for line in cluster.log(pod, operation, follow=follow):
            yield line.decode("utf-8", "replace")
    except AccessDenied:
        raise
    except ProviderError:
        pass  # it went meanwhile, or has not begun: the next look tells


def _newest(cluster: Cluster, job: str, rank: int, operation: str) -> dict[str, Any] | None:
    asked = {"batch.kubernetes.io/job-name": job, INDEX: str(rank)}
    pods = list(cluster.list("Pod", operation, labels=asked))
    return max(pods, key=lambda pod: str(pod["metadata"]["creationTimestamp"]), default=None)
