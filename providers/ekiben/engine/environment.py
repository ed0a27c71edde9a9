"""The environment that the Pulumi engine runs in: private to a project, with Ekiben's plugin, and the user's own values first."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from ekiben import __version__
from ekiben.engine.pulumi_cli import Cli, ensure
from ekiben.errors import AccessDenied, ProviderError, SpecError

__all__ = ["defaults", "environment", "exports", "find_root", "install_plugin"]


def find_root(start: Path | None = None) -> Path:
    """The folder of the nearest Pulumi.yaml, from `start` (else the working directory) upwards. Raises SpecError."""
    here = (start or Path.cwd()).resolve()
    for folder in (here, *here.parents):
        if (folder / "Pulumi.yaml").is_file():
            return folder
    raise SpecError(f"There is no Pulumi.yaml in {here} or above it. Go to the project's folder.")


def environment(root: Path, cli: Cli | None = None) -> dict[str, str]:
    """What must be set, beside the user's own environment, for the CLI to work on the project `root`.

    PULUMI_HOME is private to the project and has Ekiben's plugin (installed here when it is not); the state is in a folder
    below the project. Whatever the user has set already is kept, and is not in the answer. Raises SpecError for an empty
    passphrase on a shared backend, AccessDenied when the project cannot be written to, NotFound without a CLI.
    """
    cli = cli or ensure(root, lambda line: print(line, file=sys.stderr, flush=True))
    theirs = _theirs(os.environ)
    found = {name: value for name, value in defaults(root).items() if name not in theirs}
    backend = theirs.get("PULUMI_BACKEND_URL", "")
    passphrase = theirs.get("PULUMI_CONFIG_PASSPHRASE")
    unset = passphrase is None and "PULUMI_CONFIG_PASSPHRASE_FILE" not in theirs
    if unset and "PULUMI_BACKEND_URL" in found:
        # The state is a private folder of this machine, and holds no secret: nothing to encrypt, nobody to hide it from.
        found["PULUMI_CONFIG_PASSPHRASE"] = ""
    elif passphrase == "" and backend and not backend.startswith(("file://", "https://", "http://")):
        raise SpecError(
            f"The passphrase is empty, and {backend} may be shared: set PULUMI_CONFIG_PASSPHRASE or "
            "PULUMI_CONFIG_PASSPHRASE_FILE to a real one."
        )
    if sys.prefix != sys.base_prefix and "VIRTUAL_ENV" not in theirs:
        found["VIRTUAL_ENV"] = sys.prefix
    if cli.path.resolve().with_name("pulumi-language-python").exists():
        # Plugins come from PULUMI_HOME only, so that no warning is shown and no stranger on PATH is run.
        found.setdefault("PULUMI_IGNORE_AMBIENT_PLUGINS", "true")
    else:
        found.pop("PULUMI_IGNORE_AMBIENT_PLUGINS", None)
    path = theirs.get("PATH", os.defpath).split(os.pathsep)
    first = [sys.prefix + "/bin"] if sys.prefix != sys.base_prefix else []
    if cli.origin != "path" and shutil.which("pulumi", path=os.pathsep.join(first + path)) is None:
        first.append(str(cli.path.parent))
    if missing := [folder for folder in first if folder not in path]:
        found["PATH"] = os.pathsep.join(missing + path)
    found = {name: value for name, value in found.items() if name not in theirs or name == "PATH"}
    install_plugin(
        cli, {**theirs, **found}, root, name="ekiben", version=__version__, module="ekiben.engine.plugin"
    )  # fmt: skip
    return found


def defaults(root: Path) -> dict[str, str]:
    """What Ekiben sets where the user has set nothing. State and PULUMI_HOME lie together, as they do below ~/.pulumi."""
    return {
        "PULUMI_HOME": str(root / ".ekiben" / ".pulumi"),
        "PULUMI_BACKEND_URL": f"file://{root / '.ekiben'}",
        "PULUMI_SKIP_UPDATE_CHECK": "true",
        "PULUMI_IGNORE_AMBIENT_PLUGINS": "true",
    }


def exports(values: Mapping[str, str]) -> str:
    """Shell text that sets `values`: for `eval "$(ekiben env)"`."""
    return "".join(f"export {name}={shlex.quote(value)}\n" for name, value in sorted(values.items()))


def _theirs(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment without what `ekiben env` printed for this project, or for another one that was left by `cd`.

    CI gives a variable that nobody has set as an empty one: a backend without a name is none.
    """
    theirs = dict(environ)
    if not theirs.get("PULUMI_BACKEND_URL"):
        theirs.pop("PULUMI_BACKEND_URL", None)
    home = Path(theirs.get("PULUMI_HOME", ""))
    if home.parts[-2:] == (".ekiben", ".pulumi"):
        ours = defaults(home.parents[1])
        if theirs.get("PULUMI_BACKEND_URL") == ours["PULUMI_BACKEND_URL"] and not theirs.get(
            "PULUMI_CONFIG_PASSPHRASE"
        ):
            theirs.pop("PULUMI_CONFIG_PASSPHRASE", None)
        for name, value in ours.items():
            if theirs.get(name) == value:
                del theirs[name]
    return theirs


def install_plugin(cli: Cli, environ: Mapping[str, str], root: Path, *, name: str, version: str, module: str) -> None:
    """The plugin `name`, a Python `module` run by this interpreter, in the PULUMI_HOME of `environ`; renewed when either moved.

    Raises AccessDenied where that folder cannot be written to, ProviderError when the engine refuses it.
    """
    text = f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m {module} "$@"\n'
    home = Path(environ.get("PULUMI_HOME") or Path.home() / ".pulumi")
    there = home / "plugins" / f"resource-{name}-v{version}" / f"pulumi-resource-{name}"
    try:
        if there.read_text(encoding="utf-8") == text:
            return
    except (OSError, ValueError):
        pass
    try:
        for folder in (root / ".ekiben", home):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise AccessDenied(
            "pulumi", f"keep its state in {folder}", str(error.strerror), "Let it be written to, or set PULUMI_HOME"
        ) from error
    with tempfile.TemporaryDirectory() as folder_name:
        source = Path(folder_name) / there.name
        source.write_text(text, encoding="utf-8")
        source.chmod(0o755)
        done = subprocess.run(
            [str(cli.path), "plugin", "install", "resource", name, version, "--file", str(source), "--reinstall"],
            env=dict(environ), cwd=root, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
    if done.returncode != 0:
        raise ProviderError(
            "pulumi", f"install the plugin {name}", done.stderr.strip() or f"exit status {done.returncode}"
        )
