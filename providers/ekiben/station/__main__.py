"""`python -m ekiben.station`: the station's process. Its lock, port, token, log, signals; the application is `app.py`'s."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO

from ekiben import __version__, daemon
from ekiben.errors import AlreadyExists, EkibenError
from ekiben.station.leftovers import sweep

__all__ = ["main"]

LOCK, LOG = "station.lock", "station.log"
BACKLOG = 512
GRACE_S = 30.0
LOOK_S = 1.0

logger = logging.getLogger("ekiben.station")


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
        daemon.prepare(args.state_dir, "local")
        if args.detach:
            return daemon.detached(lambda ready: _run(args, ready), args.state_dir / LOG, logger)
        return _run(args, lambda: print(_url(args.state_dir), flush=True))
    except EkibenError as error:
        print(error if args.detach else f"Error: {error}", file=sys.stderr)
        return daemon.FAILED


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
        logger.info("the station of %s answers at %s", args.state_dir, url)
        ready()
        while not stopping.is_set() and daemon.lock_is_there(lock, args.state_dir / LOCK):
            with suppress(TimeoutError):
                await asyncio.wait_for(stopping.wait(), LOOK_S)
        logger.info("the station stops")
    finally:
        if front is not None:
            await front.close(GRACE_S)
        await runner.cleanup()


def _lock(state_dir: Path) -> IO[str]:
    return daemon.locked(
        state_dir / LOCK,
        lambda pid: AlreadyExists(
            "local", f"start a station in {state_dir}", f"one runs there already (process {pid})",
            "Use that one, or stop it with `ekiben station --stop`",
        ),
    )  # fmt: skip


def _listener(state_dir: Path, port: int) -> socket.socket:
    return daemon.listener(
        port, _last_port(state_dir), backlog=BACKLOG, provider="local", operation="start the station"
    )


def _last_port(state_dir: Path) -> int:
    try:
        return int(json.loads((state_dir / "station.json").read_text(encoding="utf-8"))["port"])
    except (OSError, ValueError, KeyError):
        return 0


def _url(state_dir: Path) -> str:
    return str(json.loads((state_dir / "station.json").read_text(encoding="utf-8"))["url"])


if __name__ == "__main__":
    sys.exit(main())
