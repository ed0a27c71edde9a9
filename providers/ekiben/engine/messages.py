"""Pulumi's generated messages without the rest of its SDK.

The SDK loads all of itself, the automation API and OpenTelemetry too, with any of its modules. The engine starts four language
hosts in an `up`, and waits for each of them.
"""

from __future__ import annotations

import importlib
import sys
from importlib.util import find_spec
from types import ModuleType
from typing import Any

__all__ = ["messages"]

PACKAGES = ("pulumi", "pulumi.runtime", "pulumi.runtime.proto")


def messages(*names: str) -> list[Any]:
    """Modules of `pulumi.runtime.proto`, loaded as they are where the SDK is loaded already, else in packages that are empty.

    Those are gone afterwards: who imports the SDK later gets all of it, with the same messages.
    """
    if PACKAGES[0] in sys.modules:
        return [importlib.import_module(f"{PACKAGES[-1]}.{name}") for name in names]
    found = find_spec(PACKAGES[0])
    if found is None or not found.submodule_search_locations:
        raise ModuleNotFoundError(f"There is no module {PACKAGES[0]!r}", name=PACKAGES[0])
    (folder,) = found.submodule_search_locations
    for package in PACKAGES:
        empty = ModuleType(package)
        empty.__path__ = ["/".join((folder, *package.split(".")[1:]))]
        sys.modules[package] = empty
    try:
        return [importlib.import_module(f"{PACKAGES[-1]}.{name}") for name in names]
    finally:
        for package in PACKAGES:
            del sys.modules[package]
