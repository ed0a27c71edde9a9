"""The environment image of a bento: Python, what its lock pins, and the server. Nothing of the model is in it.

What is made here is the context that an image is built of: a zip file that is the same bytes for the same lock, Python version,
commands of the service's image and server. Its SHA-256 is the image's tag, so an image that is there need not be built. The bento
comes from its URI when a container starts (docs/serving.md).
"""

from __future__ import annotations

import io
import os
import re
import tempfile
import zipfile
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from ekiben.errors import SpecError
from ekiben.packing import archive
from ekiben.packing.archive import Bundle, Content
from ekiben.packing.lock import requirements
from ekiben.packing.source import cache_dir, image_library

__all__ = [
    "BUILDSPEC",
    "LOCK",
    "LOCK_VARIABLE",
    "OWN_LOCK",
    "PLATFORM",
    "PORT",
    "USER",
    "VARIABLES",
    "WEB_ADAPTER",
    "Environment",
    "environment_image",
    "environment_of",
    "lock_digest",
    "members",
    "written",
]

PLATFORM = "linux/amd64"
# Docker Hub's official images, from a registry that answers AWS's builders without a login.
PYTHON = "public.ecr.aws/docker/library/python:{version}-slim-bookworm"
WEB_ADAPTER = "public.ecr.aws/awsguru/aws-lambda-adapter:0.9.1"
# Not 3000 nor 9001, which Lambda's own extensions take.
PORT = 8080
# An unprivileged user that no base image has. Lambda runs every image as one of its own.
USER = 65532
# The digest of the lock that an image has installed: a bento with the same one need not be compared with each package.
LOCK_VARIABLE = "EKIBEN_IMAGE_LOCK"
LOCK, OWN_LOCK = "requirements.lock", "server.lock"
SCRIPTS = "env/docker/"
# What BentoML installs into every image, to build packages of sources with: 300 MB that wheels do not need.
TOOLCHAIN = "build-essential git"
# Nothing is written but below /tmp: Lambda's file system is read-only. The GPU's driver is mounted where it is asked for.
VARIABLES = {
    "AWS_LWA_ASYNC_INIT": "true",
    "AWS_LWA_READINESS_CHECK_PATH": "/readyz",
    "BENTOML_HOME": "/tmp/bentoml",  # noqa: S108 - in a container of its own
    "BENTO_DO_NOT_TRACK": "True",
    "EKIBEN_HOST": "0.0.0.0",  # noqa: S104 - a container's only address
    "HOME": "/tmp",  # noqa: S108
    "NVIDIA_DRIVER_CAPABILITIES": "compute,utility",
    "NVIDIA_VISIBLE_DEVICES": "all",
    "PORT": str(PORT),
    "PYTHONUNBUFFERED": "1",
}
# `IMAGE` is what is to be pushed: REGISTRY/REPOSITORY:TAG. With an attestation it would be an index, which Lambda refuses.
BUILDSPEC = f"""\
version: 0.2
phases:
  pre_build:
    commands:
      - aws ecr get-login-password | docker login --username AWS --password-stdin "${{IMAGE%%/*}}"
  build:
    commands:
      - docker build --platform {PLATFORM} --provenance=false --tag "$IMAGE" .
      - docker push "$IMAGE"
"""
EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest that a zip file can say


class Environment(NamedTuple):
    """What a bento wants around it. python: "3.11"; lock: what it pins, own_lock: what the server needs beside that; commands,
    after: what is run before and after these are installed.
    """

    python: str
    lock: str
    own_lock: str
    commands: list[str]
    after: list[str]


def environment_image(template: Bundle) -> Bundle:
    """The build context of the image for a bento's template, as <sha256>.zip in the cache: the same environment, the same bytes.

    Raises SpecError for a base image of the service's own, and for a lock of which only some lines have hashes.
    """
    return written(members(*_described(template)))


def environment_of(template: Bundle) -> Environment:
    """The environment of a bento's template. Raises SpecError, as `environment_image` does."""
    wanted, lock, _ = _described(template)
    pins = lock.decode()
    _hashed(pins)
    return Environment(_python(wanted), pins, _own_lock(pins), *_commands(wanted))


def _described(template: Bundle) -> tuple[dict[str, Any], bytes, dict[str, bytes]]:
    """BentoML's description of the image, the lock, and the scripts that it runs."""
    import yaml

    with tempfile.TemporaryDirectory(prefix="ekiben-image-") as folder:
        tree = archive.unpack(template.path, template.sha256, Path(folder, "template"))
        wanted = yaml.safe_load((tree / "bento.yaml").read_text(encoding="utf-8"))["image"]
        lock = (tree / "env" / "python" / "requirements.txt").read_bytes()
        scripts = {SCRIPTS + path.name: path.read_bytes() for path in sorted((tree / SCRIPTS).glob("script__*"))}
        archive.remove(tree)
    return wanted, lock, scripts


def members(wanted: Mapping[str, Any], lock: bytes, scripts: Mapping[str, Content]) -> dict[str, Content]:
    """The files of a context. `wanted`: of BentoML's description of an image its python_version, base_image and commands."""
    pins = lock.decode()
    files: dict[str, Content] = {
        "Dockerfile": _dockerfile(_python(wanted), wanted, pins, bool(scripts)).encode(),
        "buildspec.yml": BUILDSPEC.encode(),
        LOCK: lock,
        OWN_LOCK: _own_lock(pins).encode(),
        **scripts,
        **image_library(),
    }
    return files


def _python(wanted: Mapping[str, Any]) -> str:
    python = str(wanted["python_version"])
    if not re.fullmatch(r"3\.1[1-3](\.\d+)?", python):
        raise SpecError(
            f"The service's image has Python {python}: Ekiben's server runs on 3.11 to 3.13. Set python_version to one of them."
        )
    if wanted.get("base_image") not in (None, "", f"python:{python}-slim"):
        raise SpecError(
            f"The service's image has the base image {wanted['base_image']!r}: an environment image is made on Python's own. "
            'Leave it out, and name what it is for with .system_packages("...") or .run("...").'
        )
    return python


def _commands(wanted: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """What is run before and after the packages are installed."""
    before = [_line(one) for one in wanted.get("commands") or () if not one.endswith(TOOLCHAIN)]
    return before, [_line(one) for one in wanted.get("post_commands") or ()]


def _dockerfile(python: str, wanted: Mapping[str, Any], pins: str, scripts: bool) -> str:
    site = f"/usr/local/lib/python{'.'.join(python.split('.')[:2])}/site-packages"
    install = "python -m pip install --no-cache-dir --no-deps --disable-pip-version-check"
    commands, after = _commands(wanted)
    lines = [
        f"FROM --platform={PLATFORM} {PYTHON.format(version=python)}",
        f"COPY --from={WEB_ADAPTER} /lambda-adapter /opt/extensions/lambda-adapter",
        "WORKDIR /tmp",
        *([f"COPY {SCRIPTS} ./{SCRIPTS}"] if scripts else []),
        *(["RUN apt-get update"] if commands else []),
        *(f"RUN {command}" for command in commands),
        f"COPY {LOCK} {OWN_LOCK} /opt/ekiben/",
        f"RUN {install}{' --require-hashes' if _hashed(pins) else ''} -r /opt/ekiben/{LOCK}",
        f"RUN {install} --require-hashes -r /opt/ekiben/{OWN_LOCK}",
        *(f"RUN {command}" for command in after),
        f"COPY ekiben/ {site}/ekiben/",
        f"RUN python -m compileall -q {site}/ekiben",
        *(f"ENV {name}={value}" for name, value in sorted({**VARIABLES, LOCK_VARIABLE: lock_digest(pins)}.items())),
        f"USER {USER}:{USER}",
        f"EXPOSE {PORT}",
        'ENTRYPOINT ["python", "-P", "-m", "ekiben.cli"]',
        'CMD ["serve"]',
    ]
    return "\n".join(lines) + "\n"


def _line(command: str) -> str:
    if "\n" in command.strip():
        raise SpecError(
            f"The service's image runs {command.splitlines()[0]!r} and further lines: put them into a script, and name it with "
            ".run_script(...)."
        )
    return command.strip()


def _hashed(pins: str) -> bool:
    """Has every line of the lock hashes? Raises SpecError where some have and others have not: pip takes none of it then."""
    blocks = _blocks(pins)
    bare = [block.split()[0] for block in blocks if "--hash" not in block and not block.startswith("-")]
    if bare and len(bare) < len([block for block in blocks if not block.startswith("-")]):
        raise SpecError(
            f"The lock has hashes, but none for {bare[0]!r}: lock all of it with: "
            "uv pip compile --universal --generate-hashes requirements.in -o requirements.txt."
        )
    return not bare


def lock_digest(pins: str) -> str:
    return sha256(pins.encode()).hexdigest()


def _own_lock(pins: str) -> str:
    """What the server needs beside what the bento's lock pins."""
    pinned = {_name(line) for line in requirements(pins)}
    own = Path(__file__).with_name("image.lock").read_text(encoding="utf-8")
    return "".join(block for block in _blocks(own) if _name(block) not in pinned)


def _blocks(lock: str) -> list[str]:
    """The requirements of a lock, each with the lines that belong to it; without comments."""
    found: list[str] = []
    for line in lock.splitlines(keepends=True):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if line[0].isspace() and found:
            found[-1] += line
        else:
            found.append(line)
    return found


def _name(requirement: str) -> str:
    return re.sub(r"[-_.]+", "-", re.split(r"[^\w.-]", requirement.strip(), maxsplit=1)[0]).lower()


def written(files: Mapping[str, Content]) -> Bundle:
    """A context of these files, as <sha256>.zip in the cache."""
    made = io.BytesIO()
    # Stored, not deflated: what a compressor makes depends on its version.
    with zipfile.ZipFile(made, "w", zipfile.ZIP_STORED) as file:
        for name in sorted(files, key=lambda name: name.encode()):
            content = files[name]
            data = content if isinstance(content, bytes) else content.read_bytes()
            info = zipfile.ZipInfo(name, EPOCH)
            info.create_system, info.external_attr = 3, (0o100755 if data.startswith(b"#!") else 0o100644) << 16
            file.writestr(info, data)
    data = made.getvalue()
    found = sha256(data).hexdigest()
    folder = cache_dir() / "images"
    with archive.disk("write a build context in", folder):
        folder.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=".", suffix=".tmp", dir=folder)
        try:
            with os.fdopen(handle, "wb") as out:
                out.write(data)
            os.replace(temporary, folder / f"{found}.zip")
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    return Bundle(folder / f"{found}.zip", found)
