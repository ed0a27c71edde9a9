"""`python -m benchmarks.serving [--json]`: requests per second, latency, memory and start of each server, in one run."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs
import xgboost
from sklearn.datasets import load_breast_cancer

from benchmarks.serving import load, report
from benchmarks.serving.servers import HERE, LOCK, ROOT, SERVERS, Server, command, environment, prepare

CONNECTIONS = (1, 16, 64)
ROWS = (1, 100)
TOLERANCE = 1e-6
SERVER_CORE, LOAD_CORE = 0, 1


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object and leave docs/benchmarks.md alone")
    parser.add_argument("--only", default="", help="comma-separated beginnings of servers' names")
    parser.add_argument("--seconds", type=float, default=5.0, help="of load for each figure")
    parser.add_argument("--starts", type=int, default=5, help="starts of each server, of which the median counts")
    args = parser.parse_args()
    if (os.cpu_count() or 1) < 2:
        print("Two cores are needed: one for the server and one for the load.", file=sys.stderr)
        return 2
    chosen = [
        one for one in SERVERS if not args.only or one.name.lower().startswith(tuple(args.only.lower().split(",")))
    ]
    with tempfile.TemporaryDirectory(prefix="ekiben-bench-") as folder:
        figures = _measure(chosen, Path(folder), args.seconds, args.starts)
    if args.json:
        print(json.dumps(figures, indent=1))
    else:
        print(report.table(figures))
        if not args.only:
            report.write(figures, ROOT / "docs")
    return 0


def _measure(servers: list[Server], work: Path, seconds: float, starts: int) -> dict[str, Any]:
    cache = Path(platformdirs.user_cache_dir("ekiben")) / "benchmarks"
    homes = {}
    for server in servers:
        _say(f"environment of {server.name}")
        homes[server.name] = environment(server, cache)
    samples, model, alone_us = _model(work)
    bento = _bento(work, model, samples)
    expected = {rows: alone for rows, (_, alone) in samples.items()}
    places = {"model": str(model), "bento": str(bento), "work": str(work)}
    (work / "mlserver").symlink_to(HERE / "peers" / "mlserver")
    results = []
    for server in servers:
        try:
            results.append(_one(server, homes[server.name], places, samples, expected, work, seconds, starts))
        except Exception as error:
            log = work / f"{server.name}.log"
            tail = log.read_text("utf-8", "replace")[-1500:] if log.exists() else ""
            _say(f"{server.name} failed: {error}\n{tail}")
            results.append({"name": server.name, "group": server.group, "error": str(error)})
    echo = _echo(work, seconds, homes["Ekiben"], samples[1][0]) if "Ekiben" in homes else {}
    return {
        **_ratios(results, echo),
        "machine": _machine(),
        "xgboost_alone_us": alone_us,
        "echo": echo,
        "servers": results,
    }


def _model(work: Path) -> tuple[dict[int, tuple[list[list[float]], list[float]]], Path, float]:
    """Rows and the right answers, the model's file, and microseconds of one row in XGBoost's own loop."""
    data = load_breast_cancer()
    matrix = data.data.astype(np.float32)
    params = {"objective": "binary:logistic", "max_depth": 6, "eta": 0.1, "nthread": 1, "seed": 7}
    booster = xgboost.train(params, xgboost.DMatrix(matrix, data.target), 100)
    path = work / "model.ubj"
    booster.save_model(path)
    samples = {}
    for rows in ROWS:
        part = matrix[:rows]
        samples[rows] = (part.tolist(), booster.inplace_predict(part).tolist())
    one, count = matrix[:1], 5000
    booster.inplace_predict(one)
    began = time.perf_counter()
    for _ in range(count):
        booster.inplace_predict(one)
    return samples, path, round((time.perf_counter() - began) / count * 1e6, 1)


def _bento(work: Path, model: Path, samples: dict[int, tuple[list[list[float]], list[float]]]) -> Path:
    from ekiben.packing import pack, template, unpack
    from ekiben.serving.trees import verdict

    source, trained = work / "source", work / "trained"
    source.mkdir()
    trained.mkdir()
    (source / "service.py").write_bytes((HERE / "bento" / "service.py").read_bytes())
    (source / "requirements.txt").write_bytes(LOCK.read_bytes())
    (trained / "model.ubj").write_bytes(model.read_bytes())
    rows, answer = samples[1]
    built = template(source)
    sample = {"route": "predict", "request": {"rows": rows}, "response": answer}
    packed = pack(
        built.path, trained, {"sample": sample, "fast_path": verdict(trained)}, sha256=built.sha256, into=work
    )
    return unpack(packed.path, packed.sha256, work / "bento")


def _one(
    server: Server, home: Path, places: dict[str, str], samples: dict[int, tuple[list[list[float]], list[float]]],
    expected: dict[int, list[float]], work: Path, seconds: float, starts: int,
) -> dict[str, Any]:  # fmt: skip
    bodies = {rows: work / f"{server.name}-{rows}.json" for rows in samples}
    for rows, path in bodies.items():
        path.write_text(json.dumps(server.body(samples[rows][0])), encoding="ascii")
    log = work / f"{server.name}.log"
    took = []
    result: dict[str, Any] = {"name": server.name, "group": server.group, "site_packages_mib": _size_mib(home)}
    prepare(server, home, places)
    for number in range(starts):
        ports = load.free_port(3)
        argv, env = command(server, home, places, ports)
        began = time.perf_counter()
        with load.running(argv, env, log, SERVER_CORE) as process:
            load.first_answer(process, ports[0], server.path, bodies[1].read_bytes())
            took.append(time.perf_counter() - began)
            if number + 1 < starts:
                continue
            for rows in samples:
                answer = np.asarray(
                    server.read(load.call(ports[0], server.path, bodies[rows].read_bytes())), np.float64
                ).ravel()
                if not np.allclose(answer, expected[rows], rtol=0, atol=TOLERANCE):
                    raise RuntimeError(f"its answer is another: {answer[:3]} instead of {expected[rows][:3]}")
            result["idle_mib"] = round(load.memory_mib(process), 1)
            load.wrk(ports[0], server.path, bodies[1], connections=16, seconds=1, core=LOAD_CORE)
            result["load"] = {
                f"{rows}x{connections}": load.wrk(
                    ports[0], server.path, bodies[rows], connections=connections, seconds=seconds, core=LOAD_CORE
                )
                for rows in samples
                for connections in CONNECTIONS
            }
            result["memory_mib"] = round(load.memory_mib(process), 1)
    result["start_s"] = round(statistics.median(took), 3)
    main_figure = result["load"]["1x16"]
    speed, p99_ms = main_figure["requests_s"], main_figure["p99_ms"]
    _say(f"{server.name}: {speed:,.0f} requests/s, p99 {p99_ms:.2f} ms, start {result['start_s']} s")
    return result


def _echo(work: Path, seconds: float, home: Path, rows: list[list[float]]) -> dict[str, float]:
    """Our HTTP server alone: as many bytes as the others are sent, and back."""
    body = work / "echo.json"
    body.write_text(json.dumps({"rows": rows}), encoding="ascii")
    (port,) = load.free_port()
    env = {"PATH": os.environ["PATH"]}
    argv = [str(home / "bin" / "python"), "-P", str(HERE / "echo.py"), str(port)]
    with load.running(argv, env, work / "echo.log", SERVER_CORE) as process:
        load.first_answer(process, port, "/", body.read_bytes())
        load.wrk(port, "/", body, connections=16, seconds=1, core=LOAD_CORE)
        return load.wrk(port, "/", body, connections=16, seconds=seconds, core=LOAD_CORE)


def _ratios(results: list[dict[str, Any]], echo: dict[str, float]) -> dict[str, Any]:
    """Ekiben's figures over those of the others, at 16 connections and one row."""
    measured = {one["name"]: one for one in results if "load" in one}
    ours = measured.get("Ekiben")
    if ours is None:
        return {}

    def speed(one: dict[str, Any]) -> float:
        return float(one["load"]["1x16"]["requests_s"])

    def p99(one: dict[str, Any]) -> float:
        return float(one["load"]["1x16"]["p99_ms"])

    peers = [one for one in measured.values() if one["group"] == "peer"]
    ratios: dict[str, Any] = {
        "start_s": ours["start_s"],
        "vs_echo": round(speed(ours) / echo["requests_s"], 3) if echo else None,
    }
    if peers:
        ratios |= {
            "vs_best_peer": round(speed(ours) / max(map(speed, peers)), 2),
            "p99_rank": 1 + sum(p99(one) < p99(ours) for one in peers),
            "start_vs_best_peer": round(min(one["start_s"] for one in peers) / ours["start_s"], 2),
        }
    if bento := measured.get("bentoml serve"):
        ratios["vs_bentoml"] = round(speed(ours) / speed(bento), 2)
        if exact := measured.get("Ekiben, exact"):
            ratios["exact_vs_bentoml"] = round(speed(exact) / speed(bento), 2)
    return ratios


def _size_mib(home: Path) -> int:
    return round(
        sum(path.lstat().st_size for path in home.rglob("*") if path.is_file() and path.suffix != ".pyc") / 2**20
    )


def _machine() -> str:
    return f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
