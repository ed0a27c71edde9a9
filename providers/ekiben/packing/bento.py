"""The template of a bento: what BentoML builds from a service's folder, without a model and without what varies.

`bentoml build` runs in a process of its own, on a copy of the source, with a private BENTOML_HOME and a clean environment,
and never locks: `requirements.txt` in the folder is the lock. What depends on the day, the machine or the folder's place is
then replaced, so that the template's SHA-256 says what the service is.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from ekiben.errors import MissingDependency, ModelFailed, SpecError
from ekiben.packing import archive
from ekiben.packing.archive import Bundle, Content
from ekiben.packing.assemble import MODEL, TEMPLATE_VERSION
from ekiben.packing.lock import LOCK, check_lock, requirements
from ekiben.packing.source import cache_dir, skipped

__all__ = ["template"]

FORMAT = 1  # Of what `_normalised` makes: a new number leaves the old cache alone.
BUILD_TIMEOUT_S = 300
EPOCH = "1970-01-01T00:00:00+00:00"
CONFIG = "bentofile.yaml"
KEPT_VARIABLES = ("PATH", "HOME", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SYSTEMROOT", "TMPDIR")
TAIL_LINES = 20


def template(folder: Path) -> Bundle:
    """The template of the BentoML service in `folder`, from the cache where the same was built before.

    A `model` folder in it is left out: the model comes with each version. Safe to call at once from several processes; one
    that is interrupted leaves nothing behind that counts. Raises NotFound without the folder; SpecError when there is no
    service or more than one, when `requirements.txt` is missing or not locked, or when the bento would not be the same
    elsewhere; ModelFailed, with the end of the output, when the service cannot be imported; MissingDependency.
    """
    source = _source(folder)
    lock = check_lock(folder / LOCK)
    config = _config(source, folder)
    if importlib.util.find_spec("bentoml") is None:
        raise MissingDependency("bentoml", "serve")
    cache = cache_dir() / "templates"
    index = cache / f"{_key(source)}.json"
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        built = Bundle(cache / f"{(known := json.loads(index.read_text())['sha256'])}.tar", known)
        if archive.sha256(built.path) == built.sha256:
            return built
    with tempfile.TemporaryDirectory(prefix="ekiben-bento-") as private:
        home = Path(private).resolve()
        stage = home / "source"
        for name, path in source.items():
            (stage / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, stage / name)
        _write_config(stage / CONFIG, config)
        built_at = _build(stage, home / "bentoml", folder)
        built = archive.write(_normalised(built_at, source, lock, stage), cache)
    with tempfile.NamedTemporaryFile("w", dir=cache, prefix=".", suffix=".tmp", delete=False) as file:
        json.dump({"sha256": built.sha256}, file)
    os.replace(file.name, index)
    return built


def _source(folder: Path) -> dict[str, Path]:
    found = archive.files(folder, lambda name: skipped(name) and name != ".bentoignore")
    model = MODEL.removeprefix("src/")
    return {name: path for name, path in found.items() if not name.startswith(model)}


def _config(source: Mapping[str, Path], folder: Path) -> dict[str, Any]:
    """The build options that the folder states, in bentofile.yaml or pyproject.toml, and what we hold them to."""
    import yaml

    config: Any = {}
    try:
        if CONFIG in source:
            config = yaml.safe_load(source[CONFIG].read_text(encoding="utf-8")) or {}
        elif "pyproject.toml" in source:
            project = tomllib.loads(source["pyproject.toml"].read_text(encoding="utf-8"))
            config = project.get("tool", {}).get("bentoml", {}).get("build", {})
    except (yaml.YAMLError, ValueError) as error:
        raise SpecError(f"The build options of the bento {str(folder)!r} cannot be read: {error}.") from error
    if not isinstance(config, dict) or not isinstance(config.get("python") or {}, dict):
        raise SpecError(f"The build options of the bento {str(folder)!r} are no table of options.")
    if "service.py" not in source and not config.get("service"):
        raise SpecError(
            f"There is no service in {str(folder)!r}: write service.py with one class under @bentoml.service, or name the "
            f"service in {CONFIG}."
        )
    stated = [path for name, path in source.items() if name.endswith(".py") or name in (CONFIG, "pyproject.toml")]
    if not any(re.search(rb"python_version['\"]?\s*[=:]", path.read_bytes()) for path in stated):
        raise SpecError(
            f"The bento {str(folder)!r} does not say its Python version, so that it would depend on the machine that builds "
            'it: write @bentoml.service(image=bentoml.images.Image(python_version="3.11")).'
        )
    return {**config, "python": {**(config.get("python") or {}), "lock_packages": False}}


def _write_config(path: Path, config: Mapping[str, Any]) -> None:
    import yaml

    path.write_text(yaml.safe_dump(dict(config), sort_keys=True), encoding="utf-8")


def _key(source: Mapping[str, Content]) -> str:
    parts = [
        str(FORMAT),
        ".".join(map(str, sys.version_info[:2])),
        *(f"{name} {metadata.version(name)}" for name in ("bentoml", "pydantic", "pyyaml")),
        archive.digest(source),
    ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _build(stage: Path, home: Path, folder: Path) -> Path:
    """Run `bentoml build`; the folder of the bento."""
    home.mkdir()
    env = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}
    env |= {
        "BENTOML_HOME": str(home),
        "BENTO_DO_NOT_TRACK": "True",
        "COLUMNS": "200",
        "LC_ALL": "C.UTF-8",
        "NO_COLOR": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONHASHSEED": "0",
        "PYTHONUTF8": "1",
        "TZ": "UTC",
    }
    command = [sys.executable, "-P", "-m", "bentoml", "build", ".", "--output", "tag"]
    try:
        done = subprocess.run(
            command, cwd=stage, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            timeout=BUILD_TIMEOUT_S, check=False, encoding="utf-8", errors="replace",
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise ModelFailed(
            f"ekiben: cannot build the bento {str(folder)!r}: it took more than {BUILD_TIMEOUT_S} s. Does its module do work "
            "when it is imported? Move it into the service's __init__."
        ) from error
    built = [path.parent for path in home.glob("bentos/*/*/bento.yaml")]
    if done.returncode == 0 and len(built) == 1:
        return built[0]
    output = done.stdout.replace(str(stage), str(folder))
    if "No service found in the module" in output:
        raise SpecError(f"There is no service in {str(folder)!r}: put one class under @bentoml.service.")
    if "Multiple `bentoml.Service` instances found" in output:
        raise SpecError(
            f"There is more than one service in {str(folder)!r}: keep one, let it depend on the others (bentoml.depends), or "
            f"name the one that is served in {CONFIG} (service: service:NAME)."
        )
    raise ModelFailed(
        f"ekiben: cannot build the bento {str(folder)!r}: BentoML refused it. Import the service in a Python that has its "
        "requirements.txt installed; wrap what only serving needs in `with bentoml.importing():`.",
        tail="\n".join([line for line in output.splitlines() if line.strip()][-TAIL_LINES:]),
    )


def _normalised(built: Path, source: Mapping[str, Path], lock: bytes, stage: Path) -> dict[str, Content]:
    """The files of a bento without what varies."""
    import yaml

    members: dict[str, Content] = dict(archive.files(built, lambda name: name == "__pycache__"))
    bento = yaml.safe_load((built / "bento.yaml").read_text(encoding="utf-8"))
    services = bento.get("services") or []
    if bento.get("spec") != 2:
        raise SpecError(
            "The bento uses build options of BentoML 1.1 (conda, CUDA, a Dockerfile template): use bentoml.images."
        )
    if used := [model for owner in (bento, *services) for model in owner.get("models") or []]:
        raise SpecError(
            f"The bento refers to {used[0].get('tag')!r} in a model store, which its digest would not cover: load the model "
            'from Path(__file__).parent / "model".'
        )
    bento["version"] = TEMPLATE_VERSION
    bento["creation_time"] = EPOCH
    _check_image(bento["image"], lock)
    bento["image"]["python_requirements"] = lock.decode()
    bento["image"]["commands"] = list(dict.fromkeys(bento["image"]["commands"]))
    members["env/python/requirements.txt"] = members["env/python/requirements.in"] = lock
    # BentoML writes its defaults, the builder's Python among them, into a bentofile.yaml that nothing reads any more.
    members.pop(f"src/{CONFIG}", None)
    if CONFIG in source:
        members[f"src/{CONFIG}"] = source[CONFIG].read_bytes()
    text = yaml.safe_dump(bento, sort_keys=False, allow_unicode=True, width=120)
    return _with_scripts({**members, "bento.yaml": text.encode()}, source, stage)


def _check_image(image: Mapping[str, Any], lock: bytes) -> None:
    """Raise SpecError when the image asks for a package that the lock does not have."""
    locked = requirements(lock.decode())
    for line in requirements(image["python_requirements"]):
        # BentoML adds itself, at the builder's version.
        if line not in locked and not line.startswith("bentoml=="):
            raise SpecError(
                f"The service's image asks for {line!r}, which {LOCK} does not lock: put it there, and let the image have "
                f'no more than .requirements_file("{LOCK}").'
            )


def _with_scripts(members: dict[str, Content], source: Mapping[str, Path], stage: Path) -> dict[str, Content]:
    """BentoML names an image's scripts after their absolute path, and then forgets them: name them after their contents."""
    dockerfile, described = "env/docker/Dockerfile", "bento.yaml"
    texts = {name: _bytes(members[name]) for name in (dockerfile, described)}
    for name, path in source.items():
        before = "env/docker/script__" + hashlib.md5(str(stage / name).encode(), usedforsecurity=False).hexdigest()
        if before.encode() in texts[dockerfile]:
            script = path.read_bytes()
            after = f"env/docker/script__{hashlib.sha256(script).hexdigest()[:32]}"
            texts = {place: text.replace(before.encode(), after.encode()) for place, text in texts.items()}
            members.pop(before, None)
            members[after] = script
    return {**members, **texts}


def _bytes(content: Content) -> bytes:
    return content if isinstance(content, bytes) else content.read_bytes()
