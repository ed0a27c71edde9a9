"""How `ekiben serve` becomes the server of a bento, and how it is asked to, read without the library of the command line."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from ekiben.errors import IntegrityError, SpecError

__all__ = ["DEFAULTS", "ENVIRONMENT", "RANGES", "asked", "become"]

DEFAULTS: dict[str, Any] = {
    "bento": "", "port": None, "host": "127.0.0.1", "workers": 1, "socket": "", "digest": "", "own": False,
    "log_predictions": "", "log_share": 1.0, "log_spool": "", "registry": "", "stack": "",
}  # fmt: skip
RANGES: dict[str, tuple[Any, Any]] = {"port": (0, 65535), "workers": (1, 256), "log_share": (0.0, 1.0)}
# What an image or a platform says, where the command does not.
ENVIRONMENT = {
    "bento": "EKIBEN_BENTO", "host": "EKIBEN_HOST", "workers": "EKIBEN_WORKERS", "digest": "EKIBEN_DIGEST",
    "log_predictions": "EKIBEN_LOG_PREDICTIONS", "log_share": "EKIBEN_LOG_SHARE", "log_spool": "EKIBEN_LOG_SPOOL",
}  # fmt: skip
# A platform's port goes before that of the image. Where SageMaker puts a model's files a bento is looked for when none is named.
PORTS = ("SAGEMAKER_BIND_TO_PORT", "AWS_LWA_PORT", "PORT")
SAGEMAKER_MODEL = Path("/opt/ml/model")
# With this in the image, requests come by HTTP on Lambda, too.
WEB_ADAPTER = Path("/opt/extensions/lambda-adapter")
DEFAULT_PORT = 3000
# In an environment image, the SHA-256 of the lock that it has installed (ekiben/packing/image.py).
IMAGE_LOCK = "EKIBEN_IMAGE_LOCK"
DASHES = str.maketrans("-_", "_-")


def asked(words: list[str]) -> dict[str, Any] | None:
    """What `become` takes, from the words behind `ekiben serve`; None for what is not plain: --help, a mistake."""
    given: dict[str, Any] = {}
    rest = iter(words)
    for word in rest:
        name, mark, value = word.removeprefix("--").partition("=")
        name = name.translate(DASHES)
        if not word.startswith("-"):
            if "bento" in given:
                return None
            given["bento"] = word
        elif word == "--bentoml":
            given["own"] = True
        elif not word.startswith("--") or name not in DEFAULTS or name in ("bento", "own"):
            return None
        else:
            given[name] = value if mark else next(rest, None)
    for name, variable in ENVIRONMENT.items():
        if name not in given and (said := os.environ.get(variable)):
            given[name] = said
    for name, (least, most) in RANGES.items():
        if name in given:
            text = given[name] or ""
            whole, _, part = text.partition("." if isinstance(least, float) else " ")
            if not (
                text.isascii() and whole.isdecimal() and (part or "0").isdecimal() and least <= float(text) <= most
            ):
                return None
            given[name] = type(least)(text)
    if None in given.values() or not (given.get("bento") or SAGEMAKER_MODEL.is_dir()):
        return None
    return {**DEFAULTS, **given}


def become(
    *,
    bento: str,
    port: int | None,
    host: str,
    workers: int,
    socket: str,
    digest: str,
    own: bool,
    log_predictions: str,
    log_share: float,
    log_spool: str,
    registry: str,
    stack: str,
) -> NoReturn:
    """Make this process the server. Raises SpecError, IntegrityError, and what fetching a bento raises."""
    folder = _folder(bento or str(SAGEMAKER_MODEL), digest, registry, stack)
    if not (folder / "bento.yaml").is_file():
        raise SpecError(
            f"{folder} is no bento: it has no bento.yaml. Name the folder that `bentoml build` or a release made."
        )
    python = _python(folder)
    if own:
        os.environ["EKIBEN_SERVER"] = "bentoml"
    given: dict[str, Any] = {
        "bento": str(folder.resolve()), "host": host, "port": _port(port), "socket": socket, "workers": workers,
        "modules": _modules(folder) if workers > 1 else [],
        "lambda": "" if WEB_ADAPTER.exists() else os.environ.get("AWS_LAMBDA_RUNTIME_API", ""),
        "predictions": _logged(folder, bento, log_predictions, log_share, log_spool) if log_predictions else None,
    }  # fmt: skip
    sys.stdout.flush()
    if python == Path(sys.executable):
        _serve_here(given)
    import json

    from ekiben import serving

    parent = Path(serving.__file__).with_name("parent.py")
    os.execv(python, [str(python), "-P", str(parent), "--alone", json.dumps(given)])  # noqa: S606


def _serve_here(given: dict[str, Any]) -> NoReturn:
    """Without another start of the interpreter, which takes as long as all that this command does. See ekiben/serving/alone.py."""
    from ekiben.serving import parent

    if not sys.flags.safe_path:
        del sys.path[0]  # what lies beside the command, or where it was called, is nothing to the service
    parent.make_package()
    sys.exit(parent.beside("alone").main(given))


def _logged(folder: Path, bento: str, uri: str, share: float, spool: str) -> dict[str, Any]:
    from ekiben.cli import spooled

    return spooled.given(folder, bento, uri, share, spool)


def _python(bento: Path) -> Path:
    """The interpreter that has what the bento's lock pins.

    That it is this one is mostly plain to see; else it is remembered until a package is installed or removed: to look at each
    takes longer than all the rest.
    """
    folder = bento / "env" / "python"
    locks = sorted(folder.glob("requirements*.txt"))  # requirements.lock.txt comes first
    if installed := os.environ.get(IMAGE_LOCK):
        return _of_image(bento, locks, installed)
    if all(_pinned_here(path.read_text(encoding="utf-8")) for path in locks[:1]):
        return Path(sys.executable)
    import hashlib

    from ekiben.packing.source import cache_dir

    seal = hashlib.sha256(sys.executable.encode())
    for path in locks:
        seal.update(f"\n{path.name}\n".encode() + path.read_bytes())
    for entry in _packages():
        seal.update(f"\n{entry} {os.stat(entry).st_mtime_ns}".encode())
    known = cache_dir() / "met" / seal.hexdigest()[:32]
    if known.exists():
        return Path(sys.executable)
    from ekiben.station import environments

    python = environments.interpreter(environments.lock_of(bento))
    if python == Path(sys.executable):
        with suppress(OSError):
            known.parent.mkdir(parents=True, exist_ok=True)
            known.touch()
    return python


def _of_image(bento: Path, locks: list[Path], installed: str) -> Path:
    """This interpreter, in an image that was made for a lock. Raises SpecError where the bento needs another one."""
    import hashlib

    if locks and hashlib.sha256(locks[0].read_bytes()).hexdigest() == installed:
        return Path(sys.executable)
    from ekiben.station import environments

    text = "".join(path.read_text(encoding="utf-8") for path in locks[:1])
    if missing := environments.unmet(environments.requirements(text)):
        raise SpecError(
            f"The bento {bento.name} needs {missing[0]}, which this image does not have: it was built for another lock. "
            "Build it anew with `ekiben up`, then release the version again."
        )
    return Path(sys.executable)


def _pinned_here(lock: str) -> bool:
    """Are all its lines pins, without markers, of just what is installed? False where only a closer look tells."""
    import re

    wanted = set()
    for line in lock.replace("\\\n", " ").splitlines():
        pin = line.split(" #")[0].split("--hash")[0].strip()
        if pin and not pin.startswith("#"):
            found = re.fullmatch(r"([A-Za-z0-9._-]+)==([A-Za-z0-9.+!_]+)", pin)
            if found is None:
                return False
            wanted.add((re.sub(r"[-_.]+", "_", found[1]).lower(), found[2]))
    for entry in _packages():
        for name in os.listdir(entry):
            project, _, version = name.removesuffix(".dist-info").rpartition("-")
            wanted.discard((re.sub(r"[-_.]+", "_", project).lower(), version))
    return not wanted


def _packages() -> list[str]:
    return [entry for entry in sys.path if entry.endswith("-packages") and os.path.isdir(entry)]


def _modules(bento: Path) -> list[str]:
    from ekiben.serving import plain, trees
    from ekiben.station import environments

    source = bento / "src"
    return trees.preloaded(bento, plain.preloaded(plain.reason(source), environments.modules(source)))


def _folder(name: str, digest: str, registry: str, stack: str) -> Path:
    path = Path(name)
    if "://" in name:
        return _fetched(name, digest)
    if path.is_dir():
        if not (path / "bento.yaml").is_file() and len(tars := list(path.glob("*.tar"))) == 1:
            return _unpacked(tars[0], digest)
        if digest:
            from ekiben.packing import archive

            archive.verify(path, digest)
        return path
    if name.endswith(".tar"):
        return _unpacked(path, digest)
    if ":" in name or "@" in name:
        from ekiben.batch.models import chosen, made_ready
        from ekiben.cli.platform import runtime

        model = chosen(runtime(stack), name, registry=registry)
        if digest not in ("", model.digest):
            raise IntegrityError("ekiben", f"serve {name}", f"its digest is {model.digest}, not {digest}")
        return made_ready(model).bento
    raise SpecError(
        f"There is no bento at {name}. Name its folder, its .tar, or a model's version: MODEL:3 or MODEL@ALIAS."
    )


def _fetched(uri: str, digest: str) -> Path:
    from ekiben.packing import fetch
    from ekiben.packing.source import cache_dir

    digest = digest or fetch.digest_of(uri)
    if not digest:
        raise SpecError(
            f"The bento {uri.partition('?')[0]} has no digest to be checked by. "
            "Say it with --digest (EKIBEN_DIGEST), or name the archive by it, as releases do."
        )
    return fetch.fetched(uri, digest, cache_dir() / "bentos" / digest)


def _unpacked(tar: Path, digest: str) -> Path:
    """A tar that is named by its digest must have it."""
    from ekiben.packing import archive, fetch
    from ekiben.packing.source import cache_dir

    if not tar.is_file():
        raise SpecError(f"There is no bento at {tar}.")
    digest = digest or fetch.digest_of(tar.name) or archive.sha256(tar)
    return archive.unpack(tar, digest, cache_dir() / "bentos" / digest)


def _port(given: int | None) -> int:
    if given is not None:
        return given
    name = next((name for name in PORTS if name in os.environ), "PORT")
    text = os.environ.get(name, str(DEFAULT_PORT))
    if not text.isdigit() or int(text) > 65535:
        raise SpecError(f"{name} is {text!r}, which is no port. Set it to a number from 0 to 65535, or give --port.")
    return int(text)
