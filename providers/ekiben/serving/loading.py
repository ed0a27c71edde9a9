"""A bento's service, imported with the stand-in of BentoML in place, and the surroundings that it is imported in."""

from __future__ import annotations

import importlib
import os
import re
import sys
from contextlib import suppress
from importlib.machinery import EXTENSION_SUFFIXES, SOURCE_SUFFIXES, ExtensionFileLoader, FileFinder, SourceFileLoader
from pathlib import Path
from typing import Any

__all__ = ["about", "apply_envs", "compile_ahead", "enter", "imported"]

SCALAR = re.compile(r"^(service|name|version): *(.+?) *$", re.MULTILINE)


def about(bento: Path) -> dict[str, str]:
    """From its bento.yaml `service` (where it is), `name` and `version`; its readme, where it has one."""
    text = (bento / "bento.yaml").read_text(encoding="utf-8")
    found = {key: value.strip("'\"") for key, value in SCALAR.findall(text)}
    readme = bento / "README.md"
    return {**found, **({"readme": readme.read_text(encoding="utf-8")} if readme.is_file() else {})}


MAX_COMPILED = 64
# Of files in bentos, which never change, by their paths.
_compiled: dict[str, Any] = {}


def compile_ahead(bento: Path) -> None:
    """Compile its modules for the workers that are forked from this process: each would do it again, and write it nowhere."""
    paths = list((bento / "src").glob("*.py"))
    if all(str(path) in _compiled for path in paths):
        return
    if len(_compiled) > MAX_COMPILED:
        _compiled.clear()
    for path in paths[:MAX_COMPILED]:
        with suppress(SyntaxError, ValueError, OSError):  # the import shows it
            _compiled[str(path)] = compile(path.read_bytes(), str(path), "exec", dont_inherit=True)


class _Loader(SourceFileLoader):
    """Of a module that may have been compiled already."""

    def get_code(self, fullname: str) -> Any:
        return _compiled.get(self.path) or super().get_code(fullname)


def _finder(path: str) -> FileFinder:
    if not any(path == os.path.dirname(known) for known in _compiled):
        raise ImportError("nothing there has been compiled")
    return FileFinder(path, (ExtensionFileLoader, EXTENSION_SUFFIXES), (_Loader, SOURCE_SUFFIXES))


def enter(bento: Path) -> None:
    """Make its source the working directory and the first place of imports; nothing is written there."""
    source = str(bento / "src")
    os.chdir(source)
    sys.path.insert(0, source)
    if _compiled:
        sys.path_hooks.insert(0, _finder)
    # The tree is read-only and its digest is over what it holds.
    sys.dont_write_bytecode = True


def imported(where: str) -> Any:
    """The object at `module:attribute`. Raises what the import raises."""
    module, _, attribute = where.partition(":")
    found: Any = importlib.import_module(module)
    for part in attribute.split("."):
        found = getattr(found, part)
    return found


def apply_envs(envs: Any) -> None:
    """Set what the service declares and the environment lacks. Raises RuntimeError for one that has no value at all."""
    for each in envs:
        given = each if isinstance(each, dict) else vars(each)
        name, value = given["name"], given.get("value")
        if given.get("stage") == "build" or name in os.environ:
            continue
        if not value:
            raise RuntimeError(f"Environment variable '{name}' is required but not set.")
        os.environ[name] = str(value)
