"""The Pulumi CLI built from its Go module, for networks where Pulumi's own site cannot be reached but Go's proxy can.

The module files beside this one pin every dependency by its checksum. Pulumi's own Python language host is no part of that
module, so Ekiben's stands beside the built CLI, and only there.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from ekiben.engine.compiler import go_build
from ekiben.errors import ProviderError

__all__ = ["SHIM", "VERSION", "build"]

VERSION = "3.259.0"
SHIM = "pulumi-language-python"
SDK = "github.com/pulumi/pulumi/sdk/v3"
PACKAGE = "github.com/pulumi/pulumi/pkg/v3/cmd/pulumi"
FROM_SDK = ("python/cmd/pulumi-language-python-exec", "python/dist/pulumi-resource-pulumi-python")
LDFLAGS = f"-s -w -X {SDK}/go/common/version.Version=v{VERSION}"


def build(into: Path, say: Callable[[str], None]) -> None:
    """Build the CLI into the folder `into`, which is there afterwards whole or not at all. Raises ProviderError.

    `say` gets a line now and then: it takes minutes. Interrupting it ends the compiler too.
    """
    go = shutil.which("go")
    if go is None:
        raise _failed("there is no `go` on PATH")
    into.parent.mkdir(parents=True, exist_ok=True)
    for left in into.parent.glob(".building-*"):
        shutil.rmtree(left, ignore_errors=True)
    work = into.parent / f".building-{os.getpid()}"
    try:
        module = work / "module"
        module.mkdir(parents=True)
        for source in (Path(__file__).parent / "go").iterdir():
            shutil.copyfile(source, module / source.name)
        made = work / "made"
        made.mkdir()
        _compile(go, module, made / "pulumi", say)
        sdk = Path(_go(go, module, "list", "-m", "-f", "{{.Dir}}", SDK))
        for name in FROM_SDK:
            shutil.copyfile(sdk / name, made / Path(name).name)
            (made / Path(name).name).chmod(0o755)
        answered = subprocess.run(
            [str(made / "pulumi"), "version"], capture_output=True, text=True, timeout=60, check=False
        ).stdout.strip()
        if answered != f"v{VERSION}":
            raise _failed(f"what was built calls itself {answered!r}, not v{VERSION}")
        shutil.rmtree(into, ignore_errors=True)
        into.parent.mkdir(parents=True, exist_ok=True)
        made.rename(into)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _compile(go: str, module: Path, target: Path, say: Callable[[str], None]) -> None:
    say(f"Building the Pulumi CLI v{VERSION} from its Go module: 4 to 7 minutes on two cores, once for this machine")
    go_build(
        [go, "build", "-v", "-o", str(target), "-ldflags", LDFLAGS, PACKAGE], cwd=module, env=_environment(), say=say,
        failed=_failed,
    )  # fmt: skip


def _go(go: str, module: Path, *arguments: str) -> str:
    try:
        return subprocess.run(
            [go, *arguments], cwd=module, env=_environment(), text=True, capture_output=True, check=True, timeout=300
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError) as error:
        detail = str(getattr(error, "stderr", "") or error).strip()
        raise _failed(f"`go {arguments[0]}` failed: {detail}") from error


def _environment() -> dict[str, str]:
    """No workspace and no vendoring of a surrounding project: only the module files beside this one count."""
    return {**os.environ, "GOWORK": "off", "GO111MODULE": "on", "GOFLAGS": "-mod=readonly -buildvcs=false"}


def _failed(why: str) -> ProviderError:
    return ProviderError("pulumi", "build the CLI from its Go module", why)
