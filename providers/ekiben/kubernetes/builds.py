"""An environment image in a registry, by its tag: found there, or made on this machine of a base image and one layer more.

No container runs for it, and no Docker: the packages that a lock pins are fetched here, for the image's Python, with whatever index
and login this machine has. The tag is the digest of the context, so what is there is right, and making it is repeatable.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

from ekiben.errors import ModelFailed, NotFound, ProviderError, SpecError, Unavailable
from ekiben.kubernetes.oci import CONFIG, INDEX, LAYER, MANIFEST, Image, Repository, digest_of
from ekiben.packing.flat import DESCRIPTION, LOCK, OWN_LOCK, SITE

__all__ = ["MACHINE", "built", "found", "ran", "uv"]

BUILD_TIMEOUT_S = 3600.0
PAUSE_S = 0.2
TAIL_LINES = 20
MACHINE, ARCHITECTURE = "x86_64", "amd64"
GLIBC = "manylinux_2_28"
CHUNK_BYTES = 1 << 20
# What uv leaves beside packages, with the time in it.
OF_INSTALLER = frozenset({".lock", "uv_cache.json"})
# How packages' commands begin: with this machine's interpreter, by way of a shell where its path is long or has blanks.
SHEBANG = re.compile(rb"#!(?:/bin/sh\n'''exec' .*\n' '''|.*python.*)\n")
# What a record tells of them, and of what the installer leaves.
OF_MACHINE = re.compile(rb"^(bin/[^,\n]*|[^,\n]*/uv_cache\.json),[^\n]*", re.MULTILINE)
# Where images have programs that say nothing of it, as containerd has it.
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def found(repository: str, tag: str) -> str:
    """The image by its digest, as nodes pull it; empty where there is none."""
    place = Repository(repository)
    there = place.image(tag)
    return f"{place.name}@{there.digest}" if there else ""


def built(repository: str, tag: str, source: str, *, stopped: threading.Event, timeout_s: float = 0.0) -> str:
    """The image by its digest, which is made where it is not there. `source`: the zip of its context (`packing.flat`).

    Raises ModelFailed, with the end of the installer's output, when a package cannot be had; Unavailable when it takes more than an
    hour, or `stopped` is set; SpecError when the base image has another Python.
    """
    if there := found(repository, tag):
        return there
    place = Repository(repository)
    with tempfile.TemporaryDirectory(prefix="ekiben-image-") as folder:
        context = Path(folder, "context")
        with zipfile.ZipFile(source) as file:
            file.extractall(context)  # noqa: S202 - a zip of our own
        told = json.loads((context / DESCRIPTION).read_text("utf-8"))
        base = _base(told["base"], repository)
        _check_python(base, told)
        site = Path(folder, "layer", *SITE.strip("/").split("/"))
        _install(context, site, told, stopped, timeout_s or BUILD_TIMEOUT_S)
        layer = _layer(Path(folder, "layer"), Path(folder, "layer.tar.gz"))
        for blob in base.manifest["layers"]:
            _copied(base.place, place, blob["digest"], Path(folder))
            if stopped.is_set():
                raise _cancelled("copy the base image")
        place.upload(layer.digest, layer.path)
        config = json.dumps(_config(base.config, told, layer), sort_keys=True).encode()
        place.upload(digest_of(config), config)
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {"mediaType": CONFIG, "digest": digest_of(config), "size": len(config)},
            "layers": [
                *({**one, "mediaType": LAYER} for one in base.manifest["layers"]),
                {"mediaType": LAYER, "digest": layer.digest, "size": layer.path.stat().st_size},
            ],
        }
        return f"{place.name}@{place.put_image(tag, MANIFEST, manifest)}"


class Base(NamedTuple):
    """The image that the layer is put on."""

    place: Repository
    manifest: dict[str, Any]
    config: dict[str, Any]


class Layer(NamedTuple):
    """digest: of the compressed file; content: of the tar in it."""

    path: Path
    digest: str
    content: str


def _base(name: str, beside: str) -> Base:
    """The base image. In the registry that images are pushed to it is reached as that is, without TLS where it has none."""
    place = Repository(name)
    if beside.startswith(f"http://{place.host}/"):
        place = Repository(f"http://{name}")
    image = place.image(place.tag or "latest")
    if image is not None and image.kind in INDEX:
        image = _of_machine(place, image)
    if image is None:
        raise NotFound(
            "kubernetes", "build an image", f"there is no base image {name} for linux/{ARCHITECTURE}",
            "Name one with `pulumi config set ekiben:pythonImage IMAGE`",
        )  # fmt: skip
    return Base(place, image.manifest, json.loads(place.blob(image.manifest["config"]["digest"])))


def _of_machine(place: Repository, index: Image) -> Image | None:
    for one in index.manifest["manifests"]:
        platform = one.get("platform", {})
        if (platform.get("os"), platform.get("architecture")) == ("linux", ARCHITECTURE):
            return place.image(one["digest"])
    return None


def _check_python(base: Base, told: Mapping[str, Any]) -> None:
    """Python's own images say which they are."""
    variables = dict(one.partition("=")[::2] for one in base.config.get("config", {}).get("Env") or ())
    has = variables.get("PYTHON_VERSION", "")
    if has and not f"{has}.".startswith(f"{told['python']}."):
        raise SpecError(
            f"The service's image has Python {told['python']}, and the base image {told['base']} has {has}: name one with "
            "`pulumi config set ekiben:pythonImage IMAGE`, in which {version} stands for the service's."
        )


def _install(context: Path, site: Path, told: Mapping[str, Any], stopped: threading.Event, timeout_s: float) -> None:
    """What both locks pin, and Ekiben's server, with their bytecode where this machine has that Python."""
    deadline = time.monotonic() + timeout_s
    short = ".".join(told["python"].split(".")[:2])
    for name in (LOCK, OWN_LOCK):
        if not (context / name).read_text("utf-8").strip():
            continue
        command = [
            uv(), "pip", "install", "--quiet", "--only-binary", ":all:", "--target", str(site),
            "--python-platform", f"{MACHINE}-{GLIBC}", "--python-version", short, "-r", str(context / name),
            *(() if name == LOCK and told.get("needs") else ("--no-deps",)),
        ]  # fmt: skip
        ran(command, f"install {name}", stopped, deadline)
    _adapt_commands(site)
    shutil.copytree(context / "ekiben", site / "ekiben", dirs_exist_ok=True)
    if interpreter := _interpreter(short):
        # Under the names that files have in the image. What does not compile is not imported: it is for other Pythons.
        root = str(site)[: -len(SITE)]
        command = [
            interpreter, "-m", "compileall", "-q", "-s", root, "-p", "/", "--invalidation-mode", "unchecked-hash", str(site),
        ]  # fmt: skip
        ran(command, "compile what it has", stopped, deadline, strict=False)


def _adapt_commands(site: Path) -> None:
    """Have the packages' commands begin with the image's interpreter; their records say nothing of what differs by machine."""
    for script in site.glob("bin/*"):
        if script.is_file() and SHEBANG.match(said := script.read_bytes()):
            _rewrite(script, SHEBANG.sub(b"#!/usr/bin/env python3\n", said, count=1))
    for record in site.glob("*.dist-info/RECORD"):
        _rewrite(record, OF_MACHINE.sub(rb"\1,,", record.read_bytes()))


def _rewrite(path: Path, content: bytes) -> None:
    """In a file of its own: what there is may be a link to the installer's cache."""
    mode = path.stat().st_mode
    path.unlink()
    path.write_bytes(content)
    path.chmod(mode)


def uv() -> str:
    """The path of uv: on PATH, or beside this interpreter. Raises NotFound."""
    found = shutil.which("uv") or shutil.which("uv", path=str(Path(sys.executable).parent))
    if found is None:
        raise NotFound("kubernetes", "fetch packages", "`uv` is not installed", "Install it: pip install uv")
    return found


def _interpreter(short: str) -> str:
    if f"{sys.version_info[0]}.{sys.version_info[1]}" == short:
        return sys.executable
    return shutil.which(f"python{short}") or ""


def ran(command: list[str], what: str, stopped: threading.Event, deadline: float, *, strict: bool = True) -> None:
    """Run an installer. Raises as `built` does; one that fails is nothing unless it is `strict`."""
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            while process.poll() is None:
                if stopped.wait(PAUSE_S):
                    raise _cancelled(what)
                if time.monotonic() > deadline:
                    raise Unavailable("kubernetes", what, "it takes too long", "Repeat it")
        finally:
            if process.poll() is None:
                # With what it has started, as uv starts pip.
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if process.returncode and strict:
            output.seek(0)
            text = output.read().decode("utf-8", "replace")
            raise ModelFailed(
                f"kubernetes: cannot {what}: the installer has failed. Look at the lock: every package needs a wheel for Linux on "
                f"{MACHINE}.",
                tail="\n".join(text.strip().splitlines()[-TAIL_LINES:]),
            )


def _layer(root: Path, path: Path) -> Layer:
    """A folder as a layer, the same bytes for the same files."""
    content = sha256()
    with (
        path.open("wb") as raw,
        gzip.GzipFile("", "wb", 6, raw, mtime=0) as zipped,
        tarfile.open(fileobj=cast(IO[bytes], _Measured(zipped, content)), mode="w|", format=tarfile.PAX_FORMAT) as tar,
    ):
        for name, file in _walk(root):
            info = tar.gettarinfo(str(file), name)
            info.uid = info.gid = info.mtime = 0
            info.uname = info.gname = ""
            info.mode = 0o755 if info.isdir() or info.mode & 0o100 else 0o644
            if info.isreg():
                with file.open("rb") as data:
                    tar.addfile(info, data)
            else:
                tar.addfile(info)
    digest = sha256()
    with path.open("rb") as made:
        while block := made.read(CHUNK_BYTES):
            digest.update(block)
    return Layer(path, f"sha256:{digest.hexdigest()}", f"sha256:{content.hexdigest()}")


class _Measured:
    """A file whose written bytes are digested."""

    def __init__(self, file: Any, digest: Any) -> None:
        self._file, self._digest = file, digest

    def write(self, data: bytes) -> int:
        self._digest.update(data)
        return int(self._file.write(data))


def _walk(root: Path) -> Iterator[tuple[str, Path]]:
    """Every folder and file below, parents first, in the order of their names."""
    for folder, folders, names in os.walk(root):
        folders.sort()
        for name in sorted([*folders, *(one for one in names if one not in OF_INSTALLER)]):
            path = Path(folder, name)
            yield path.relative_to(root).as_posix(), path


def _copied(source: Repository, target: Repository, digest: str, folder: Path) -> None:
    if target.has(digest):
        return
    path = folder / "blob"
    with path.open("wb") as file:
        source.download(digest, file)
    target.upload(digest, path)
    path.unlink()


def _config(base: Mapping[str, Any], told: Mapping[str, Any], layer: Layer) -> dict[str, Any]:
    """The base image's configuration with ours over it."""
    own = base.get("config") or {}
    variables = {"PATH": PATH, **dict(one.partition("=")[::2] for one in own.get("Env") or ()), **told["variables"]}
    variables["PATH"] = f"{SITE}/bin:{variables['PATH']}"
    return {
        "architecture": ARCHITECTURE,
        "os": "linux",
        "config": {
            **{key: own[key] for key in ("Labels", "StopSignal") if own.get(key)},
            "Env": [f"{name}={value}" for name, value in sorted(variables.items())],
            "User": told["user"],
            "WorkingDir": "/tmp",  # noqa: S108 - in a container of its own
            "Entrypoint": told["entrypoint"],
            "Cmd": told["command"],
            "ExposedPorts": {f"{told['port']}/tcp": {}},
        },
        "rootfs": {"type": "layers", "diff_ids": [*base["rootfs"]["diff_ids"], layer.content]},
    }


def _cancelled(what: str) -> ProviderError:
    return Unavailable("kubernetes", what, "it was cancelled", "Repeat it")
