"""`python -m ekiben.station`: the station's process. Its lock, port, token, log, signals; the application is `app.py`'s."""

from __future__ import annotations

import argparse
import asyncio
import fcntl
import json
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO

from ekiben import __version__
from ekiben.errors import AlreadyExists, EkibenError, Unavailable
from ekiben.station.launch import prepare
from ekiben.station.leftovers import sweep

__all__ = ["main"]

LOCK_PATIENCE_S = 1.0
GRACE_S = 30.0
LOOK_S = 1.0


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m ekiben.station", description="Run the station of a state directory."
    )
    parser.add_argument("--state-dir", required=True, type=Path)
    parser.add_argument("--project", required=True)
    parser.add_argument("--stack", required=True)
    parser.add_argument("--port", type=int, default=0, help="0 keeps the last port, or takes a free one")
    parser.add_argument("--detach", action="store_true", help="return when it answers; it goes on in the background")
    args = parser.parse_args(argv)
    args.state_dir = args.state_dir.expanduser().resolve()
    try:
        prepare(args.state_dir)
        return _detached(args) if args.detach else _run(args, lambda: print(_url(args.state_dir), flush=True))
    except EkibenError as error:
        print(error if args.detach else f"Error: {error}", file=sys.stderr)
        return 5


def _detached(args: argparse.Namespace) -> int:
    """Fork; the child serves, and tells through a pipe that it is ready or why it is not."""
    reader, writer = os.pipe()
    if os.fork():
        os.close(writer)
        with open(reader, encoding="utf-8") as said:
            text = said.read()
        if text == "ready":
            return 0
        print(text or "it ended at once", file=sys.stderr)
        return 5
    os.close(reader)
    os.setsid()
    log = os.open(args.state_dir / "station.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(source, target)

    def say(text: str) -> None:
        os.write(writer, text.encode())
        os.close(writer)

    code = 1
    try:
        code = _run(args, lambda: say("ready"))
    except EkibenError as error:
        print(error, file=sys.stderr)
        say(str(error))
    except BaseException:
        logging.getLogger("ekiben.station").exception("the station failed")
    finally:
        sys.stderr.flush()
        os._exit(code)


def _run(args: argparse.Namespace, ready: Callable[[], None]) -> int:
    os.umask(0o077)
    import uvloop

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    lock = _lock(args.state_dir)
    try:
        sweep(args.state_dir)
        with (
            _listener(args.state_dir, args.port) as listener,
            asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
        ):
            runner.run(_serve(args, lock, listener, ready))
    finally:
        lock.close()
    return 0


async def _serve(args: argparse.Namespace, lock: IO[str], listener: socket.socket, ready: Callable[[], None]) -> None:
    from aiohttp import web

    from ekiben.station import tokens
    from ekiben.station.app import ACCESS, GATEWAY, application
    from ekiben.station.front import Front

    port = listener.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    app = application(
        args.state_dir, url=url, project=args.project, stack=args.stack,
        token=tokens.master(args.state_dir), stop=stopping.set,
    )  # fmt: skip
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=GRACE_S)
    front: Front | None = None
    try:
        await runner.setup()
        assert runner.server is not None
        front = Front(admit=app[GATEWAY].admit, answer=app[GATEWAY].answer, access=app[ACCESS], rest=runner.server)
        await front.listen(listener)
        about = {
            "pid": os.getpid(), "url": url, "port": port, "version": __version__, "project": args.project, "stack": args.stack,
        }  # fmt: skip
        fresh = args.state_dir / f".station.json.{os.getpid()}"
        fresh.write_text(json.dumps(about, sort_keys=True) + "\n", encoding="utf-8")
        fresh.replace(args.state_dir / "station.json")
        logging.getLogger("ekiben.station").info("the station of %s answers at %s", args.state_dir, url)
        ready()
        while not stopping.is_set() and _lock_is_there(lock, args.state_dir):
            with suppress(TimeoutError):
                await asyncio.wait_for(stopping.wait(), LOOK_S)
        logging.getLogger("ekiben.station").info("the station stops")
    finally:
        if front is not None:
            await front.close(GRACE_S)
        await runner.cleanup()


def _lock_is_there(lock: IO[str], state_dir: Path) -> bool:
    """False when the state directory was deleted by hand: another station may be started then, and this one is nobody's."""
    try:
        return os.path.samestat(os.fstat(lock.fileno()), (state_dir / "station.lock").stat())
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True


def _lock(state_dir: Path) -> IO[str]:
    """The lock that proves that this station lives; held until the process ends. Raises AlreadyExists."""
    lock = (state_dir / "station.lock").open("a+", encoding="ascii")
    deadline = time.monotonic() + LOCK_PATIENCE_S
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            # Those who look whether a station runs hold the lock for an instant.
            if time.monotonic() < deadline:
                time.sleep(0.01)
                continue
            lock.seek(0)
            pid = lock.read().strip() or "unknown"
            lock.close()
            raise AlreadyExists(
                "local", f"start a station in {state_dir}", f"one runs there already (process {pid})",
                "Use that one, or stop it with `ekiben station --stop`",
            ) from error  # fmt: skip
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        return lock


def _listener(state_dir: Path, port: int) -> socket.socket:
    """A socket that listens on `port`; for 0 on the last one, else on any free one. Raises Unavailable when it is in use."""
    wanted = [port] if port else [_last_port(state_dir), 0]
    for candidate in wanted:
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", candidate))
            listener.listen(512)
        except (OSError, OverflowError) as error:
            listener.close()
            if candidate == port and port:
                why = getattr(error, "strerror", None) or str(error)
                raise Unavailable(
                    "local", f"start the station on port {port}", f"the port cannot be had ({why})",
                    "Stop the program that uses it, choose another port, or 0 for any free one",
                ) from error  # fmt: skip
            continue
        return listener
    raise Unavailable("local", "start the station", "no port is free on 127.0.0.1", "Close some programs")


def _last_port(state_dir: Path) -> int:
    try:
        return int(json.loads((state_dir / "station.json").read_text(encoding="utf-8"))["port"])
    except (OSError, ValueError, KeyError):
        return 0


def _url(state_dir: Path) -> str:
    return str(json.loads((state_dir / "station.json").read_text(encoding="utf-8"))["url"])


if __name__ == "__main__":
    sys.exit(main())
