"""Stacks that run on an emulator: those whose Pulumi.<stack>.yaml says `ekiben:emulate: true`.

Such a stack meets its emulator, and no cloud or cluster of the user's, whatever the environment says: `enter` takes the account's
variables out of the environment of this process and puts the emulator's there, with a PULUMI_HOME of its own for the stand-in.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ekiben.emulators.aws import Server, ensure, running
from ekiben.errors import SpecError, Unavailable

__all__ = ["DIR", "PROVIDER", "alive", "config", "emulated", "enter", "forgotten", "found", "made", "state_dir"]

DIR, MADE = ".ekiben/.emulators", "made"
KEY, PROVIDER, EMULATES = "ekiben:emulate", "ekiben:provider", ("aws", "kubernetes")


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
    told = config(root, stack)
    if not emulated(root, stack):
        if os.environ.get("AWS_ACCESS_KEY_ID") == "emulated" and told.get(PROVIDER) == "aws":
            raise SpecError(
                f"The stack {stack!r} runs on AWS, and this shell's AWS is the emulated one. Go to another shell, or write "
                f"`{KEY}: true` into Pulumi.{stack}.yaml."
            )
        return False
    provider = str(told[PROVIDER])
    if not engine and not alive(root, stack):
        raise forgotten(stack, provider)
    if provider == "aws":
        environment = ensure(state_dir(root)).environment
        for name in foreign(os.environ):
            del os.environ[name]
    else:
        from ekiben.emulators.kubernetes import chosen

        # Not the cluster of the user's own KUBECONFIG: that one is no emulator.
        environment = chosen.choose(_say, environ={}).environment
    os.environ.update(environment, PULUMI_HOME=str(root / DIR / ".pulumi"))
    if engine:
        from ekiben.emulators.plugins.install import install
        from ekiben.engine.pulumi_cli import ensure as cli

        install(cli(root, print), os.environ, root, provider)
    return _last(root, stack) != alive(root, stack)


def made(root: Path, stack: str) -> None:
    """Keep in mind that what the stack's state says is there on the emulator that runs now."""
    born = alive(root, stack) if emulated(root, stack) else ""
    if born and _last(root, stack) != born:
        path = root / DIR / MADE / stack
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(f".{stack}.{os.getpid()}")
        fresh.write_text(born, encoding="ascii")
        fresh.replace(path)


def forgotten(stack: str, provider: str = "aws") -> Unavailable:
    """What to say to those who want to use what was on an emulator that has ended."""
    if provider == "kubernetes":
        return Unavailable(
            provider, f"use the stack {stack!r}", "the cluster that it was made on does not run, or is another one",
            "Start it with `ekiben emulate kubernetes`, and run `ekiben up` where it has begun anew",
        )  # fmt: skip
    return Unavailable(
        "aws", f"use the stack {stack!r}", "the emulated AWS that it was made on has ended, and has forgotten all it held",
        "Run `ekiben up`, which makes everything again",
    )  # fmt: skip


def alive(root: Path, stack: str) -> str:
    """What tells the emulator of the stack that runs now from another one; empty where none runs."""
    if config(root, stack).get(PROVIDER) == "kubernetes":
        from ekiben.emulators.kubernetes import chosen

        there = chosen.found(environ={})
        # A cluster that begins anew has other keys; one that was only stopped has what it had.
        return hashlib.sha256(Path(there.kubeconfig).read_bytes()).hexdigest()[:16] if there else ""
    server = found(root)
    return server.born if server else ""


def found(root: Path) -> Server | None:
    """The project's emulated AWS, if it runs."""
    return ensure(state_dir(root)) if running(state_dir(root)) else None


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


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
