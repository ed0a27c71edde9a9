"""Packing: from source to content-addressed archives, the same bytes everywhere. Names are loaded on first use.

archive and assemble (standard library only) travel into functions; source and bento run where a platform is deployed.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ekiben.packing.archive import Bundle, files, remove, sha256, unpack, verify
    from ekiben.packing.assemble import pack
    from ekiben.packing.bento import template
    from ekiben.packing.flat import flat_image
    from ekiben.packing.image import environment_image
    from ekiben.packing.source import bundle, function_bundle, job_library
    from ekiben.packing.wheels import vendored
    from ekiben.packing.zipped import zipped

__all__ = [
    "Bundle",
    "bundle",
    "environment_image",
    "files",
    "flat_image",
    "function_bundle",
    "job_library",
    "pack",
    "remove",
    "sha256",
    "template",
    "unpack",
    "vendored",
    "verify",
    "zipped",
]

_HOME = {
    "Bundle": "archive",
    "bundle": "source",
    "environment_image": "image",
    "files": "archive",
    "flat_image": "flat",
    "function_bundle": "source",
    "job_library": "source",
    "pack": "assemble",
    "remove": "archive",
    "sha256": "archive",
    "template": "bento",
    "unpack": "archive",
    "vendored": "wheels",
    "verify": "archive",
    "zipped": "zipped",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'ekiben.packing' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"ekiben.packing.{_HOME[name]}"), name)
    globals()[name] = value
    return value
