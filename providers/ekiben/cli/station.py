"""station: the one-machine host of the `local` provider."""

from __future__ import annotations

import json as jsonlib
import os
from pathlib import Path
from typing import Annotated

import typer

from ekiben.cli import options, show
from ekiben.cli.platform import state_dir
from ekiben.errors import SpecError

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    app.command()(station)


def station(
    background: Annotated[
        bool, typer.Option("--background", "-b", help="Start it, and return when it answers.")
    ] = False,
    stop: Annotated[
        bool, typer.Option("--stop", help="Stop it in order. Runs and endpoints come back with it.")
    ] = False,
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Its port; 0: the one it had.")] = 0,
    json: options.Json = False,
    stack: options.Stack = "",
) -> None:
    """Run, start or stop the station of a stack.

    The station is the one-machine host of the `local` provider. `ekiben up` starts it; after a reboot, this does. Without
    --background it runs in the foreground, until Ctrl-C.

    \b
    Examples:
      ekiben station
      ekiben station --background
      ekiben station --stop
    """
    from ekiben.station import launch

    if background and stop:
        raise SpecError("--background and --stop exclude each other.")
    folder = state_dir(stack)
    if stop:
        was = launch.running(folder)
        launch.stop(folder)
        if json:
            show.to_json({"running": False, "stack": folder.name, "url": ""})
        else:
            show.say(f"The station of {folder.name} " + ("has stopped." if was else "does not run."))
        return
    project, name = _about(folder)
    if background:
        client = launch.ensure(folder, project=project, stack=name, port=port)
        if json:
            show.to_json({"running": True, "stack": folder.name, "url": client.url})
        else:
            show.line(client.url)
        return
    if json:
        raise SpecError("--json is for --background and --stop: in the foreground the station prints its log.")
    command = launch.command(folder, project=project, stack=name, port=port)
    os.execve(command[0], command, launch.environment())  # noqa: S606 - the very process, so that signals reach it


def _about(folder: Path) -> tuple[str, str]:
    """The project and the stack that the station of `folder` was made for. Raises SpecError when it never was."""
    for name in ("station.json", "platform.json"):
        try:
            about = jsonlib.loads((folder / name).read_text(encoding="utf-8"))
            return str(about["project"]), str(about["stack"])
        except (OSError, ValueError, KeyError, TypeError):
            continue
    raise SpecError(f"The stack {folder.name!r} has no station in {folder.parent.parent}: make it with `ekiben up`.")
