"""new: a project of one's own, of the same shape as the one that Ekiben is tested with, and made of the same files."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import tomllib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Annotated

import typer

from ekiben import __version__
from ekiben.cli import options, show
from ekiben.errors import AlreadyExists, NotFound, ProviderError, SpecError

__all__ = ["register", "template", "write"]

PACKAGE = Path(__file__).resolve().parents[1]
INSIDE = "ekiben/template"
CACHE = re.compile(r"__pycache__|\..+_cache")
# File -> what stands there for the example, or for any project, and what for this one.
NAMED = {
    "Pulumi.yaml": [("name: ekiben\n", "name: {name}\n")],
    "README.md": [("# new-project\n", "# {name}\n")],
    "pyproject.toml": [('name = "new-project"\n', 'name = "{name}"\n'), ("==0.0.0", "=={version}")],
}


def register(app: typer.Typer) -> None:
    app.command()(new)


def new(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The project's name, and the folder's.")],
    json: options.Json = False,
) -> None:
    """Write a project of your own that works as it stands, with tests and CI.

    \b
    Examples:
      ekiben new shop && cd shop && make demo
    """
    from ekiben.specs import check_name

    folder = Path.cwd() / check_name(name)
    files = write(folder)
    if json:
        show.to_json({"folder": str(folder), "files": files})
        return
    show.say(f"{name}: {len(files)} files. What to type next:")
    show.line(f"cd {name} && make test")
    show.line("make demo")


def write(folder: Path) -> list[str]:
    """Write a project called as `folder` there; the names of its files.

    All of it or nothing: it is made beside, and moved. Raises SpecError for the name of a package that it needs, AlreadyExists when
    the folder is there and not empty, ProviderError when it cannot be written.
    """
    name, doing = folder.name, f"write the project {folder.name!r}"
    files = template()
    if name in _dependencies(files["pyproject.toml"]):
        raise SpecError(f"The name {name!r} is that of a package which the project needs. Choose another one.")
    making = folder.with_name(f".{name}-{secrets.token_hex(4)}")
    try:
        if folder.is_symlink() or (folder.exists() and (not folder.is_dir() or any(folder.iterdir()))):
            raise AlreadyExists("ekiben", doing, f"{folder} is there, and not an empty folder", "Choose another name")
        for path, source in files.items():
            target = making / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(_named(path, source.read_bytes(), name))
        making.rename(folder)
    except OSError as error:
        raise ProviderError(
            "ekiben", doing, f"{error.filename or folder}: {error.strerror}", "Write it elsewhere"
        ) from error
    finally:
        shutil.rmtree(making, ignore_errors=True)
    return list(files)


def template() -> dict[str, Path]:
    """The files of a new project: path in it -> where its text is. In a wheel they lie beside us; in a checkout they are its own.

    Raises NotFound when neither is there.
    """
    beside = PACKAGE / "template"
    if beside.is_dir():
        sources = {".": beside}
    else:
        root = PACKAGE.parents[1]
        try:
            built = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["tool"]["hatch"]["build"]["targets"][
                "wheel"
            ]
            sources = {
                str(PurePosixPath(target).relative_to(INSIDE)): root / source
                for source, target in built["force-include"].items()
            }
        except (OSError, KeyError) as error:
            raise NotFound(
                "ekiben", "find what a new project is made of", f"{beside} is missing", "Install ekiben again"
            ) from error
    found = {path: file for place, source in sources.items() for path, file in _files(place, source)}
    return dict(sorted(found.items()))


def _files(place: str, source: Path) -> Iterator[tuple[str, Path]]:
    if source.is_file():
        yield place, source
        return
    for folder, folders, names in os.walk(source):
        folders[:] = [each for each in folders if not CACHE.fullmatch(each)]
        for file in (Path(folder, name) for name in names):
            yield PurePosixPath(place, file.relative_to(source).as_posix()).as_posix(), file


def _named(path: str, text: bytes, name: str) -> bytes:
    for before, after in NAMED.get(path, ()):
        text = text.replace(before.encode(), after.format(name=name, version=__version__).encode())
    return text


def _dependencies(pyproject: Path) -> set[str]:
    """The names of the packages that the new project asks for."""
    said = tomllib.loads(pyproject.read_text("utf-8"))
    return {
        re.split(r"[^a-z0-9-]", each)[0]
        for each in [*said["project"]["dependencies"], *said["dependency-groups"]["dev"]]
    }
