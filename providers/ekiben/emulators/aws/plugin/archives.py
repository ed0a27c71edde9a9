"""Archives of a program as the bytes of a zip file: the same bytes for the same contents."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ekiben.emulators.plugins.types import SIGNATURE

__all__ = ["zipped"]

# The earliest that a zip file can say.
EPOCH = (1980, 1, 1, 0, 0, 0)


def zipped(archive: Mapping[str, Any]) -> bytes:
    """Raises ValueError for what is neither a folder, a zip file nor a set of assets."""
    path = Path(str(archive.get("path", "")))
    if "path" in archive and zipfile.is_zipfile(path):
        return path.read_bytes()
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data, mode in sorted(_entries(archive, "")):
            info = zipfile.ZipInfo(name, EPOCH)
            info.compress_type, info.external_attr = zipfile.ZIP_DEFLATED, (0o100000 | mode) << 16
            file.writestr(info, data)
    return made.getvalue()


def _entries(value: Mapping[str, Any], name: str) -> Iterator[tuple[str, bytes, int]]:
    if "text" in value:
        yield name, str(value["text"]).encode(), 0o644
    elif "assets" in value:
        for key, item in value["assets"].items():
            yield from _entries(item, f"{name}/{key}" if name else key)
    elif "path" in value:
        path = Path(str(value["path"]))
        files = sorted(one for one in path.rglob("*") if one.is_file()) if path.is_dir() else [path]
        for one in files:
            inside = one.relative_to(path).as_posix() if path.is_dir() else ""
            mode = 0o755 if one.stat().st_mode & 0o100 else 0o644
            yield "/".join(part for part in (name, inside) if part), one.read_bytes(), mode
    else:
        kept = sorted(value.keys() - {SIGNATURE, "hash"})
        raise ValueError(
            f"aws: cannot read an archive that is given by {kept}: a folder, a zip file or assets are known"
        )
