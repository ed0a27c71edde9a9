"""A bento from its template and a model: what the function that registers models runs. Standard library only.

The template is the bento as BentoML built it, without a model and with the version `TEMPLATE_VERSION`. The bento is the same
with the model's files at `src/model/`, `ekiben.json` at its root and a version that follows from its contents.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ekiben.errors import IntegrityError, SpecError
from ekiben.packing import archive
from ekiben.packing.archive import Bundle, Content, files, unpack

__all__ = ["MANIFEST", "MODEL", "TEMPLATE_VERSION", "pack"]

MANIFEST = "ekiben.json"
MODEL = "src/model/"
TEMPLATE_VERSION = "template"
JUNK = frozenset({"__pycache__", ".DS_Store", "Thumbs.db", "desktop.ini"})

VERSION_LINE = f"\nversion: {TEMPLATE_VERSION}\n".encode()


def pack(
    template: Path, model: Path, signature: Mapping[str, Any], *, sha256: str = "", into: Path | None = None
) -> Bundle:
    """The bento of a template and the files below the folder `model`, as <digest>.tar in `into`, or else beside the template.

    `signature` is what the job wrote: columns, target, sample, fast_path. `sha256` is the template's, where known. The same inputs
    give the same digest on another day, machine or user. Raises IntegrityError when the template is not the one of its SHA-256,
    SpecError when there is no model file, or the signature is not JSON.
    """
    trained = files(model, JUNK.__contains__)
    if not trained:
        raise SpecError(
            f"There is no model to pack: the folder {str(model)!r} is empty. Did the job write to EKIBEN_MODEL_DIR?"
        )
    described = {name: value for name, value in signature.items() if name not in ("sample", "fast_path")}
    stated = {name: signature[name] for name in ("fast_path",) if name in signature}
    try:
        manifest = json.dumps(
            {"schema": 1, "signature": described, "sample": signature.get("sample", {}), **stated},
            sort_keys=True, allow_nan=False, ensure_ascii=False, separators=(",", ":"),
        ).encode()  # fmt: skip
    except (TypeError, ValueError) as error:
        raise SpecError(f"The model's signature must be JSON: {error}.") from error
    with tempfile.TemporaryDirectory(prefix="ekiben-pack-") as folder:
        built = files(unpack(template, sha256 or archive.sha256(template), Path(folder, "template")))
        if taken := sorted(name for name in built if name == MANIFEST or name.startswith(MODEL)):
            raise SpecError(
                f"The bento's template has {taken[0]!r}, which is the model's place. Build the template again."
            )
        members: dict[str, Content] = dict(built)
        members[MANIFEST] = manifest
        members.update({MODEL + name: path for name, path in trained.items()})
        text = built["bento.yaml"].read_bytes() if "bento.yaml" in built else b""
        if text.count(VERSION_LINE) != 1:
            raise IntegrityError("ekiben", "pack a bento", "its template is none of ours", "Build the template again")
        version = f"\nversion: {_version(members)}\n".encode()
        members["bento.yaml"] = text.replace(VERSION_LINE, version)
        return archive.write(members, into or template.parent)


def _version(members: Mapping[str, Content]) -> str:
    """A name for these contents that BentoML takes as a version: stores of BentoML keep two bentos apart by it."""
    lines = []
    for name in sorted(members):
        content = members[name]
        found = hashlib.sha256(content).hexdigest() if isinstance(content, bytes) else archive.sha256(content)
        lines.append(f"{found}  {name}\n")
    return hashlib.sha256("".join(lines).encode()).hexdigest()[:16]
