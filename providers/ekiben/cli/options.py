"""The options that many verbs share."""

from __future__ import annotations

from typing import Annotated

import typer

from ekiben.whoami import whoami

__all__ = ["Json", "Registry", "Stack", "Who", "Why", "user"]

Stack = Annotated[str, typer.Option("--stack", help="The stack; else EKIBEN_STACK, the only one there, or local.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout, and nothing else there.")]
Why = Annotated[str, typer.Option("--why", help="The reason, for the registry's audit.")]
Who = Annotated[str, typer.Option("--who", help="Who decides, for the registry's audit; else user@machine.")]
Registry = Annotated[str, typer.Option("--registry", help="The registry component, where there are several.")]


def user(who: str) -> str:
    """`who`, or user@machine of the one who runs this."""
    return who or whoami()
