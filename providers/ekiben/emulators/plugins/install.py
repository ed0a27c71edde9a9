"""A stand-in plugin in a PULUMI_HOME of its own, in the place of the one that Pulumi's site has."""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Mapping
from pathlib import Path

from ekiben.engine.environment import install_plugin
from ekiben.engine.pulumi_cli import Cli
from ekiben.errors import MissingDependency, SpecError

__all__ = ["install"]


def install(cli: Cli, environ: Mapping[str, str], root: Path, name: str) -> None:
    """Install the stand-in for `pulumi-resource-NAME` for the engine that runs on the project `root` with `environ`.

    It answers for the SDK `pulumi-NAME` that is installed here; raises MissingDependency where none is. Raises SpecError where
    PULUMI_HOME is not set, or is the user's own one: there it would stand in the place of the real plugin.
    """
    home = Path(environ.get("PULUMI_HOME") or Path.home() / ".pulumi").resolve()
    theirs = Path(os.path.expanduser("~/.pulumi")).resolve()
    if home == theirs:
        raise SpecError(
            f"{home} has the plugins of your real stacks: the stand-in for {name} is not installed there. Set PULUMI_HOME to a "
            "folder of its own."
        )
    try:
        version = importlib.metadata.version(f"pulumi-{name}")
    except importlib.metadata.PackageNotFoundError as error:
        raise MissingDependency(f"pulumi-{name}", name) from error
    install_plugin(cli, environ, root, name=name, version=version, module=f"ekiben.emulators.{name}.plugin")
