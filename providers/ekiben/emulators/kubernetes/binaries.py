"""What the cluster is made of, built once for this user from Go modules: Kubernetes, etcd, containerd and an S3 gateway.

Each module is built with the versions that its own go.mod pins and the checksums of its go.sum, so that what comes out is what its
makers tested. Go's caches and proxy are the user's.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from ekiben.engine.compiler import go_build
from ekiben.errors import NotFound, ProviderError

__all__ = ["MODULES", "Module", "cache", "ensure", "missing", "sources"]

PROVIDER = "kubernetes"
DOWNLOAD_LIMIT_S = 900.0
Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Module:
    """A Go module, and the binaries to build from it, by their packages: below it, or whole ones of modules that it requires."""

    path: str
    version: str
    packages: Mapping[str, str]
    # Of the modules that its go.mod takes from folders beside it, which a module from a proxy does not have.
    beside: str = ""
    ldflags: str = ""
    flags: tuple[str, ...] = ()
    # About how long all of it takes, in CPU seconds, with its modules' downloads.
    cpu_s: int = field(default=0, compare=False)


def _kubernetes(version: str, *commands: str) -> Module:
    major, minor, patch = version.removeprefix("v").split(".")
    stamp = "k8s.io/component-base/version.git"
    return Module(
        path="k8s.io/kubernetes", version=version, packages={name: f"cmd/{name}" for name in commands},
        beside=f"v0.{minor}.{patch}", cpu_s=1100,
        ldflags=f"-X {stamp}Version={version} -X {stamp}Major={major} -X {stamp}Minor={minor}",
    )  # fmt: skip


MODULES: tuple[Module, ...] = (
    Module(path="go.etcd.io/etcd/server/v3", version="v3.6.16", packages={"etcd": ""}, cpu_s=120),
    _kubernetes(
        "v1.36.3", "kube-apiserver", "kubectl", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy"
    ),
    Module(
        path="github.com/containerd/containerd/v2", version="v2.2.9", flags=("-tags=no_btrfs",), cpu_s=190,
        packages={name: f"cmd/{name}" for name in ("containerd", "containerd-shim-runc-v2")},
        ldflags="-X github.com/containerd/containerd/v2/version.Version=v2.2.9",
    ),
    Module(path="github.com/versity/versitygw", version="v1.8.0", packages={"versitygw": "cmd/versitygw"}, cpu_s=160),
)  # fmt: skip


def cache() -> Path:
    """The folder of what is made once for this user: `bin`, `images`, `build`."""
    import platformdirs

    return (Path(platformdirs.user_cache_dir("ekiben")) / "cluster").resolve()


def missing(modules: Iterable[Module] = MODULES) -> list[str]:
    """The binaries that are not built yet."""
    return [name for module in modules for name in module.packages if not _built(module, name)]


def ensure(say: Say, modules: Iterable[Module] = MODULES) -> Path:
    """The folder with all binaries of `modules`, after those that are not there yet have been built.

    Interrupted, it goes on where it was. Several programs may ask at once: one builds, the others wait. Raises NotFound where
    there is no Go, and ProviderError with the compiler's last lines where a build fails.
    """
    modules = tuple(modules)
    folder = cache() / "bin"
    if not missing(modules):
        return folder
    with _lock(say):
        if names := missing(modules):
            busy_s = sum(module.cpu_s for module in modules if missing([module]))
            say(f"Building {', '.join(names)} from Go modules: about {busy_s} CPU seconds, once for this user")
        for module in modules:
            if missing([module]):
                _build(module, folder, say)
    return folder


def sources(module: Module, *paths: str) -> dict[str, Path]:
    """The folders of the modules `paths` in the versions that `module` pins, or of itself. Raises what `ensure` does."""
    go = _go(module)
    work = _work(module)
    work.mkdir(parents=True, exist_ok=True)
    own = json.loads(_run([go, "mod", "download", "-json", f"{module.path}@{module.version}"], work, module))
    told = json.loads(_run([go, "mod", "edit", "-json", own["GoMod"]], work, module))
    versions = {one["Path"]: one["Version"] for one in told["Require"]} | {module.path: module.version}
    return {
        path: Path(json.loads(_run([go, "mod", "download", "-json", f"{path}@{versions[path]}"], work, module))["Dir"])
        for path in paths
    }


def _go(module: Module) -> str:
    go = shutil.which("go")
    if go is None:
        raise NotFound(PROVIDER, f"build {module.path}", "there is no `go` on PATH", "Install Go 1.26 or newer")
    return go


def _build(module: Module, folder: Path, say: Say) -> None:
    go = _go(module)
    work = _work(module)
    folder.mkdir(parents=True, exist_ok=True)
    _write_module(go, module, work)
    for name, package in module.packages.items():
        if _built(module, name):
            continue
        say(f"Building {name} {module.version}")
        fresh = folder / f".{name}.{os.getpid()}"
        # As Go itself tells them apart: a module's path begins with a domain.
        whole = package if "." in package.partition("/")[0] else f"{module.path}/{package}".rstrip("/")
        command = [
            go,
            "build",
            "-v",
            "-trimpath",
            *module.flags,
            "-ldflags",
            f"-s -w {module.ldflags}",
            "-o",
            str(fresh),
        ]
        try:
            go_build([*command, whole], cwd=work, env=_environment(), say=say, failed=lambda why: _failed(module, why))
            fresh.replace(folder / name)
        finally:
            fresh.unlink(missing_ok=True)
        record = _record(name)
        record.parent.mkdir(exist_ok=True)
        record.write_text(_stamp(module), encoding="ascii")


def _write_module(go: str, module: Module, work: Path) -> None:
    """A module of our own that requires `module` and pins all that it pins: only a main module's replacements count."""
    work.mkdir(parents=True, exist_ok=True)
    told = json.loads(_run([go, "mod", "download", "-json", f"{module.path}@{module.version}"], work, module))
    own = json.loads(_run([go, "mod", "edit", "-json", told["GoMod"]], work, module))
    lines = ["module ekiben/cluster", f"go {own['Go']}"]
    lines += [f"godebug {one['Key']}={one['Value']}" for one in own.get("Godebug") or []]
    required = {one["Path"]: one["Version"] for one in own["Require"]}
    for one in own.get("Replace") or []:
        old, new = one["Old"], one["New"]
        if new.get("Version"):
            lines.append(f"replace {old['Path']} {old.get('Version', '')} => {new['Path']} {new['Version']}")
        elif module.beside and old["Path"] in required:
            lines.append(f"replace {old['Path']} => {old['Path']} {module.beside}")
            required[old["Path"]] = module.beside
    lines += [f"exclude {one['Path']} {one['Version']}" for one in own.get("Exclude") or []]
    lines += [f"require {path} {version}" for path, version in (required | {module.path: module.version}).items()]
    (work / "go.mod").write_text("\n".join(lines) + "\n", encoding="utf-8")
    sums = Path(told["Dir"]) / "go.sum"
    (work / "go.sum").write_bytes(sums.read_bytes() if sums.exists() else b"")


def _run(command: list[str], work: Path, module: Module) -> str:
    try:
        # A go.mod that an earlier version of us left must not be read.
        env = _environment() | {"GO111MODULE": "on"}
        (work / "go.mod").unlink(missing_ok=True)
        done = subprocess.run(
            command, cwd=work, env=env, text=True, capture_output=True, check=True, timeout=DOWNLOAD_LIMIT_S
        )
    except (OSError, subprocess.SubprocessError) as error:
        said = "\n".join(str(getattr(error, name, "") or "") for name in ("stdout", "stderr")).strip() or str(error)
        raise _failed(module, f"`go {' '.join(command[1:3])}` failed: {said}") from error
    return done.stdout


def _environment() -> dict[str, str]:
    """The user's own Go, and no module, workspace or flags of a project that surrounds us."""
    return {
        **os.environ,
        "GOWORK": "off",
        "GO111MODULE": "on",
        "GOFLAGS": "-mod=mod -buildvcs=false",
        "CGO_ENABLED": "0",
    }


def _built(module: Module, name: str) -> bool:
    with suppress(OSError):
        return os.access(cache() / "bin" / name, os.X_OK) and _record(name).read_text("ascii") == _stamp(module)
    return False


def _record(name: str) -> Path:
    return cache() / "bin" / ".built" / name


def _stamp(module: Module) -> str:
    """What a binary depends on; another one makes it be built again."""
    told = json.dumps([module.path, module.version, module.beside, module.ldflags, module.flags])
    return f"{module.version} {hashlib.sha256(told.encode()).hexdigest()[:16]}"


def _work(module: Module) -> Path:
    return cache() / "build" / re.sub(r"[^\w.-]", "-", module.path)


@contextmanager
def _lock(say: Say) -> Iterator[None]:
    cache().mkdir(parents=True, exist_ok=True)
    with (cache() / "lock").open("w", encoding="ascii") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("Another program builds the cluster's binaries: waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _failed(module: Module, why: str) -> ProviderError:
    return ProviderError(
        PROVIDER,
        f"build {module.path} {module.version}",
        why.rstrip("."),
        "Let this machine reach a Go module proxy (GOPROXY)",
    )
