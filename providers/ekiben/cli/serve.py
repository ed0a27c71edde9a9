"""serve."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from ekiben.cli import options
from ekiben.errors import SpecError

__all__ = ["register"]

DEFAULT_PORT = 3000


def register(app: typer.Typer) -> None:
    app.command()(serve)


def serve(
    bento: Annotated[str, typer.Argument(metavar="BENTO", help="A bento's folder, its .tar, or MODEL:3, MODEL@ALIAS.")],
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="0 takes a free one. Without it PORT, else 3000.")
    ] = None,
    host: Annotated[str, typer.Option(help="The address to listen on; 0.0.0.0 is all of them.")] = "127.0.0.1",
    workers: Annotated[int, typer.Option(min=1, max=256, help="Processes on the one port.")] = 1,
    socket: Annotated[str, typer.Option(help="A unix socket to listen on, instead of a port.")] = "",
    own: Annotated[bool, typer.Option("--bentoml", help="With BentoML's own server, whatever the service.")] = False,
    registry: options.Registry = "",
    stack: options.Stack = "",
) -> None:
    """Serve a bento by itself, on this machine.

    In the environment that its lock asks for, which is made once. On loopback unless --host says otherwise.

    \b
    Examples:
      ekiben serve employment@champion
      ekiben serve ./bento --port 8080 --workers 2
      PORT=8080 ekiben serve 3f5c...e1.tar --host 0.0.0.0
    """
    from ekiben.serving import plain

    folder = _folder(bento, registry, stack)
    if not (folder / "bento.yaml").is_file():
        raise SpecError(
            f"{folder} is no bento: it has no bento.yaml. Name the folder that `bentoml build` or a release made."
        )
    python = _python(folder)
    if own:
        os.environ["EKIBEN_SERVER"] = "bentoml"
    given: dict[str, Any] = {
        "bento": str(folder.resolve()), "host": host, "port": _port(port), "socket": socket, "workers": workers,
        "modules": _modules(folder) if workers > 1 else [],
    }  # fmt: skip
    command = plain.command(python, given)
    sys.stdout.flush()
    os.execv(python, command)  # noqa: S606


def _python(bento: Path) -> Path:
    """The interpreter that has what the bento's lock pins.

    That it is this one is remembered until a package is installed or removed: to look at each takes longer than all the rest.
    """
    import hashlib

    import platformdirs

    seal = hashlib.sha256(sys.executable.encode())
    for path in sorted((bento / "env" / "python").glob("requirements*.txt")):
        seal.update(f"\n{path.name}\n".encode() + path.read_bytes())
    for entry in sys.path:
        if entry.endswith("-packages") and os.path.isdir(entry):
            seal.update(f"\n{entry} {os.stat(entry).st_mtime_ns}".encode())
    known = Path(platformdirs.user_cache_dir("ekiben"), "met", seal.hexdigest()[:32])
    if known.exists():
        return Path(sys.executable)
    from ekiben.station import environments

    python = environments.interpreter(environments.lock_of(bento))
    if python == Path(sys.executable):
        with suppress(OSError):
            known.parent.mkdir(parents=True, exist_ok=True)
            known.touch()
    return python


def _modules(bento: Path) -> list[str]:
    from ekiben.serving import plain, trees
    from ekiben.station import environments

    source = bento / "src"
    return trees.preloaded(bento, plain.preloaded(source, environments.modules(source)))


def _folder(name: str, registry: str, stack: str) -> Path:
    path = Path(name)
    if path.is_dir():
        return path
    if name.endswith(".tar"):
        return _unpacked(path)
    if ":" in name or "@" in name:
        from ekiben.batch.models import chosen, made_ready
        from ekiben.cli.platform import runtime

        return made_ready(chosen(runtime(stack), name, registry=registry)).bento
    raise SpecError(
        f"There is no bento at {name}. Name its folder, its .tar, or a model's version: MODEL:3 or MODEL@ALIAS."
    )


def _unpacked(tar: Path) -> Path:
    """A tar that is named by its digest must have it."""
    from ekiben.packing import archive
    from ekiben.packing.source import cache_dir

    if not tar.is_file():
        raise SpecError(f"There is no bento at {tar}.")
    named = tar.stem if len(tar.stem) == 64 and set(tar.stem) <= set("0123456789abcdef") else ""
    digest = named or archive.sha256(tar)
    return archive.unpack(tar, digest, cache_dir() / "bentos" / digest)


def _port(given: int | None) -> int:
    if given is not None:
        return given
    text = os.environ.get("PORT", str(DEFAULT_PORT))
    if not text.isdigit() or int(text) > 65535:
        raise SpecError(f"PORT is {text!r}, which is no port. Set it to a number from 0 to 65535, or give --port.")
    return int(text)
