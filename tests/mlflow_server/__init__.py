"""An MLflow server on this machine, from an environment of its own: MLflow's versions would hold back ours."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from tests.environments import python_of

__all__ = ["ask", "client", "python", "serving"]

HERE = Path(__file__).parent
# It imports for ten seconds of an idle machine, and makes its tables.
START_S, CLIENT_S = 300.0, 240.0
TRIES = 3


def python() -> Path:
    """An interpreter that has MLflow. The environment is made on first use, beside those of bentos: some 700 MB."""
    return python_of(HERE)


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """Its URL. It keeps what it is told in SQLite in the folder, as the one does that a stack runs."""
    with (folder / "server.log").open("ab") as log:
        for _ in range(TRIES):  # somebody may take the port before the server does
            port = _free_port()
            server = subprocess.Popen(
                [str(python().with_name("mlflow")), "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
                 "--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--no-serve-artifacts",
                 "--default-artifact-root", f"{folder}/none"],
                cwd=folder, env=_environment(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
            url = f"http://127.0.0.1:{port}"
            try:
                if _listens(server, url):
                    yield url
                    return
            finally:
                _end(server)
    raise AssertionError((folder / "server.log").read_text(errors="replace")[-2000:])


def ask(url: str, path: str, body: Any = None, **query: str) -> dict[str, Any]:
    """What the REST API answers, as anybody asks it."""
    at = f"{url}/api/2.0/mlflow/{path}" + (f"?{urlencode(query)}" if query else "")
    data = json.dumps(body).encode() if body is not None else None
    asked = urllib.request.Request(at, data, {"content-type": "application/json"})
    with urllib.request.urlopen(asked, timeout=60) as told:
        return dict(json.loads(told.read()))


def client(url: str, code: str) -> Any:
    """What MLflow's own client says: the JSON of the last line that `code` prints, with `client` at hand."""
    program = f"import json, mlflow\nclient = mlflow.MlflowClient({url!r}, {url!r})\n{code}"
    done = subprocess.run(
        [str(python()), "-I", "-c", program], env=_environment(), capture_output=True, text=True, timeout=CLIENT_S, check=False
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def _environment() -> dict[str, str]:
    """What the server of a stack has (`ekiben.kubernetes.components.mlflow`), and what any process needs."""
    from ekiben.kubernetes.components.mlflow import VARIABLES

    return {**{name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}, **VARIABLES}


def _listens(server: subprocess.Popen[bytes], url: str) -> bool:
    """Wait until it does. False where it has ended instead."""
    deadline = time.monotonic() + START_S
    while server.poll() is None:
        if _healthy(url):
            return True
        assert time.monotonic() < deadline, f"MLflow does not listen after {START_S:g} s"
        time.sleep(0.25)
    return False


def _healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=5) as told:
            return bool(told.status == 200)
    except OSError:
        return False


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def _end(server: subprocess.Popen[bytes]) -> None:
    """With its workers: the group is its own."""
    if server.poll() is None:
        os.killpg(server.pid, signal.SIGKILL)
    server.wait()
