"""`python -m ekiben.emulators.aws.server`: the process of an emulated AWS. Its lock, port, log, signals; `edge.py` answers."""

from __future__ import annotations

import argparse
import fcntl
import json
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from ekiben.emulators.aws.launch import ABOUT, LOCK, LOG, prepare
from ekiben.errors import AlreadyExists, EkibenError, MissingDependency, Unavailable

__all__ = ["main"]

LOOK_S = 1.0

logger = logging.getLogger("ekiben.emulators.aws")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m ekiben.emulators.aws.server", description="Run an emulated AWS.")
    parser.add_argument("--state-dir", required=True, type=Path)
    parser.add_argument("--port", type=int, default=0, help="0 keeps the last port, or takes a free one")
    parser.add_argument("--detach", action="store_true", help="return when it answers; it goes on in the background")
    args = parser.parse_args(argv)
    state_dir = args.state_dir.expanduser().resolve()
    try:
        prepare(state_dir)
        if args.detach:
            return _detached(state_dir, args.port)
        return _run(state_dir, args.port, lambda: print(_about(state_dir)["url"], flush=True))
    except EkibenError as error:
        print(error, file=sys.stderr)
        return 5


def _detached(state_dir: Path, port: int) -> int:
    """Fork; the child serves, and tells through a pipe that it is ready or why it is not."""
    reader, writer = os.pipe()
    if os.fork():
        os.close(writer)
        with open(reader, encoding="utf-8") as said:
            text = said.read()
        if text != "ready":
            print(text or "it ended at once", file=sys.stderr)
        return 0 if text == "ready" else 5
    os.close(reader)
    os.setsid()
    log = os.open(state_dir / LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(source, target)

    def say(text: str) -> None:
        os.write(writer, text.encode())
        os.close(writer)

    code = 1
    try:
        code = _run(state_dir, port, lambda: say("ready"))
    except EkibenError as error:
        say(str(error))
    except BaseException:
        logger.exception("the emulator failed")
    finally:
        sys.stderr.flush()
        os._exit(code)


def _run(state_dir: Path, port: int, ready: Callable[[], None]) -> int:
    os.umask(0o077)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    with _lock(state_dir) as lock:
        stopping = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stopping.set())
        _serve(state_dir, _listener(state_dir, port), lock, stopping, ready)
    return 0


def _serve(
    state_dir: Path, listener: socket.socket, lock: IO[str], stopping: threading.Event, ready: Callable[[], None]
) -> None:
    try:
        from moto.moto_server.werkzeug_app import MotoRequestHandler
        from werkzeug.serving import make_server

        from ekiben.emulators.aws.edge import Edge
    except ImportError as error:
        raise MissingDependency("moto", "emulate") from error
    port = listener.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    edge = Edge(state_dir, url)
    server = make_server(
        "127.0.0.1", port, edge, threaded=True, request_handler=MotoRequestHandler, fd=listener.fileno()
    )
    serving = threading.Thread(target=server.serve_forever, daemon=True, name="serve")
    serving.start()
    try:
        fresh = state_dir / f".{ABOUT}.{os.getpid()}"
        fresh.write_text(json.dumps({"pid": os.getpid(), "port": port, "url": url}) + "\n", encoding="utf-8")
        fresh.replace(state_dir / ABOUT)
        logger.info("the emulated AWS of %s answers at %s", state_dir, url)
        ready()
        # A state folder that was deleted by hand is nobody's any more.
        while not stopping.wait(LOOK_S) and _lock_is_there(lock, state_dir):
            pass
        logger.info("the emulated AWS stops")
    finally:
        edge.close()
        server.shutdown()
        server.server_close()


def _lock(state_dir: Path) -> IO[str]:
    """The lock that proves that this process lives, held until it ends. Raises AlreadyExists."""
    lock = (state_dir / LOCK).open("a+", encoding="ascii")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        lock.close()
        raise AlreadyExists(
            "aws", f"start an emulator in {state_dir}", "one runs there already", "Use that one, or stop it first"
        ) from error
    lock.truncate(0)
    lock.write(str(os.getpid()))
    lock.flush()
    return lock


def _lock_is_there(lock: IO[str], state_dir: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(lock.fileno()), (state_dir / LOCK).stat())
    except FileNotFoundError:
        return False
    except OSError:
        return True


def _listener(state_dir: Path, port: int) -> socket.socket:
    """A socket on `port`; for 0 on the last one, else on any free one. Raises Unavailable when it is in use."""
    for candidate in [port] if port else [int(_about(state_dir).get("port", 0)), 0]:
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", candidate))
            listener.listen(128)
        except (OSError, OverflowError) as error:
            listener.close()
            if port:
                raise Unavailable(
                    "aws", f"start the emulator on port {port}", f"the port cannot be had ({error})",
                    "Choose another port, or 0 for any free one",
                ) from error  # fmt: skip
            continue
        return listener
    raise Unavailable("aws", "start the emulator", "no port is free on 127.0.0.1", "Close some programs")


def _about(state_dir: Path) -> dict[str, Any]:
    try:
        return dict(json.loads((state_dir / ABOUT).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}


if __name__ == "__main__":
    sys.exit(main())
