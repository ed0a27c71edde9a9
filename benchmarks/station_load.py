"""What the station costs: `python -m benchmarks.station_load [--seconds 5] [--json]`.

The example's endpoint is loaded through the gateway and, with the same generator (h2load), over the worker's own socket, turn by
turn. Then the station idles with 20 endpoints at zero, and its memory and CPU time are read, of all its processes together.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.hosted import Hosted, Packed, hosted, memory_mib, packed, tree, until
from ekiben.cli.remains import sockets_dir

CONNECTIONS = (1, 16, 64)
SHARE_AT = 16
ENDPOINTS = 20
SETTLE_S = 3.0
IDLE_S = 60.0
WARM_S = 1.0
UNITS_MS = {"us": 1e-3, "ms": 1.0, "s": 1e3}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3, help="the median of so many counts")
    parser.add_argument("--idle-seconds", type=float, default=IDLE_S)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if shutil.which("h2load") is None:
        print(
            "h2load is needed, because it speaks to sockets of files, too: apt-get install nghttp2-client",
            file=sys.stderr,
        )
        return 2
    with packed() as bento, hosted() as station:
        station.endpoint("load", bento, concurrency=max(CONNECTIONS), max_instances=1, idle_s=3600)
        station.call("load", bento)
        found = loaded(station, bento, args.seconds, args.rounds)
        station.client.request("DELETE", "/v1/resources/endpoint/load")
        found |= idle(station, bento, args.idle_seconds)
    if args.json:
        print(json.dumps(found, indent=2, sort_keys=True))
    else:
        show(found)
    return 0


def loaded(station: Hosted, bento: Packed, seconds: float, rounds: int) -> dict[str, Any]:
    """Requests a second and latencies for each number of connections, of both; `gateway_share` is that of 16."""
    (socket,) = sockets_dir(station.state_dir).glob("*.sock")
    ways = {
        "worker": (f"http://worker/{bento.route}", ["-B", f"unix:{socket}"]),
        "gateway": (f"http://127.0.0.1:{station.port}/endpoints/load/{bento.route}", []),
    }
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        body = Path(folder) / "body"
        body.write_bytes(bento.request)
        for connections in CONNECTIONS:
            row: dict[str, Any] = {"connections": connections}
            # Turn by turn, so that what else the machine does meets both.
            measured = [
                {way: loaded_once(station, url, more, body, connections, seconds) for way, (url, more) in ways.items()}
                for _ in range(rounds)
            ]
            for way in ways:
                for key in ("requests_s", "p50_ms", "p99_ms", "station_cpu_us", "worker_cpu_us"):
                    row[f"{way}_{key}"] = statistics.median(one[way][key] for one in measured)
                row[f"{way}_errors"] = sum(one[way]["errors"] for one in measured)
            row["share"] = statistics.median(
                one["gateway"]["requests_s"] / one["worker"]["requests_s"] for one in measured
            )
            rows.append(row)
    share = next(row["share"] for row in rows if row["connections"] == SHARE_AT)
    return {"loads": rows, "gateway_share": share}


def loaded_once(
    station: Hosted, url: str, more: list[str], body: Path, connections: int, seconds: float
) -> dict[str, float]:
    """One run, and the CPU time that the station and its worker took for each request: it says more than the clock when the
    machine has other work."""
    worker = tree(station.pid)[-1]
    before = cpu_us(station.pid), cpu_us(worker)
    found = h2load(url, more, body, station.token, connections, seconds)
    after = cpu_us(station.pid), cpu_us(worker)
    count = found["requests_s"] * (seconds + WARM_S)
    return {
        **found, "station_cpu_us": round((after[0] - before[0]) / count), "worker_cpu_us": round((after[1] - before[1]) / count)
    }  # fmt: skip


def h2load(url: str, more: list[str], body: Path, token: str, connections: int, seconds: float) -> dict[str, float]:
    """One run of one thread, in HTTP/1.1, after a second to warm up. Raises RuntimeError when it says nothing."""
    log = body.with_name("requests.log")
    log.unlink(missing_ok=True)
    command = [
        "h2load", "--h1", "-t1", f"-c{connections}", f"-D{seconds:g}", f"--warm-up-time={WARM_S:g}", "-d", str(body),
        f"--log-file={log}", "-H", "Content-Type: application/json", "-H", f"Authorization: Bearer {token}", *more, url,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 120, check=False)
    said = re.search(r"finished in [\d.]+\w+, ([\d.]+) req/s", done.stdout)
    if said is None or not log.exists():
        raise RuntimeError(f"h2load said: {done.stdout}{done.stderr}")
    # Of each request: when it began, its status, and how long it took in microseconds.
    lines = [line.split("\t") for line in log.read_text("ascii").splitlines()]
    took_us = sorted(int(line[2]) for line in lines)
    return {
        "requests_s": float(said[1]),
        "p50_ms": took_us[len(took_us) // 2] / 1e3,
        "p99_ms": took_us[int(len(took_us) * 0.99)] / 1e3,
        "errors": sum(line[1] != "200" for line in lines),
    }


def idle(station: Hosted, bento: Packed, seconds: float) -> dict[str, Any]:
    """The memory and CPU time of all processes of a station whose endpoints have all gone to zero."""
    names = [f"idle-{number:02}" for number in range(ENDPOINTS)]
    for name in names:
        station.endpoint(name, bento, idle_s=1)
        station.call(name, bento)
    for name in names:
        until(lambda name=name: not station.instances(name), f"{name} goes to zero")
    time.sleep(SETTLE_S)
    pids = tree(station.pid)
    before = sum(map(_ticks, pids))
    time.sleep(seconds)
    return {
        "idle_endpoints": ENDPOINTS, "idle_processes": len(pids), "idle_mib": round(memory_mib(pids), 1),
        "idle_station_mib": round(memory_mib([station.pid]), 1),
        "idle_cpu_ticks": sum(map(_ticks, pids)) - before, "idle_cpu_percent": round(
            (sum(map(_ticks, pids)) - before) / os.sysconf("SC_CLK_TCK") / seconds * 100, 3
        ), "idle_s": seconds,
    }  # fmt: skip


def show(found: dict[str, Any]) -> None:
    print(
        f"{'connections':>11}  {'':>8}  {'requests/s':>10}  {'p50 ms':>8}  {'p99 ms':>8}  {'errors':>6}"
        f"  {'station us':>10}  {'worker us':>9}"
    )
    for row in found["loads"]:
        for way in ("worker", "gateway"):
            print(
                f"{row['connections']:>11}  {way:>8}  {row[f'{way}_requests_s']:>10.0f}  {row[f'{way}_p50_ms']:>8.2f}"
                f"  {row[f'{way}_p99_ms']:>8.2f}  {row[f'{way}_errors']:>6.0f}"
                f"  {row[f'{way}_station_cpu_us']:>10.0f}  {row[f'{way}_worker_cpu_us']:>9.0f}"
            )
    print(f"The gateway gives {found['gateway_share']:.0%} of what the worker alone gives, at {SHARE_AT} connections.")
    print(
        f"With {found['idle_endpoints']} endpoints at zero the station holds {found['idle_mib']:g} MiB in "
        f"{found['idle_processes']} processes, and took {found['idle_cpu_ticks']} ticks of CPU time in {found['idle_s']:g} s."
    )


def cpu_us(pid: int) -> float:
    """The CPU time of a process and its threads so far."""
    texts = [(task / "schedstat").read_text("ascii") for task in Path(f"/proc/{pid}/task").iterdir()]
    return sum(int(text.split()[0]) for text in texts) / 1e3


def _ticks(pid: int) -> int:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()
    except OSError:
        return 0
    return int(fields[11]) + int(fields[12])


if __name__ == "__main__":
    sys.exit(main())
