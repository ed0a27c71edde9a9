"""What the prediction log of `ekiben serve` asks of a server: where its answers wait, and where they go."""

from __future__ import annotations

import importlib.util
import os
import re
import stat
import tempfile
from hashlib import sha256
from pathlib import Path
from typing import Any

from ekiben.errors import MissingDependency, SpecError

__all__ = ["given"]

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
VERSION = re.compile(r"[A-Za-z0-9._-]+:[0-9]+")
LABEL = re.compile(r"[A-Za-z0-9._:@/+-]{0,256}")


def given(bento: Path, asked: str, uri: str, share: float, spool: str) -> dict[str, Any]:
    """What serving/predictions.py is made of. `asked` is how the bento was named, MODEL:3 or otherwise.

    A container's environment may know better what it is: EKIBEN_ENDPOINT, EKIBEN_REVISION, EKIBEN_MODEL_VERSION. Raises SpecError
    for what is no storage or no name, MissingDependency without pyarrow.
    """
    from ekiben.serving import loading
    from ekiben.serving.ahead import FORWARDING
    from ekiben.serving.spool import COMPACTION
    from ekiben.storage import open_storage

    if importlib.util.find_spec("pyarrow") is None:
        raise MissingDependency("pyarrow", "data")
    if "://" not in uri:
        folder = Path(uri).expanduser().resolve()
        folder.mkdir(parents=True, exist_ok=True)
        uri = folder.as_uri()
    open_storage(uri)
    about = loading.about(bento)
    named = {
        "endpoint": os.environ.get("EKIBEN_ENDPOINT") or about["name"],
        "revision": os.environ.get("EKIBEN_REVISION") or about.get("version", ""),
        "model_version": os.environ.get("EKIBEN_MODEL_VERSION") or (asked if VERSION.fullmatch(asked) else ""),
    }
    for what, name in named.items():
        if not (NAME if what == "endpoint" else LABEL).fullmatch(name):
            raise SpecError(f"The {what} {name!r} cannot be logged. Letters, digits, dots and hyphens can.")
    return {
        **named, "storage_uri": uri, "share": share, "folder": str(_folder(spool, uri)), "compaction": COMPACTION,
        "forwarding": FORWARDING, "flush_s": _flush_s(),
    }  # fmt: skip


def _flush_s() -> float | None:
    """How long a row may wait for its storage while answers leave: not at all where the host sleeps between answers.

    None: until its segment is full or old. Raises SpecError for what is no number of seconds.
    """
    said = os.environ.get("EKIBEN_LOG_FLUSH_S") or ("0" if "AWS_LAMBDA_FUNCTION_NAME" in os.environ else "")
    if said and not re.fullmatch(r"\d{1,5}(\.\d{1,3})?", said):
        raise SpecError(f"EKIBEN_LOG_FLUSH_S is {said!r}, which is no number of seconds. Say 0, 30 or 0.5.")
    return float(said) if said else None


def _folder(spool: str, uri: str) -> Path:
    """Where rows wait: a folder for each storage, so that none go to another's. Raises SpecError where nothing can be written."""
    import platformdirs

    shared = Path(os.environ.get("TMPDIR") or "/tmp", f"ekiben-{os.getuid()}")  # noqa: S108 - looked at below
    why = ""
    for place in [Path(spool)] if spool else [Path(platformdirs.user_state_dir("ekiben")), shared]:
        folder = place / "predictions" / sha256(uri.encode()).hexdigest()[:16]
        try:
            place.mkdir(mode=0o700, parents=True, exist_ok=True)
            if place == shared and (place.lstat().st_uid, stat.S_IFMT(place.lstat().st_mode)) != (
                os.getuid(),
                stat.S_IFDIR,
            ):
                raise PermissionError("somebody else has made it")
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                return folder.resolve()
        except OSError as error:
            why = f"{place}: {error.strerror or error}"
    raise SpecError(f"Predictions cannot be logged: {why}. Name a folder that can be written to with --log-spool.")
