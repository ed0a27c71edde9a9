"""The stack verbs: up, preview, refresh, destroy, and env for those who prefer plain pulumi."""

from __future__ import annotations

import dataclasses
import os
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ekiben.cli import options, show

if TYPE_CHECKING:
    from ekiben.engine.stacks import Result

__all__ = ["register"]

Stack = Annotated[
    str, typer.Option("--stack", help="The stack; else EKIBEN_STACK, the only Pulumi.<stack>.yaml, or local.")
]


def register(app: typer.Typer) -> None:
    for verb in (up, preview, refresh, destroy, env):
        app.command()(verb)


def up(
    stack: Stack = "",
    json: options.Json = False,
    mend: Annotated[bool, typer.Option("--refresh", help="First look what is really there, by `refresh`.")] = False,
) -> None:
    """Make what the program says; as `pulumi up` does.

    \b
    Examples:
      ekiben up
      ekiben up --stack staging --refresh
    """
    _run("up", stack, json, refresh=mend)


def preview(
    stack: Stack = "",
    json: options.Json = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print a comment for a pull request.")] = False,
) -> None:
    """Show what `up` would do, and what it will cost; nothing is changed.

    \b
    Examples:
      ekiben preview
      ekiben preview --json | jq .changes
      ekiben preview --markdown | tee preview.md
    """
    if json and markdown:
        raise typer.BadParameter("--json and --markdown are two answers: choose one.")
    _run("preview", stack, json, markdown)


def refresh(stack: Stack = "", json: options.Json = False) -> None:
    """Find what was changed or deleted by hand; `up` mends it afterwards.

    \b
    Examples:
      ekiben refresh && ekiben up
    """
    _run("refresh", stack, json)


def destroy(
    stack: Stack = "",
    json: options.Json = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask; a script is never asked.")] = False,
) -> None:
    """Delete all that the stack has, its data too, but the storages that say `retain`.

    Runs are cancelled. Exits with 7, and a list, when the cloud still has something of the stack afterwards.

    \b
    Examples:
      ekiben destroy --yes && ekiben inventory
    """
    from ekiben.engine.environment import find_root
    from ekiben.engine.stacks import choose

    if not yes and sys.stdin.isatty():
        name = choose(find_root(), stack)
        if not typer.confirm(f"Delete everything of the stack {name!r}, its data too?", err=True):
            raise typer.Exit(130)
    _run("destroy", stack, json)


def env(stack: Stack = "", json: options.Json = False) -> None:
    """Print the environment in which plain `pulumi` works on this project.

    Of a stack that runs on an emulator also what leads there; the emulator is started.

    \b
    Examples:
      eval "$(ekiben env)"; pulumi stack select --create local; pulumi up
    """
    from ekiben.emulators import stacks as emulators
    from ekiben.engine.environment import environment, exports, find_root
    from ekiben.engine.stacks import choose

    root = find_root()
    name, before = choose(root, stack), dict(os.environ)
    emulators.enter(root, name, engine=True)
    values = {key: value for key, value in os.environ.items() if before.get(key) != value} | environment(root)
    if json:
        show.to_json(values)
    else:
        show.line(exports(values).rstrip())


def _run(verb: str, stack: str, json: bool, markdown: bool = False, **more: Any) -> None:
    from ekiben.cli import plan
    from ekiben.cli.inventory import LEFT
    from ekiben.cli.platform import keep
    from ekiben.cli.remains import in_cloud
    from ekiben.emulators import stacks as emulators
    from ekiben.engine import stacks
    from ekiben.engine.environment import find_root

    begun = time.monotonic()
    root = find_root()
    name = stacks.choose(root, stack)
    if emulators.enter(root, name, engine=True) and verb in ("preview", "up"):
        # A new emulator is empty: what the state says of the last one's is not so.
        more["refresh"] = True
        if (root / ".ekiben" / name / "platform.json").exists():
            show.say("The emulator that this stack was made on has ended, and has forgotten all of it.")
    run: Callable[..., Result] = getattr(stacks, verb)
    result = run(root, name, **more)
    left = []
    if verb == "up":
        emulators.made(root, name)
    if verb == "up" and "platform" in result.outputs:
        keep(root, name, result.outputs["platform"])
    if verb == "destroy":
        left = [item for item in in_cloud(root, name) if not item.retained]
        if not left:  # else `inventory` needs it to look again
            keep(root, name, None)
    if json:
        show.to_json(result.to_dict() | ({"left": [dataclasses.asdict(item) for item in left]} if left else {}))
        raise typer.Exit(LEFT if left else 0)
    if markdown:
        show.line(plan.markdown(result))
        return
    counts = ", ".join(f"{number} {operation}" for operation, number in sorted(result.changes.items()))
    show.say(f"{verb} of {result.stack}: {counts or 'no changes'}, {time.monotonic() - begun:.1f} s")
    if why := plan.unbilled(result.costs):
        show.say(f"cost: nothing. {why}")
    elif result.costs:
        show.table(plan.COST_COLUMNS, plan.cost_table(result.costs))
    for part in _urls(result.outputs):
        show.line(part)
    if left:
        show.line(
            show.paint(f"{result.stack}: {len(left)} things are left, which its program does not know of.", "red")
        )
        show.table(("name", "where"), [(item.name, item.where) for item in left])
        raise typer.Exit(LEFT)


def _urls(outputs: dict[str, Any]) -> list[str]:
    """The addresses among the parts of the platform, one a line."""
    parts = outputs.get("platform", {}).get("parts", {})
    return [f"{name}: {part['facts']['url']}" for name, part in sorted(parts.items()) if part["facts"].get("url")]
