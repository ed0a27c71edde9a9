"""`python -m ekiben.emulators.aws.server`: the process of an emulated AWS. Its lock, port, log, signals; `edge.py` answers."""

from __future__ import annotations

import argparse
import json
import logging
import os
import secrets
import signal
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from ekiben import daemon
from ekiben.emulators.aws.launch import ABOUT, LOCK, LOG
from ekiben.errors import AlreadyExists, EkibenError, MissingDependency

__all__ = ["main"]

LOOK_S = 1.0
BACKLOG = 128

logger = logging.getLogger("ekiben.emulators.aws")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m ekiben.emulators.aws.server", description="Run an emulated AWS.")
    parser.add_argument("--state-dir", required=True, type=Path)
    parser.add_argument("--port", type=int, default=0, help="0 keeps the last port, or takes a free one")
    parser.add_argument(
        "--iam", action="store_true", help="judge each request by the policies of the role that makes it"
    )
    parser.add_argument("--detach", action="store_true", help="return when it answers; it goes on in the background")
    args = parser.parse_args(argv)
    state_dir = args.state_dir.expanduser().resolve()
    try:
        daemon.prepare(state_dir, "aws")
        if args.detach:
            return daemon.detached(lambda ready: _run(state_dir, args.port, args.iam, ready), state_dir / LOG, logger)
        return _run(state_dir, args.port, args.iam, lambda: print(_about(state_dir)["url"], flush=True))
    except EkibenError as error:
        print(error, file=sys.stderr)
        return daemon.FAILED


def _run(state_dir: Path, port: int, iam: bool, ready: Callable[[], None]) -> int:
    os.umask(0o077)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    with _lock(state_dir) as lock:
        stopping = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stopping.set())
        _serve(state_dir, _listener(state_dir, port), iam, lock, stopping, ready)
    return 0


def _serve(
    state_dir: Path,
    listener: socket.socket,
    iam: bool,
    lock: IO[str],
    stopping: threading.Event,
    ready: Callable[[], None],
) -> None:
    try:
        from moto.moto_server.werkzeug_app import MotoRequestHandler
        from werkzeug.serving import make_server

        from ekiben.emulators.aws.edge import Edge
    except ImportError as error:
        raise MissingDependency("moto", "emulate") from error
    port = listener.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    edge = Edge(state_dir, url, iam=iam)
    server = make_server(
        "127.0.0.1", port, edge, threaded=True, request_handler=MotoRequestHandler, fd=listener.fileno()
    )
    serving = threading.Thread(target=server.serve_forever, daemon=True, name="serve")
    serving.start()
    try:
        fresh = state_dir / f".{ABOUT}.{os.getpid()}"
        fresh.write_text(
            json.dumps({"pid": os.getpid(), "port": port, "url": url, "iam": iam, "born": secrets.token_hex(8)}) + "\n",
            encoding="utf-8",
        )
        fresh.replace(state_dir / ABOUT)
        logger.info("the emulated AWS of %s answers at %s", state_dir, url)
        ready()
        # A state folder that was deleted by hand is nobody's any more.
        while not stopping.wait(LOOK_S) and daemon.lock_is_there(lock, state_dir / LOCK):
            pass
        logger.info("the emulated AWS stops")
    finally:
        edge.close()
        server.shutdown()
        server.server_close()


def _lock(state_dir: Path) -> IO[str]:
    return daemon.locked(
        state_dir / LOCK,
        lambda pid: AlreadyExists(
            "aws", f"start an emulator in {state_dir}", f"one runs there already (process {pid})",
            "Use that one, or stop it first",
        ),
    )  # fmt: skip


def _listener(state_dir: Path, port: int) -> socket.socket:
    last = int(_about(state_dir).get("port", 0))
    return daemon.listener(port, last, backlog=BACKLOG, provider="aws", operation="start the emulator")


def _about(state_dir: Path) -> dict[str, Any]:
    try:
        return dict(json.loads((state_dir / ABOUT).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}


if __name__ == "__main__":
    sys.exit(main())
