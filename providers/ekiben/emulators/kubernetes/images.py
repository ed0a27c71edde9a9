"""Images of the cluster's own, made without a builder and put into its registry: a layer or two, a config, a manifest.

`BASE` has Debian's Python, made from Debian's packages under the name that Docker's library has it by; the others hold one static
program each.
"""

from __future__ import annotations

import gzip
import hashlib
import http.client
import io
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

from ekiben.emulators.kubernetes import binaries
from ekiben.errors import ProviderError, Unavailable

__all__ = ["BASE", "PAUSE", "S3_GATEWAY", "Image", "ensure", "of_binary", "push"]

BASE, PAUSE, S3_GATEWAY = "python:3.11", "pause:1", "versitygw:1.8.0"
SUITE, MIRROR = "bookworm", "http://deb.debian.org/debian"
PACKAGES = ("ca-certificates", "python3", "python3-pip", "python3-venv")
UNNEEDED = tuple(
    [
        "usr/share/doc",
        "usr/share/man",
        "usr/share/locale",
        "var/cache/apt",
        "var/lib/apt/lists",
        "var/log",
        "proc",
        "sys",
        "dev",
    ]
)
CERTIFICATES = "etc/ssl/certs/ca-certificates.crt"
DEBOOTSTRAP_LIMIT_S = 1800.0
TIMEOUT_S = 120.0
NOBODY = "65532"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Image:
    """`name`: repository and tag. `layer`: a tar file, compressed by gzip. `config`: as OCI's, of the container."""

    name: str
    layer: Path
    config: Mapping[str, Any] = field(default_factory=dict)


def ensure(say: Say) -> list[Image]:
    """The images that each cluster has, their layers made once for this user. Raises ProviderError."""
    gateway = binaries.cache() / "bin" / "versitygw"
    python = Image(
        name=BASE, layer=_layer("python", _stamp(), lambda out: _debian(out, say)),
        config={"Env": ["PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "LANG=C.UTF-8"], "Cmd": ["python3"]},
    )  # fmt: skip
    return [
        of_binary(PAUSE, Path("/usr/bin/catatonit"), "-P"),
        of_binary(S3_GATEWAY, gateway),
        python,
        Image(name=f"library/{BASE}", layer=python.layer, config=python.config),
        Image(name=f"library/{BASE}-slim", layer=python.layer, config=python.config),
    ]


def of_binary(name: str, binary: Path, *arguments: str) -> Image:
    """An image that holds nothing but a static program, and runs it as nobody."""
    told = binary.stat()
    stamp = f"{told.st_size}-{told.st_mtime_ns}"

    def write(out: Path) -> None:
        with tarfile.open(out, "w") as tar:
            _add_folder(tar, "tmp", 0o1777)
            _add_folder(tar, "data", 0o777)
            entry = tarfile.TarInfo(binary.name)
            entry.size, entry.mode = told.st_size, 0o755
            with binary.open("rb") as content:
                tar.addfile(entry, content)

    config = {"Entrypoint": [f"/{binary.name}", *arguments], "User": f"{NOBODY}:{NOBODY}", "Env": ["PATH=/"]}
    return Image(name=name, layer=_layer(binary.name, stamp, write), config=config)


def push(registry: str, image: Image) -> str:
    """Put the image into the registry at `registry` (host:port, HTTP), and return its reference with its digest.

    What is there already is not sent again. Raises Unavailable.
    """
    repository, _, tag = image.name.rpartition(":")
    base = f"http://{registry}/v2/{repository}"
    digest, size = _digest(image.layer), image.layer.stat().st_size
    config = json.dumps(
        {
            "architecture": "amd64" if os.uname().machine == "x86_64" else "arm64",
            "os": "linux",
            "config": dict(image.config),
            "rootfs": {"type": "layers", "diff_ids": [image.layer.with_suffix(".diff-id").read_text("ascii")]},
            "history": [{"created_by": "ekiben"}],
        },
        sort_keys=True,
    ).encode()
    about = {"mediaType": CONFIG, "digest": _sha256(config), "size": len(config)}
    layers = [{"mediaType": LAYER, "digest": digest, "size": size}]
    manifest = json.dumps(
        {"schemaVersion": 2, "mediaType": MANIFEST, "config": about, "layers": layers}, sort_keys=True
    ).encode()
    reference = f"{registry}/{repository}@{_sha256(manifest)}"
    if _there(f"{base}/manifests/{_sha256(manifest)}") and _there(f"{base}/manifests/{tag}", _sha256(manifest)):
        return reference
    with image.layer.open("rb") as content:
        _upload(base, digest, content, size)
    _upload(base, str(about["digest"]), io.BytesIO(config), len(config))
    _ask("PUT", f"{base}/manifests/{tag}", manifest, len(manifest), MANIFEST)
    return reference


def _upload(base: str, digest: str, content: Any, size: int) -> None:
    if _there(f"{base}/blobs/{digest}"):
        return
    place = urljoin(base, _ask("POST", f"{base}/blobs/uploads/", b"", 0).headers["Location"])
    joint = "&" if "?" in place else "?"
    _ask("PUT", f"{place}{joint}digest={digest}", content, size, "application/octet-stream")


def _there(url: str, digest: str = "") -> bool:
    try:
        told = _ask("HEAD", url, None, 0)
    except urllib.error.HTTPError:
        return False
    return not digest or told.headers.get("Docker-Content-Digest") == digest


def _ask(method: str, url: str, content: Any, size: int, kind: str = "") -> http.client.HTTPResponse:
    headers = {"Accept": MANIFEST} | ({"Content-Type": kind} if kind else {})
    headers |= {"Content-Length": str(size)} if content is not None else {}
    request = urllib.request.Request(url, data=content, method=method, headers=headers)  # noqa: S310 - the cluster's
    try:
        # No proxy of the user's: the registry is on this machine.
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=TIMEOUT_S) as told:
            told.read()
            return told  # type: ignore[no-any-return]
    except urllib.error.HTTPError as error:
        if method == "HEAD" and error.code == 404:
            raise
        raise Unavailable("kubernetes", f"put an image into the registry ({method} {url})", f"{error}") from error
    except (OSError, http.client.HTTPException) as error:
        raise Unavailable("kubernetes", f"put an image into the registry ({method} {url})", f"{error}") from error


def _layer(name: str, stamp: str, write: Callable[[Path], None]) -> Path:
    """The compressed layer that `write` makes, from the cache where it is; `stamp`: what it depends on."""
    folder = binaries.cache() / "images"
    folder.mkdir(parents=True, exist_ok=True)
    layer = folder / f"{name}-{hashlib.sha256(stamp.encode()).hexdigest()[:16]}.tar.gz"
    if layer.exists() and layer.with_suffix(".diff-id").exists():
        return layer
    with tempfile.TemporaryDirectory(dir=folder, prefix=".making-") as work:
        plain, packed = Path(work, "layer.tar"), Path(work, "layer.tar.gz")
        write(plain)
        layer.with_suffix(".diff-id").write_text(_digest(plain), "ascii")
        with plain.open("rb") as source, packed.open("wb") as out, gzip.GzipFile("", "wb", 1, out, mtime=0) as target:
            shutil.copyfileobj(source, target, 2**20)
        packed.replace(layer)
    for old in folder.glob(f"{name}-*"):
        if not old.name.startswith(layer.name.removesuffix(".tar.gz")):
            old.unlink(missing_ok=True)
    return layer


def _debian(out: Path, say: Say) -> None:
    """Debian's smallest system with Python, pip and the certificates that this machine trusts."""
    say(f"Making {BASE} from Debian's packages: about a minute, once for this user")
    root = out.parent / "root"
    # In namespaces of its own: what it mounts and starts goes with it, also when it fails.
    command = ["unshare", "--mount", "--pid", "--fork", "--kill-child=KILL", "debootstrap", "--variant=minbase"]
    command += [f"--include={','.join(PACKAGES)}", SUITE, str(root), MIRROR]
    log = out.parent / "log"
    with log.open("wb") as told:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=told, stderr=told, timeout=DEBOOTSTRAP_LIMIT_S, check=False
        )
    if done.returncode != 0:
        end = "\n".join(log.read_text("utf-8", "replace").splitlines()[-10:])
        raise ProviderError(
            "kubernetes", f"make {BASE} from Debian's packages", end.rstrip("."), f"Let this machine reach {MIRROR}"
        )
    for folder in UNNEEDED:
        shutil.rmtree(root / folder, ignore_errors=True)
        (root / folder).mkdir(parents=True)
    for external in root.glob("usr/lib/python3*/EXTERNALLY-MANAGED"):
        external.unlink()  # as in the image of that name, where pip may install
    for name in ("python", "python3"):
        (root / "usr/local/bin" / name).symlink_to("/usr/bin/python3")
    if Path("/", CERTIFICATES).exists():
        shutil.copyfile(Path("/", CERTIFICATES), root / CERTIFICATES)
    subprocess.run(
        ["tar", "--numeric-owner", "--sort=name", "-C", str(root), "-cf", str(out), "."], check=True, timeout=600
    )
    shutil.rmtree(root)


def _stamp() -> str:
    trusted = Path("/", CERTIFICATES)
    return " ".join([SUITE, *PACKAGES, *UNNEEDED, _digest(trusted) if trusted.exists() else ""])


def _add_folder(tar: tarfile.TarFile, name: str, mode: int) -> None:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode = tarfile.DIRTYPE, mode
    tar.addfile(entry)


def _digest(path: Path) -> str:
    with path.open("rb") as content:
        return f"sha256:{hashlib.file_digest(content, 'sha256').hexdigest()}"


def _sha256(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"
