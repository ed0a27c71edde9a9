"""put."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ekiben.cli import options, show
from ekiben.cli.platform import runtime
from ekiben.errors import SpecError

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    app.command()(put)


def put(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="What to upload.")],
    target: Annotated[
        str, typer.Argument(metavar="STORAGE/PREFIX", help="The storage component, and a prefix or a key.")
    ],
    json: options.Json = False,
    stack: options.Stack = "",
) -> None:
    """Upload files to a storage component.

    A prefix that ends in / keeps the files' names.

    \b
    Examples:
      ekiben put data.parquet lake/employment/
      ekiben put data.parquet lake/employment/2018.parquet
      ekiben put *.parquet lake/employment/ --json
    """
    name, _, prefix = target.partition("/")
    for file in files:
        if not file.is_file():
            what = "is a folder; name the files in it" if file.is_dir() else "is not there"
            raise SpecError(f"The file {str(file)!r} {what}. Nothing was uploaded.")
    folder = not prefix or prefix.endswith("/")
    if len(files) > 1 and not folder:
        raise SpecError(f"{len(files)} files cannot all become {prefix!r}: end it in / to keep their names.")
    keys = [prefix + file.name if folder else prefix for file in files]
    if doubled := sorted({key for key in keys if keys.count(key) > 1}):
        raise SpecError(f"Two files would become {doubled[0]!r}. Upload them under two prefixes.")
    storage = runtime(stack).storage(name)
    written = []
    with show.progress(f"Uploading to {name}", len(files)) as advance:
        for file, key in zip(files, keys, strict=True):
            written.append(storage.put(key, file))
            advance(1)
    if json:
        show.to_json(
            [{"key": o.key, "uri": storage.uri(o.key), "size_bytes": o.size_bytes, "etag": o.etag} for o in written]
        )
    else:
        for made in written:
            show.line(storage.uri(made.key))
