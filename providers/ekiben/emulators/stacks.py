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

__all__ = ["DIR", "config", "emulated", "enter", "forgotten", "found", "made", "state_dir"]

DIR, MADE = ".ekiben/.emulators", "made"
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
    """Have this process, and what it starts, meet the emulator where the stack runs on it. Is it another one than the last `up`
    left the stack on, which holds nothing of it?

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
    if not engine and not running(folder):
        raise forgotten(stack)
    server = ensure(folder)
    for name in foreign(os.environ):
        del os.environ[name]
    home = root / DIR / ".pulumi"
    os.environ.update(server.environment, PULUMI_HOME=str(home))
    if engine:
        from ekiben.emulators.plugins.install import install
        from ekiben.engine.pulumi_cli import ensure as cli

        install(cli(root, print), os.environ, root, "aws")
    return _last(root, stack) != server.born


def made(root: Path, stack: str) -> None:
    """Keep in mind that what the stack's state says is there on the emulator that runs now."""
    server = found(root) if emulated(root, stack) else None
    if server is not None and _last(root, stack) != server.born:
        path = root / DIR / MADE / stack
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(f".{stack}.{os.getpid()}")
        fresh.write_text(server.born, encoding="ascii")
        fresh.replace(path)


def forgotten(stack: str) -> Unavailable:
    """What to say to those who want to use what was on an emulator that has ended."""
    return Unavailable(
        "aws", f"use the stack {stack!r}", "the emulated AWS that it was made on has ended, and has forgotten all it held",
        "Run `ekiben up`, which makes everything again",
    )  # fmt: skip


def found(root: Path) -> Server | None:
    """The project's emulated AWS, if it runs."""
    return ensure(state_dir(root)) if running(state_dir(root)) else None


def _last(root: Path, stack: str) -> str:
    try:
        return (root / DIR / MADE / stack).read_text(encoding="ascii")
    except OSError:
        return ""


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
