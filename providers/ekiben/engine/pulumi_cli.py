"""The Pulumi CLI: the user's own, else one that was fetched or built before, else fetch it, else build it."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import platformdirs

from ekiben.engine.build import SHIM, VERSION, build
from ekiben.errors import EkibenError, NotFound

__all__ = ["Cli", "ensure", "find", "link"]

MINIMUM = (3, 200, 0)
SITE_PATIENCE_S = 15.0
INSTALL_LIMIT_S = 600.0
LANGUAGE_HOST = "pulumi-language-python"
Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Cli:
    """A usable CLI. origin: on PATH, fetched by the official installer into the project, or built from the Go module."""

    path: Path
    version: str
    origin: Literal["path", "installed", "built"]


def find(root: Path, say: Say = lambda line: None) -> Cli | None:
    """The CLI that there is, without making one; `say` hears why one was passed over. `root`: the project's folder."""
    return _on_path(root, say) or _installed(root, say) or _built()


def ensure(root: Path, say: Say) -> Cli:
    """The CLI: found, else fetched into `root`/.pulumi, else built into the user's cache. Repeating is safe and quick.

    Raises NotFound, naming the three ways, when none of them works here.
    """
    if found := find(root, say):
        return found
    problems = []
    with _lock(say):
        if found := find(root):  # the one that held the lock has made it
            return found
        for way in (_install, _build):
            try:
                return way(root, say)
            except EkibenError as error:
                problems.append(str(error))
                say(str(error))
    raise NotFound(
        "pulumi",
        "get the Pulumi CLI",
        "there is none on PATH, the official installer did not work, and neither did the build from its Go module",
        f"Do one of three: install Pulumi {'.'.join(map(str, MINIMUM))} or newer so that `pulumi` is on PATH; let this "
        "machine reach https://get.pulumi.com; or install Go 1.25 or newer and let it reach a Go module proxy (GOPROXY)",
    )


def link(cli: Cli, folder: Path) -> None:
    """Make `pulumi` in `folder` (a virtual environment's bin) the CLI, unless that is on PATH by itself."""
    target = folder / "pulumi"
    ours = target.is_symlink()
    if cli.origin == "path":
        if ours:
            target.unlink()
        return
    if (ours and target.readlink() == cli.path) or (target.exists() and not ours):
        return
    fresh = folder / f".pulumi-{os.getpid()}"
    fresh.symlink_to(cli.path)
    fresh.replace(target)


def _on_path(root: Path, say: Say) -> Cli | None:
    own = (_cache(), (root / ".pulumi").resolve())
    for folder in os.environ.get("PATH", os.defpath).split(os.pathsep):
        path = Path(folder or ".").absolute() / "pulumi"
        if not os.access(path, os.X_OK) or path.is_dir():
            continue
        real = path.resolve()
        if any(real.is_relative_to(place) for place in own):
            continue
        version = _version(path)
        if version is None or tuple(map(int, version.split("."))) < MINIMUM:
            say(f"{path} is passed over: {version or 'no version'}, {'.'.join(map(str, MINIMUM))} or newer is needed")
        elif not (real.with_name(LANGUAGE_HOST).exists() or shutil.which(LANGUAGE_HOST)):
            say(f"{path} is passed over: it has no {LANGUAGE_HOST} beside it")
        else:
            return Cli(path=path, version=version, origin="path")
    return None


def _installed(root: Path, say: Say) -> Cli | None:
    path = root / ".pulumi" / "cli" / "bin" / "pulumi"
    if not path.exists():
        return None
    version = _version(path)
    if version is None:
        say(f"{path} is passed over: it does not run")
        return None
    return Cli(path=path.absolute(), version=version, origin="installed")


def _built() -> Cli | None:
    folder = _folder()
    if not (folder / "pulumi").exists():
        return None
    shim = folder / SHIM
    text = (Path(__file__).parent / SHIM).read_bytes()
    if not shim.exists() or shim.read_bytes() != text:
        fresh = folder / f".{SHIM}-{os.getpid()}"
        fresh.write_bytes(text)
        fresh.chmod(0o755)
        fresh.replace(shim)
    return Cli(path=folder / "pulumi", version=VERSION, origin="built")


def _install(root: Path, say: Say) -> Cli:
    """By Pulumi's own installer, in a process of its own, so that it can be ended."""
    if why := _unreachable():
        raise NotFound("pulumi", "fetch the CLI from get.pulumi.com", why)
    say("Installing the Pulumi CLI with its official installer into .pulumi")
    place = root / ".pulumi"
    fresh = place / f".installing-{os.getpid()}"
    code = "import sys; from pulumi.automation import PulumiCommand; PulumiCommand.install(root=sys.argv[1])"
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(fresh)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    )  # fmt: skip
    try:
        output, _ = process.communicate(timeout=INSTALL_LIMIT_S)
        if process.returncode == 0:
            shutil.rmtree(place / "cli", ignore_errors=True)
            fresh.rename(place / "cli")
    except subprocess.TimeoutExpired:
        output = f"it had not ended after {INSTALL_LIMIT_S:g} s"
    finally:
        if process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        shutil.rmtree(fresh, ignore_errors=True)
    if found := _installed(root, say):
        return found
    last = output.strip().splitlines()[-1:] or ["it left nothing"]
    raise NotFound("pulumi", "fetch the CLI from get.pulumi.com", f"the installer failed: {last[0]}")


def _build(root: Path, say: Say) -> Cli:
    build(_folder(), say)
    found = _built()
    assert found is not None
    return found


def _unreachable() -> str:
    """Why the installer's site does not answer; empty when it does. A resolver that hangs is not waited for."""
    answer = [f"it did not answer within {SITE_PATIENCE_S:g} s"]

    def ask() -> None:
        try:
            with urllib.request.urlopen("https://get.pulumi.com/install.sh", timeout=SITE_PATIENCE_S) as response:
                answer[0] = "" if response.status == 200 else f"it answered with HTTP {response.status}"
        except OSError as error:
            answer[0] = f"the site cannot be reached ({getattr(error, 'reason', error)})"

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(SITE_PATIENCE_S)
    return answer[0]


def _version(path: Path) -> str | None:
    """The version that the executable tells, as x.y.z; None when it does not."""
    try:
        told = subprocess.run(
            [str(path), "version"], capture_output=True, text=True, timeout=60, check=True,
            env={**os.environ, "PULUMI_SKIP_UPDATE_CHECK": "true"},
        ).stdout  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    match = re.search(r"v?(\d+\.\d+\.\d+)", told)
    return match.group(1) if match else None


def _cache() -> Path:
    return (Path(platformdirs.user_cache_dir("ekiben")) / "pulumi").resolve()


def _folder() -> Path:
    return _cache() / f"v{VERSION}" / "bin"


@contextmanager
def _lock(say: Say) -> Iterator[None]:
    """One maker at a time on this machine: two set-ups do not build twice."""
    _cache().mkdir(parents=True, exist_ok=True)
    with (_cache() / "lock").open("w") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("Another set-up is getting the Pulumi CLI: waiting for it")
            fcntl.flock(held, fcntl.LOCK_EX)
        yield
