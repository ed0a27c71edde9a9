"""Stacks that run on emulators: those whose Pulumi.<stack>.yaml says `ekiben:emulate: true`, which means its `ekiben:provider`, or
which providers of its program are emulated, `ekiben:emulate: [aws, kubernetes]`.

Such a stack meets its emulators, and no cloud or cluster of the user's, whatever the environment says: `enter` takes the account's
variables out of the environment of this process and puts the emulators' there, with a PULUMI_HOME of its own for the stand-ins.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ekiben.emulators.aws import Server, ensure, running
from ekiben.errors import SpecError, Unavailable

__all__ = ["DIR", "alive", "config", "emulated", "enter", "forgotten", "found", "made", "meet", "state_dir"]

DIR, MADE = ".ekiben/.emulators", "made"
KEY, PROVIDER, EMULATES = "ekiben:emulate", "ekiben:provider", ("aws", "kubernetes")
KNATIVE = "ekiben:knative"
# What stands beneath the config of a stack on an emulated cluster, as JSON: `kubernetes.components.settings` reads it.
BENEATH = "EKIBEN_EMULATED_CONFIG"


def state_dir(root: Path) -> Path:
    """The state folder of the project's emulated AWS; its stacks share it, as they share an account."""
    return root / DIR / "aws"


def emulated(root: Path, stack: str) -> tuple[str, ...]:
    """The providers of the stack that are emulated, as its config says. Raises SpecError where there is no emulator of one."""
    told = config(root, stack)
    asked = told.get(KEY, False)
    if asked in (False, "false"):
        return ()
    named = [told.get(PROVIDER)] if asked in (True, "true") else asked
    if not isinstance(named, list):
        raise SpecError(f"Pulumi.{stack}.yaml: {KEY} is {asked!r}. Write true or false, or a list of providers.")
    for provider in named:
        if provider not in EMULATES:
            raise SpecError(
                f"Pulumi.{stack}.yaml: there is no emulator of {provider!r}; there is one of: {', '.join(EMULATES)}. "
                f"Leave {KEY} out, choose another provider, or let {KEY} be a list of those that are to be emulated."
            )
    return tuple(provider for provider in EMULATES if provider in named)


def enter(root: Path, stack: str, *, engine: bool = False) -> tuple[str, ...]:
    """Have this process, and what it starts, meet the emulators that the stack runs on, if any. Returns the providers whose
    emulator is another one than the last `up` left the stack on, and holds nothing of it.

    `engine`: start them where they do not run, and have the stand-in plugins. Raises Unavailable without `engine` where one does
    not run, and SpecError for a stack on AWS itself in an environment that is the emulator's: a stack is on one or the other.
    """
    providers = emulated(root, stack)
    told = config(root, stack)
    if os.environ.get("AWS_ACCESS_KEY_ID") == "emulated" and told.get(PROVIDER) == "aws" and "aws" not in providers:
        raise SpecError(
            f"The stack {stack!r} runs on AWS, and this shell's AWS is the emulated one. Go to another shell, or write "
            f"`{KEY}: true` into Pulumi.{stack}.yaml."
        )
    if not engine:
        for provider in providers:
            if not alive(root, provider):
                raise forgotten(stack, provider)
    meet(root, providers, knative=engine and told.get(KNATIVE) not in (False, "false"))
    if providers and engine:
        from ekiben.emulators.plugins.install import install
        from ekiben.engine.pulumi_cli import ensure as cli

        for provider in providers:
            install(cli(root, print), os.environ, root, provider)
    last = _last(root, stack).split()
    return tuple(provider for provider in providers if alive(root, provider) not in last)


def meet(root: Path, providers: Sequence[str], *, knative: bool = False) -> None:
    """Have this process meet the emulators of these, which are started where they do not run. knative: a cluster is to have it."""
    environment: dict[str, str] = {}
    os.environ.pop(BENEATH, None)
    if "aws" in providers:
        environment |= ensure(state_dir(root)).environment
        for name in foreign(os.environ):
            del os.environ[name]
    if "kubernetes" in providers:
        from ekiben.emulators.kubernetes import chosen

        # Not the cluster of the user's own KUBECONFIG: that one is no emulator.
        there = chosen.choose(_say, environ={})
        if knative:
            there = chosen.with_knative(there, _say)
        environment |= {**there.environment, BENEATH: json.dumps(dict(there.config), sort_keys=True)}
    if providers:
        os.environ.update(environment, PULUMI_HOME=str(root / DIR / ".pulumi"))


def made(root: Path, stack: str) -> None:
    """Keep in mind that what the stack's state says is there on the emulators that run now."""
    born = [alive(root, provider) for provider in emulated(root, stack)]
    if all(born) and _last(root, stack).split() != born:
        path = root / DIR / MADE / stack
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(f".{stack}.{os.getpid()}")
        fresh.write_text(" ".join(born), encoding="ascii")
        fresh.replace(path)


def forgotten(stack: str, provider: str) -> Unavailable:
    """What to say to those who want to use what was on an emulator that has ended."""
    if provider == "kubernetes":
        return Unavailable(
            provider, f"use the stack {stack!r}", "the cluster that it was made on does not run, or is another one",
            "Start it with `ekiben emulate kubernetes`, and run `ekiben up` where it has begun anew",
        )  # fmt: skip
    return Unavailable(
        provider, f"use the stack {stack!r}", "the emulated AWS that it was made on has ended, and has forgotten all it held",
        "Run `ekiben up`, which makes everything again",
    )  # fmt: skip


def alive(root: Path, provider: str) -> str:
    """What tells the emulator of a provider that runs now from another one; empty where none runs."""
    if provider == "kubernetes":
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
    """What Pulumi.<stack>.yaml says, where it names a provider or an emulator; else empty. Raises SpecError for no YAML."""
    try:
        text = (root / f"Pulumi.{stack}.yaml").read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise SpecError(f"Pulumi.{stack}.yaml cannot be read: {error}. Mend it.") from error
    if PROVIDER not in text and KEY not in text:  # the parser takes longer to import than all else here
        return {}
    import yaml

    try:
        read = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise SpecError(f"Pulumi.{stack}.yaml is no YAML: {error}. Mend it.") from error
    found = read.get("config") if isinstance(read, dict) else None
    return dict(found) if isinstance(found, dict) else {}
