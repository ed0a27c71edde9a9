"""A worker: one process that serves one bento on sockets that listen already.

A plain service is served by the lean server; any other by BentoML's own application, and the log says why. Where that is
found out too late, the process runs itself anew: it keeps its number and its sockets.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
import tempfile
from pathlib import Path
from typing import Any, NoReturn

from . import loading, plain, tracing, trees

__all__ = ["serve"]

# The service's own limit comes a little later than the gateway's, so that it is the gateway that answers 504.
TIMEOUT_MARGIN_S = 5.0
log = logging.getLogger("ekiben.serving")


def serve(command: dict[str, Any], listener: socket.socket, *, lifeline: int = -1) -> None:
    """Serve until SIGTERM. `command`: bento (folder), metrics_dir (the worker's own, and removed after its end), and optionally

    env; reason: what plain.reason says of its source, where that is known; timeout_s, where the service says none; gateway: the
    only caller is one, with limits of its own; shared: where workers of one port add up their metrics; predictions: where and how
    answers are logged (see predictions.py); linger_s: how long to wait for late callers at the end; ready_fd: what to write to when
    the first call can be answered. Until then the socket need not listen.

    Raises what the service raises when it is imported or made.
    """
    os.environ.update(command.get("env", {}))
    metrics_dir = command["metrics_dir"]
    # Temporary folders of a process that is killed must not stay.
    temporary = Path(metrics_dir, "tmp")
    temporary.mkdir(mode=0o700, exist_ok=True)
    os.environ["TMPDIR"], tempfile.tempdir = str(temporary), None
    stderr = logging.StreamHandler(sys.stderr)
    stderr.addFilter(tracing.Traced())
    logging.basicConfig(format=tracing.LOG_FORMAT, level=logging.INFO, handlers=[stderr])
    bento = Path(command["bento"])
    about = loading.about(bento)
    loading.enter(bento)
    _reseed()
    trees.install(bento)
    why = plain.reason_of_surroundings() or (command["reason"] if "reason" in command else plain.reason(bento / "src"))
    if not why:
        from .standin import NeedsBentoML

        try:
            return _serve_lean(command, about, listener)
        except NeedsBentoML as needed:
            _anew(command, listener, lifeline, f"it uses {needed}")
    print(f"BentoML's own server runs this service: {why}.", file=sys.stderr, flush=True)
    from . import bentoml_app

    bentoml_app.run(
        about,
        [listener],
        metrics_dir=metrics_dir,
        shared=command.get("shared"),
        timeout_s=command.get("timeout_s"),
        predictions=command.get("predictions"),
        ready=lambda: _ready(command),
    )
    return None


def _ready(command: dict[str, Any]) -> None:
    if "ready_fd" in command:
        os.write(command["ready_fd"], b".")
        os.close(command["ready_fd"])


def _serve_lean(command: dict[str, Any], about: dict[str, str], listener: socket.socket) -> None:
    from . import lean, standin

    # Many workers count together only by prometheus_client's own files; one counts by itself.
    if "shared" not in command:
        os.environ.pop("PROMETHEUS_MULTIPROC_DIR", None)
    standin.install()
    service = loading.imported(about["service"])
    if (kind := type(service)) is not standin.service_class():
        raise RuntimeError(f"{about['service']} is no service: it is a {kind.__name__}")
    if why := plain.reason_of_service(service):
        raise standin.NeedsBentoML(why.removeprefix("it uses "))
    loading.apply_envs(service.envs)
    if (timeout_s := command.get("timeout_s")) is not None:
        service.config.setdefault("traffic", {}).setdefault("timeout", timeout_s + TIMEOUT_MARGIN_S)

    def served() -> None:
        standin.serving()
        _ready(command)

    shared = command.get("shared")
    lean.run(
        service,
        [listener],
        about,
        shared=Path(shared) if shared else None,
        linger_s=command.get("linger_s", 0.0),
        gateway=command.get("gateway", False),
        predictions=command.get("predictions"),
        ready=served,
    )


def _anew(command: dict[str, Any], listener: socket.socket, lifeline: int, why: str) -> NoReturn:
    """This process, from its beginning, with BentoML itself."""
    os.environ["EKIBEN_SERVER"], os.environ["EKIBEN_SERVER_REASON"] = "bentoml", why
    os.environ.pop("TMPDIR")
    kept = {
        key: value for key, value in command.items() if key != "env"
    }  # it is in the environment, and not for others to read
    for number in (listener.fileno(), lifeline, command.get("ready_fd", -1)):
        if number >= 0:
            os.set_inheritable(number, True)
    sys.stdout.flush()
    sys.stderr.flush()
    again = json.dumps({"command": kept, "listener": listener.fileno(), "lifeline": lifeline})
    os.execv(  # noqa: S606
        sys.executable, [sys.executable, "-P", str(Path(__file__).with_name("parent.py")), "--worker", again]
    )


def _reseed() -> None:
    """Forked workers must not all draw the same numbers (`random` reseeds itself)."""
    random = sys.modules.get("numpy.random")
    if random is not None:
        random.seed()
