"""A worker: one process that serves one bento on a unix socket, with BentoML's own application under uvicorn.

The service stays plain BentoML: what it validates, answers and exposes is BentoML's doing.
"""

from __future__ import annotations

import importlib
import os
import socket
import sys
import tempfile
from pathlib import Path
from typing import Any

__all__ = ["serve"]

# BentoML's own limit comes a little later than the gateway's, so that it is the gateway that answers 504.
TIMEOUT_MARGIN_S = 5.0


def serve(command: dict[str, Any], listener: socket.socket) -> None:
    """Serve until SIGTERM. `command`: bento (folder), env, timeout_s, metrics_dir (its own, and removed after its end)."""
    # BentoML leaves temporary folders behind when its process is killed.
    temporary = Path(command["metrics_dir"], "tmp")
    temporary.mkdir(mode=0o700)
    os.environ["TMPDIR"], tempfile.tempdir = str(temporary), None
    os.environ.update(command["env"])
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = command["metrics_dir"]
    source = str(Path(command["bento"]) / "src")
    os.chdir(source)
    sys.path.insert(0, source)
    # The tree is read-only and its digest is over what it holds.
    sys.dont_write_bytecode = True
    _reseed()

    import uvicorn

    app = application(command)
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        lifespan="on",
        timeout_keep_alive=3600,
    )
    uvicorn.Server(config).run(sockets=[listener])


def application(command: dict[str, Any]) -> Any:
    import yaml
    from _bentoml_sdk import images
    from bentoml._internal.configuration.containers import BentoMLContainer
    from bentoml._internal.context import server_context
    from bentoml._internal.log import configure_server_logging

    about = yaml.safe_load((Path(command["bento"]) / "bento.yaml").read_text(encoding="utf-8"))
    configure_server_logging()
    BentoMLContainer.prometheus_multiproc_dir.set(command["metrics_dir"])
    # The image is of no use here, and BentoML refuses to read its requirements.txt below a hidden folder such as .ekiben.
    images.resolve_user_filepath = lambda path, ctx: str(Path(path).resolve())
    module, _, attribute = about["service"].partition(":")
    service: Any = importlib.import_module(module)
    for part in attribute.split("."):
        service = getattr(service, part)
    server_context.service_type = "entry_service"
    server_context.service_name = service.name
    server_context.bento_name = about.get("name", service.name)
    server_context.bento_version = about.get("version", "")
    server_context.worker_index = 1
    service.config.setdefault("traffic", {}).setdefault("timeout", command["timeout_s"] + TIMEOUT_MARGIN_S)
    service.config.setdefault("logging", {}).setdefault("access", {}).setdefault("enabled", False)
    return service.to_asgi(is_main=True)


def _reseed() -> None:
    """Forked workers must not all draw the same numbers (`random` reseeds itself)."""
    random = sys.modules.get("numpy.random")
    if random is not None:
        random.seed()
