"""From zero to the first answer: `python -m benchmarks.scale_from_zero [--tries 200] [--json]`.

The example's endpoint goes to zero, one request is sent, and the time to its whole answer is taken, again and again. Beside it, in
the same run: `bentoml serve` on the same bento, started from nothing, asked until it answers.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.hosted import Hosted, Packed, hosted, packed, until
from ekiben.packing import remove, unpack

ENDPOINT = "from-zero"
START_S = 120.0
POLL_S = 0.005


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--tries", type=int, default=200)
    parser.add_argument("--bentoml-tries", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    with packed() as bento:
        with hosted() as station:
            found = from_zero(station, bento, args.tries)
        found |= from_nothing(bento, args.bentoml_tries)
    if args.json:
        print(json.dumps(found, indent=2, sort_keys=True))
    else:
        show(found)
    return 1 if found["lost"] else 0


def from_zero(station: Hosted, bento: Packed, tries: int) -> dict[str, Any]:
    """Latencies of first requests; `lost` are those without the right answer. `warm_p50_ms` is of a second request each."""
    station.endpoint(ENDPOINT, bento, idle_s=1)
    cold: list[float] = []
    warm: list[float] = []
    wrong: list[str] = []
    for _ in range(tries):
        until(lambda: not station.instances(ENDPOINT), "it goes to zero")
        try:
            cold.append(station.call(ENDPOINT, bento) * 1000)
            warm.append(station.call(ENDPOINT, bento) * 1000)
        except (OSError, RuntimeError, http.client.HTTPException) as error:
            wrong.append(str(error))
    for why in wrong[:5]:
        print(f"lost: {why}", file=sys.stderr)
    return {
        "tries": tries, "lost": len(wrong), "p50_ms": quantile(cold, 0.5), "p99_ms": quantile(cold, 0.99),
        "min_ms": quantile(cold, 0), "max_ms": quantile(cold, 1), "warm_p50_ms": quantile(warm, 0.5),
    }  # fmt: skip


def from_nothing(bento: Packed, tries: int) -> dict[str, Any]:
    """The same first request to `bentoml serve`, from the start of its process."""
    took: list[float] = []
    with unpacked(bento) as folder:
        for _ in range(tries):
            took.append(served(folder, bento) * 1000)
    return {"bentoml_tries": tries, "bentoml_p50_ms": quantile(took, 0.5), "bentoml_min_ms": quantile(took, 0)}


def served(folder: Path, bento: Packed) -> float:
    with tempfile.TemporaryDirectory(prefix="ekiben-bench-") as home, open(Path(home, "log"), "wb") as log:
        port = free_port()
        began = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", "bentoml", "serve", str(folder), "--host", "127.0.0.1", "--port", str(port)],
            stdout=log, stderr=log, start_new_session=True, cwd=home,
            env={**os.environ, "BENTOML_HOME": home, "BENTO_DO_NOT_TRACK": "true"},
        )  # fmt: skip
        try:
            while time.perf_counter() - began < START_S:
                if process.poll() is not None:
                    raise RuntimeError(
                        f"bentoml serve ended: {Path(home, 'log').read_text('utf-8', 'replace')[-2000:]}"
                    )
                with contextlib.suppress(OSError, http.client.HTTPException):
                    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=START_S)
                    connection.request("POST", f"/{bento.route}", bento.request, {"Content-Type": "application/json"})
                    answer = connection.getresponse()
                    if answer.status == 200 and json.loads(answer.read()) == bento.response:
                        return time.perf_counter() - began
                time.sleep(POLL_S)
            raise RuntimeError(f"bentoml serve gave no answer within {START_S:g} s")
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@contextlib.contextmanager
def unpacked(bento: Packed) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="ekiben-bench-") as name:
        folder = unpack(
            Path(bento.version.bento_uri.removeprefix("file://")), bento.version.digest, Path(name) / "bento"
        )
        try:
            yield folder
        finally:
            remove(folder)


def free_port() -> int:
    import socket

    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def quantile(values: list[float], q: float) -> float | None:
    ordered = sorted(values)
    if not ordered:
        return None
    return round(statistics.median(ordered) if q == 0.5 else ordered[min(len(ordered) - 1, int(q * len(ordered)))], 1)


def show(found: dict[str, Any]) -> None:
    print(f"{'':24}  {'p50 ms':>8}  {'p99 ms':>8}  {'tries':>6}  {'lost':>5}")
    print(
        f"{'Ekiben, from zero':24}  {found['p50_ms']:>8}  {found['p99_ms']:>8}  {found['tries']:>6}  {found['lost']:>5}"
    )
    print(f"{'Ekiben, warm':24}  {found['warm_p50_ms']:>8}")
    print(f"{'bentoml serve, started':24}  {found['bentoml_p50_ms']:>8}  {'':>8}  {found['bentoml_tries']:>6}")
    if found["p50_ms"] and found["bentoml_p50_ms"]:
        print(f"The first answer comes {found['bentoml_p50_ms'] / found['p50_ms']:.0f} times sooner.")


if __name__ == "__main__":
    sys.exit(main())
