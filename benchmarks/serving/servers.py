"""What is measured: how each server is made, started and called. Data, and one function for each step that is more than data."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["LOCK", "SERVERS", "Server", "command", "environment", "prepare"]

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
XGBOOST = "xgboost-cpu"
INSTALL_S = 1800


@dataclass(frozen=True, kw_only=True)
class Server:
    """A server: its environment, the command that starts it, what is sent to it, and the predictions in its answer.

    `argv` may hold {python}, {bin}, {port}, {model}, {bento}, {work} and {here}; `group` is ekiben, peer or web (a framework, not
    a server of models).
    """

    name: str
    group: str
    argv: Sequence[str]
    path: str
    body: Callable[[list[list[float]]], Any]
    read: Callable[[Any], Any]
    requires: Sequence[str] = ()
    no_deps: Sequence[str] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    prepare: Sequence[str] = ()


def _rows(rows: list[list[float]]) -> Any:
    return {"rows": rows}


def _v2(rows: list[list[float]]) -> Any:
    flat = [value for row in rows for value in row]
    return {"inputs": [{"name": "rows", "shape": [len(rows), len(rows[0])], "datatype": "FP32", "data": flat}]}


EKIBEN = ["{bin}/ekiben", "serve", "{bento}", "--port", "{port}"]
OURS = f"{ROOT}[serve]"
# What the bento asks for, at its versions, so that no other environment is made for it.
LOCK = ROOT / "bentos" / "employment" / "requirements.txt"

SERVERS = (
    Server(
        name="Ekiben", group="ekiben", argv=EKIBEN, path="/predict", body=_rows, read=lambda answer: answer,
        requires=[OURS, "-r", str(LOCK)],
    ),
    Server(
        name="Ekiben, exact", group="ekiben", argv=EKIBEN, path="/predict", body=_rows, read=lambda answer: answer,
        requires=[OURS, "-r", str(LOCK)], env={"EKIBEN_EXACT": "1"},
    ),
    Server(
        name="bentoml serve", group="peer", path="/predict", body=_rows, read=lambda answer: answer,
        argv=["{bin}/bentoml", "serve", "service:Cancer", "--working-dir", "{bento}/src", "--port", "{port}",
              "--host", "127.0.0.1"],
        requires=["bentoml", XGBOOST], env={"BENTO_DO_NOT_TRACK": "True", "BENTOML_HOME": "{work}/bentoml"},
    ),
    Server(
        name="MLServer", group="peer", path="/v2/models/cancer/infer", body=_v2,
        read=lambda answer: answer["outputs"][0]["data"],
        argv=["{bin}/mlserver", "start", "{work}/mlserver"],
        requires=["mlserver", XGBOOST, "scikit-learn"], no_deps=["mlserver-xgboost"],
        env={"MLSERVER_HTTP_PORT": "{port}", "MLSERVER_GRPC_PORT": "{port1}", "MLSERVER_METRICS_PORT": "{port2}",
             "MLSERVER_MODEL_URI": "{model}"},
    ),
    Server(
        name="KServe", group="peer", path="/v1/models/cancer:predict", body=lambda rows: {"instances": rows},
        read=lambda answer: answer["predictions"], argv=["{python}", "{here}/peers/kserve_app.py", "{port}"],
        requires=["kserve", XGBOOST],
    ),
    Server(
        name="mlflow models serve", group="peer", path="/invocations", body=lambda rows: {"inputs": rows},
        read=lambda answer: answer["predictions"],
        argv=["{bin}/mlflow", "models", "serve", "-m", "{work}/mlflow", "-p", "{port}", "--env-manager", "local", "-w", "1"],
        requires=["mlflow", XGBOOST], prepare=["{python}", "{here}/peers/mlflow_model.py", "{model}", "{work}/mlflow"],
        env={"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_TRACKING_URI": "{work}/mlruns"},
    ),
    Server(
        name="LitServe", group="peer", path="/predict", body=_rows, read=lambda answer: answer,
        argv=["{python}", "{here}/peers/litserve_app.py", "{port}"], requires=["litserve", XGBOOST],
    ),
    Server(
        name="FastAPI", group="web", path="/predict", body=_rows, read=lambda answer: answer,
        argv=["{python}", "-m", "uvicorn", "--app-dir", "{here}/peers", "fastapi_app:app", "--port", "{port}",
              "--no-access-log", "--log-level", "warning"],
        requires=["fastapi", "uvicorn[standard]", XGBOOST],
    ),
)  # fmt: skip


def environment(server: Server, cache: Path) -> Path:
    """The folder of the server's own virtual environment, with the latest releases; made where there is none."""
    wanted = json.dumps(
        [sys.version_info[:2], server.requires, server.no_deps, _own_source() if OURS in server.requires else ""]
    )
    home = (
        cache
        / f"{server.name.split(',')[0].replace(' ', '-').lower()}-{hashlib.sha256(wanted.encode()).hexdigest()[:12]}"
    )
    if (home / "done").exists():
        return home
    shutil.rmtree(home, ignore_errors=True)
    uv = shutil.which("uv") or "uv"
    python = str(home / "bin" / "python")
    steps = [
        [uv, "venv", "-q", "--python", sys.executable, str(home)],
        [uv, "pip", "install", "-q", "--compile-bytecode", "--python", python, *server.requires],
    ]
    if server.no_deps:
        steps.append(
            [uv, "pip", "install", "-q", "--compile-bytecode", "--no-deps", "--python", python, *server.no_deps]
        )
    for step in steps:
        subprocess.run(step, check=True, timeout=INSTALL_S)
    (home / "done").touch()
    return home


def prepare(server: Server, home: Path, places: Mapping[str, str]) -> None:
    """Do what has to be done once, before it is started."""
    if server.prepare:
        argv = [part.format(**_places(home, places)) for part in server.prepare]
        subprocess.run(argv, env=_env(home, places), check=True, timeout=300, capture_output=True)


def command(
    server: Server, home: Path, places: Mapping[str, str], ports: Sequence[int]
) -> tuple[list[str], dict[str, str]]:
    """How it is started: arguments and environment."""
    filled = _places(home, places) | {"port": str(ports[0]), "port1": str(ports[1]), "port2": str(ports[2])}
    env = _env(home, places) | {name: value.format(**filled) for name, value in server.env.items()}
    return [part.format(**filled) for part in server.argv], env


def _places(home: Path, places: Mapping[str, str]) -> dict[str, str]:
    return {**places, "python": str(home / "bin" / "python"), "bin": str(home / "bin"), "here": str(HERE)}


def _env(home: Path, places: Mapping[str, str]) -> dict[str, str]:
    env = {name: os.environ[name] for name in ("HOME", "LANG", "TMPDIR") if name in os.environ}
    return env | {"PATH": f"{home / 'bin'}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1", "MODEL": places["model"]}


def _own_source() -> str:
    """Our own code, so that a change of it makes a new environment."""
    digest = hashlib.sha256()
    for path in sorted((ROOT / "providers").rglob("*.py")) + [ROOT / "pyproject.toml"]:
        digest.update(path.read_bytes())
    return digest.hexdigest()
