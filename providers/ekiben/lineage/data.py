"""The data that a run read."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["snapshot"]


def snapshot(files: Mapping[str, Path]) -> dict[str, Any]:
    """`files` (URI -> the copy that is read) by contents: {"sha256", "files": [{"uri", "sha256", "bytes"}]}, sorted by URI.

    The whole's SHA-256 is that of the lines "<sha256>  <uri>\\n", as sha256sum writes them: another file, another byte or another
    URI is another digest. Files are read in chunks.
    """
    found = []
    for uri in sorted(files):
        with files[uri].open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            found.append({"uri": uri, "sha256": digest, "bytes": file.tell()})
    manifest = "".join(f"{one['sha256']}  {one['uri']}\n" for one in found)
    return {"sha256": hashlib.sha256(manifest.encode()).hexdigest(), "files": found}
