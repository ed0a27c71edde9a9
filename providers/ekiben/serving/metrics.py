"""Prometheus metrics in their text form, under BentoML's names and labels, without a library.

Several workers behind one port each write theirs into a shared folder from time to time, and whoever is asked adds them up.
"""

from __future__ import annotations

import json
import os
import sys
import time
from bisect import bisect_left
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

__all__ = ["BUCKETS", "CONTENT_TYPE", "Metrics", "buckets"]

CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 180.0)
MAX_BUCKETS = 100
# Of batches, whatever the namespace: how many requests a call was for, as BentoML counts them, and how many rows.
SIZES = {
    "bentoml_service_adaptive_batch_size": "Service adaptive batch size",
    "bentoml_service_adaptive_batch_rows": "Rows of a batch",
}
SIZE_BOUNDS = tuple(float(2**power) for power in range(13))


def buckets(given: dict[str, Any]) -> tuple[float, ...]:
    """The bounds that a service's configuration asks for, by `buckets` or by `min`, `max` and `factor`."""
    if not any(given.get(key) for key in ("min", "max", "factor")):
        return tuple(given.get("buckets") or BUCKETS)
    bound: float = given["min"]
    found: list[float] = []
    while bound < given["max"] and len(found) < MAX_BUCKETS:
        found.append(bound)
        bound *= given["factor"]
    return (*found, given["max"])


class Metrics:
    """Counts by endpoint and status. `shared` is the folder of workers that share a port."""

    def __init__(
        self,
        service: str,
        bento: str,
        version: str,
        endpoints: tuple[str, ...] = (),
        *,
        namespace: str = "bentoml_service",
        bounds: tuple[float, ...] = BUCKETS,
        shared: Path | None = None,
    ) -> None:
        self.in_progress = 0
        # Of those who count something of their own: name -> what it is, and its value.
        self.counters: dict[str, tuple[str, Callable[[], float]]] = {}
        self.namespace, self._bounds, self._shared = namespace, bounds, shared
        names = {"runner_name": service, "service_name": bento, "service_version": version}
        self._labels = ",".join(f'{name}="{_escaped(value)}"' for name, value in names.items())
        self._last = 0.0
        self._dirty = False
        # endpoint and status -> one count a bucket, those beyond all, the sum of seconds
        self._seen: dict[tuple[str, int], list[float]] = {}
        for endpoint in endpoints:
            for status in (200, 500):
                self._seen[endpoint, status] = [0.0] * (len(bounds) + 2)
        # family and method -> the same of sizes
        self._sizes: dict[tuple[str, str], list[float]] = {}

    def observe(self, endpoint: str, status: int, seconds: float) -> None:
        row = self._seen.get((endpoint, status))
        if row is None:
            row = self._seen[endpoint, status] = [0.0] * (len(self._bounds) + 2)
        row[bisect_left(self._bounds, seconds)] += 1
        row[-1] += seconds
        self._dirty = True

    def batch(self, method: str, requests: int, rows: int) -> None:
        """A call of a batchable method."""
        for family, size in zip(SIZES, (requests, rows), strict=True):
            row = self._sizes.setdefault((family, method), [0.0] * (len(SIZE_BOUNDS) + 2))
            row[bisect_left(SIZE_BOUNDS, size)] += 1
            row[-1] += size
        self._dirty = True

    def write(self) -> None:
        """Tell the other workers, when there is news."""
        if self._shared is not None and self._dirty:
            self._dirty = False
            rows = [[endpoint, status, row] for (endpoint, status), row in self._seen.items()]
            sizes = [[family, method, row] for (family, method), row in self._sizes.items()]
            told = {
                "rows": rows,
                "sizes": sizes,
                "in_progress": self.in_progress,
                "at": time.time(),
                "counts": self._counts(),
            }
            path = self._shared / f"{os.getpid()}.json"
            fresh = path.with_suffix(".new")
            with suppress(OSError):  # a full disk must not stop the service
                fresh.write_text(json.dumps(told))
                fresh.replace(path)

    def text(self) -> bytes:
        """All of it, and what the service itself has registered with prometheus_client."""
        rows, sizes, counts, in_progress = self._all()
        space = self.namespace
        lines: list[str] = []

        def family(name: str, kind: str, what: str) -> None:
            lines.extend((f"# HELP {space}_{name} {what}", f"# TYPE {space}_{name} {kind}"))

        family("request_total", "counter", "Total number of requests")
        for (endpoint, status), row in rows.items():
            labels = f'endpoint="{_escaped(endpoint)}",http_response_code="{status}",{self._labels}'
            lines.append(f"{space}_request_total{{{labels}}} {sum(row[:-1])}")
        family("request_duration_seconds", "histogram", "Request duration in seconds")
        for (endpoint, status), row in rows.items():
            if any(row):
                labels = f'endpoint="{_escaped(endpoint)}",http_response_code="{status}",{self._labels}'
                lines += _histogram(f"{space}_request_duration_seconds", labels, self._bounds, row)
        family("request_in_progress", "gauge", "Total number of requests in progress now")
        lines.append(f"{space}_request_in_progress{{{self._labels}}} {in_progress}")
        family("last_request_timestamp_seconds", "gauge", "Timestamp of the last received request")
        lines.append(f"{space}_last_request_timestamp_seconds{{{self._labels}}} {self._last}")
        for name, what in SIZES.items() if sizes else ():
            lines += (f"# HELP {name} {what}", f"# TYPE {name} histogram")
            for (family_name, method), row in sizes.items():
                if name == family_name:
                    labels = f'method_name="{_escaped(method)}",worker_index="1",{self._labels}'
                    lines += _histogram(name, labels, SIZE_BOUNDS, row)
        for name, (what, _) in self.counters.items():
            lines += (f"# HELP {name} {what}", f"# TYPE {name} counter", f"{name}{{{self._labels}}} {counts[name]}")
        return "\n".join([*lines, ""]).encode() + _of_the_service()

    def touched(self) -> None:
        self._last = time.time()

    def _counts(self) -> dict[str, float]:
        return {name: value() for name, (_, value) in self.counters.items()}

    def _all(
        self,
    ) -> tuple[dict[tuple[str, int], list[float]], dict[tuple[str, str], list[float]], dict[str, float], int]:
        counts = self._counts()
        rows, in_progress = {key: list(row) for key, row in self._seen.items()}, self.in_progress
        sizes = {key: list(row) for key, row in self._sizes.items()}
        if self._shared is not None:
            for path in self._shared.glob("*.json"):
                with suppress(OSError, ValueError):
                    if path.stem != str(os.getpid()):
                        found = json.loads(path.read_text())
                        in_progress += found["in_progress"] if _alive(int(path.stem)) else 0
                        for endpoint, status, row in found["rows"]:
                            mine = rows.setdefault((endpoint, status), [0.0] * len(row))
                            mine[:] = [a + b for a, b in zip(mine, row, strict=True)]
                        for family, method, row in found["sizes"]:
                            mine = sizes.setdefault((family, method), [0.0] * len(row))
                            mine[:] = [a + b for a, b in zip(mine, row, strict=True)]
                        for name in counts:
                            counts[name] += found["counts"].get(name, 0)
        return rows, sizes, counts, in_progress


def _histogram(name: str, labels: str, bounds: tuple[float, ...], row: list[float]) -> list[str]:
    lines, total = [], 0.0
    for bound, count in zip((*bounds, "+Inf"), row, strict=False):
        total += count
        lines.append(f'{name}_bucket{{{labels},le="{bound}"}} {total}')
    return [*lines, f"{name}_count{{{labels}}} {total}", f"{name}_sum{{{labels}}} {row[-1]}"]


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _of_the_service() -> bytes:
    client = sys.modules.get("prometheus_client")
    if client is None:
        return b""
    if os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
        from prometheus_client import CollectorRegistry
        from prometheus_client.multiprocess import MultiProcessCollector

        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return bytes(client.generate_latest(registry))
    return bytes(client.generate_latest())
