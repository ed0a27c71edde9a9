"""Stacks that run on an emulator: those whose Pulumi.<stack>.yaml says `ekiben:emulate: true`.

Such a stack meets its emulator and no cloud, whatever the user's own environment says: `enter` takes the account's variables out of
the environment of this process and puts the emulator's there, with a PULUMI_HOME of its own for the stand-in plugin.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ekiben.emulators.aws import Server, ensure, running
from ekiben.errors import SpecError, Unavailable

__all__ = ["DIR", "config", "emulated", "enter", "found", "state_dir"]

DIR = ".ekiben/.emulators"
KEY, PROVIDER, EMULATES = "ekiben:emulate", "ekiben:provider", ("aws",)


def state_dir(root: Path) -> Path:
    """The state folder of the project's emulated AWS; its stacks share it, as they share an account."""
    return root / DIR / "aws"


def emulated(root: Path, stack: str) -> bool:
    """Does the stack's config say that it runs on an emulator? Raises SpecError where there is none for its provider."""
    told = config(root, stack)
    asked = told.get(KEY, False)
    if asked not in (True, False, "true", "false"):
        raise SpecError(f"Pulumi.{stack}.yaml: {KEY} is {asked!r}. Write true or false.")
    if asked not in (True, "true"):
        return False
    if (provider := told.get(PROVIDER)) not in EMULATES:
        raise SpecError(
            f"Pulumi.{stack}.yaml: there is no emulator of {provider!r}; there is one of: {', '.join(EMULATES)}. "
            f"Leave {KEY} out, or choose another provider."
        )
    return True


def enter(root: Path, stack: str, *, engine: bool = False) -> bool:
    """Have this process, and what it starts, meet the emulator where the stack runs on it. Was the emulator started for this?

    `engine`: start it where it does not run, and have the stand-in plugin. Raises Unavailable without `engine` where it does not
    run, and SpecError for a stack that is no emulated one in an environment that is the emulator's: a stack is on one or the other.
    """
    if not emulated(root, stack):
        if os.environ.get("AWS_ACCESS_KEY_ID") == "emulated" and config(root, stack).get(PROVIDER) in EMULATES:
            raise SpecError(
                f"The stack {stack!r} runs on AWS, and this shell's AWS is the emulated one. Go to another shell, or write "
                f"`{KEY}: true` into Pulumi.{stack}.yaml."
            )
        return False
    folder = state_dir(root)
    fresh = not running(folder)
    if fresh and not engine:
        raise Unavailable(
            "aws", f"use the stack {stack!r}", "the emulated AWS that it runs on does not run, and has forgotten all it held",
            "Run `ekiben up`, which starts it and makes everything again",
        )  # fmt: skip
    server = ensure(folder)
    for name in foreign(os.environ):
        del os.environ[name]
    home = root / DIR / ".pulumi"
    os.environ.update(server.environment, PULUMI_HOME=str(home))
    if engine:
        from ekiben.emulators.aws.install import install
        from ekiben.engine.pulumi_cli import ensure as cli

        install(cli(root, print), os.environ, root)
    return fresh


def found(root: Path) -> Server | None:
    """The project's emulated AWS, if it runs."""
    return ensure(state_dir(root)) if running(state_dir(root)) else None


def foreign(environ: Mapping[str, str]) -> list[str]:
    """The variables that name an account, a profile or an address of AWS."""
    return sorted(name for name in environ if name.startswith("AWS_") and name != "AWS_CA_BUNDLE")


def config(root: Path, stack: str) -> dict[str, Any]:
    """What Pulumi.<stack>.yaml says, of a stack with a provider; empty of any other. Raises SpecError where it cannot be read."""
    try:
        text = (root / f"Pulumi.{stack}.yaml").read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise SpecError(f"Pulumi.{stack}.yaml cannot be read: {error}. Mend it.") from error
    if PROVIDER not in text:  # the parser takes longer to import than all else here
        return {}
    import yaml

    try:
        read = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise SpecError(f"Pulumi.{stack}.yaml is no YAML: {error}. Mend it.") from error
    found = read.get("config") if isinstance(read, dict) else None
    return dict(found) if isinstance(found, dict) else {}
