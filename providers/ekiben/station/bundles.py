"""Code that functions and training runs bring: a content-addressed archive in a bucket, unpacked here once, and its interpreter."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ekiben.errors import NotFound, SpecError
from ekiben.packing.archive import unpack
from ekiben.packing.fetch import path_of
from ekiben.station.environments import interpreter

__all__ = ["bucket_of", "python_for", "unpacked"]


def bucket_of(state_dir: Path, uri: str) -> tuple[Path, str]:
    """The bucket's folder, and the key or prefix in it, of a URI in one of this station's buckets. Raises SpecError for others."""
    path = path_of(uri)
    buckets = state_dir / "buckets"
    if not path.is_relative_to(buckets) or path == buckets:
        raise SpecError(
            f"The URI {uri!r} does not lie in a storage of this environment: those are below {buckets.as_uri()}."
        )
    name, *rest = path.relative_to(buckets).parts
    return buckets / name, "/".join(rest) + ("/" if rest and uri.endswith("/") else "")


def unpacked(state_dir: Path, spec: Mapping[str, Any]) -> Path:
    """The folder of the code bundle that `spec` names by code_uri and code_sha256, verified. Raises NotFound, IntegrityError."""
    digest = str(spec["code_sha256"])
    tar, into = path_of(str(spec["code_uri"])), state_dir / "code" / digest
    if not tar.is_file() and not into.is_dir():
        raise NotFound(
            "local", f"unpack the code {spec['code_uri']!r}", "there is no such file", "Mend it with `ekiben up`"
        )
    return unpack(tar, digest, into)


def python_for(bundle: Path) -> Path:
    """The interpreter that has what requirements.txt of the bundle asks for: this one where it does, else one made for it."""
    return interpreter(bundle / "requirements.txt")
