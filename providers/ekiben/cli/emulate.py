"""emulate: a cloud on this machine, for development and tests."""

from __future__ import annotations

import os
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ekiben.cli import options, show
from ekiben.cli.platform import project
from ekiben.errors import SpecError

if TYPE_CHECKING:
    from ekiben.emulators.aws import Server

__all__ = ["register"]


class Emulated(StrEnum):
    """What there is an emulator of."""

    AWS = "aws"


def register(app: typer.Typer) -> None:
    app.command()(emulate)


def emulate(
    provider: Annotated[Emulated, typer.Argument(metavar="PROVIDER", help="aws.")],
    stop: Annotated[
        bool, typer.Option("--stop", help="Stop it, with all that runs in it. It forgets what it held.")
    ] = False,
    status: Annotated[bool, typer.Option("--status", help="Say whether it runs, and start nothing.")] = False,
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Its port; 0: the one it had.")] = 0,
    json: options.Json = False,
) -> None:
    """Start an AWS of this project on this machine, and print the environment that leads to it.

    It goes on in the background; started again, it is found. A stack whose config says `ekiben:emulate: true` starts it by
    itself, and its verbs need no environment: this is for boto3, the AWS CLI and other programs.

    \b
    Examples:
      eval "$(ekiben emulate aws)"
      ekiben emulate aws --status
      ekiben emulate aws --stop
    """  # fmt: skip
    from ekiben.emulators import aws, stacks

    if stop and status:
        raise SpecError("--stop and --status exclude each other.")
    folder = stacks.state_dir(project())
    if stop:
        was = aws.running(folder)
        aws.stop(folder)
        if json:
            show.to_json(_told(None))
        else:
            show.say("The emulated AWS has stopped." if was else "The emulated AWS does not run.")
        return
    server = stacks.found(project()) if status else aws.ensure(folder, port=port)
    if json:
        show.to_json(_told(server))
    elif status:
        show.line(f"{server.url} (process {server.pid})" if server else "It does not run.")
    else:
        assert server is not None
        show.line(_exports(server))


def _told(server: Server | None) -> dict[str, Any]:
    if server is None:
        return {"running": False, "url": "", "environment": {}}
    return {"running": True, "url": server.url, "pid": server.pid, "environment": server.environment}


def _exports(server: Server) -> str:
    """Shell text: the emulator's variables set, and those that would lead elsewhere taken away."""
    from ekiben.emulators.stacks import foreign
    from ekiben.engine.environment import exports

    values = server.environment
    gone = "".join(f"unset {name}\n" for name in foreign(os.environ) if name not in values)
    return (gone + exports(values)).rstrip()
