"""The stand-in plugin for `aws:` tokens, in a PULUMI_HOME of its own."""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Mapping
from pathlib import Path

from ekiben.engine.environment import install_plugin
from ekiben.engine.pulumi_cli import Cli
from ekiben.errors import MissingDependency, SpecError

__all__ = ["install"]


def install(cli: Cli, environ: Mapping[str, str], root: Path) -> None:
    """Install it for the engine that runs on the project `root` with `environ`; it answers for the `pulumi_aws` installed here.

    Raises SpecError where PULUMI_HOME is not set, or is the user's own one: there it would stand in the place of AWS's plugin.
    """
    home = Path(environ.get("PULUMI_HOME") or Path.home() / ".pulumi").resolve()
    theirs = Path(os.path.expanduser("~/.pulumi")).resolve()
    if home == theirs:
        raise SpecError(
            f"{home} has the plugins of your real stacks: the stand-in for AWS is not installed there. Set PULUMI_HOME to a "
            "folder of its own."
        )
    try:
        version = importlib.metadata.version("pulumi-aws")
    except importlib.metadata.PackageNotFoundError as error:
        raise MissingDependency("pulumi-aws", "aws") from error
    install_plugin(cli, environ, root, name="aws", version=version, module="ekiben.emulators.aws.plugin")
