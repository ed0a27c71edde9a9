"""inventory: the proof that nothing is left, or the list of what is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from ekiben.cli import options, show
from ekiben.cli.platform import project, stack_name

if TYPE_CHECKING:
    from ekiben.cli.remains import Remains

__all__ = ["register"]

LEFT = 7
WORDS = {"up": "is up", "destroyed": "is destroyed", "unknown": "may be up or not: Pulumi's state cannot be read"}


def register(app: typer.Typer) -> None:
    app.command()(inventory)


def inventory(json: options.Json = False, stack: options.Stack = "") -> None:
    """List what exists, or prove that nothing is left.

    Of every stack here, or of one: resources in Pulumi's state, files, buckets, processes, sockets; of one that is destroyed
    also what its cloud still has. Exits with 7 when something is left of a stack that is destroyed; what the program asked to
    retain is listed, and is no leftover.

    \b
    Examples:
      ekiben inventory
      ekiben inventory --stack local --json
    """
    from dataclasses import asdict

    from ekiben.cli.remains import remains, stacks_known

    root = project()
    names = [stack_name(stack)] if stack else stacks_known(root) or [stack_name("")]
    found = [remains(root, name) for name in names]
    if json:
        show.to_json(
            [
                {"stack": each.stack, "state": each.state, "items": [asdict(item) for item in each.items],
                 "left": [asdict(item) for item in each.left]}
                for each in found
            ]
        )  # fmt: skip
    else:
        where = "at Pulumi's state, the processes and sockets of this machine, and where a stack's cloud can be asked, there"
        show.line(f"Looked in {root / '.ekiben'}, {where}.")
        for each in found:
            _print(each)
    if any(each.left for each in found):
        raise typer.Exit(LEFT)


def _print(found: Remains) -> None:
    retained = sum(item.retained for item in found.items)
    if not found.items:
        show.line(f"{found.stack}: nothing left.")
        return
    if found.state == "up":
        show.line(f"{found.stack}: the stack is up; this is what it has.")
    elif found.left:
        show.line(
            show.paint(f"{found.stack}: the stack {WORDS[found.state]}, and {len(found.left)} things are left.", "red")
        )
    else:
        show.line(f"{found.stack}: nothing left but what was to be retained ({retained}).")
    show.table(
        ("kind", "name", "state", "size", "tags", "where"),
        [
            (
                item.kind,
                item.name,
                "retained" if item.retained else "" if found.state == "up" else "left",
                _size(item.size_bytes),
                " ".join(f"{key}={value}" for key, value in sorted(item.tags.items()) if value),
                item.where,
            )
            for item in found.items
        ],
    )


def _size(size_bytes: int) -> str:
    if not size_bytes:
        return ""
    return f"{size_bytes / 2**20:.1f} MiB" if size_bytes >= 2**20 else f"{size_bytes / 2**10:.1f} KiB"
