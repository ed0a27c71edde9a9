"""Plugins of pydantic, which it looks for in the metadata of every installed package before it makes its first model."""

from __future__ import annotations

import glob
import os
import sys
from contextlib import suppress

__all__ = ["spare_plugin_search"]

SWITCH = "PYDANTIC_DISABLE_PLUGINS"


def spare_plugin_search() -> None:
    """Where no installed package has one, tell pydantic so: reading the files as bytes takes a tenth of what its search takes."""
    if SWITCH in os.environ:
        return
    for folder in {entry for entry in sys.path if os.path.isdir(entry)}:
        for path in glob.iglob(os.path.join(glob.escape(folder), "*-info", "entry_points.txt")):
            with suppress(OSError), open(path, "rb") as file:
                if b"[pydantic]" in file.read():
                    return
    os.environ[SWITCH] = "1"
