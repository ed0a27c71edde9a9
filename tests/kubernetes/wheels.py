"""Wheels of what is installed here, for pods that reach no index."""

from __future__ import annotations

import csv
import io
import zipfile
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path

__all__ = ["packed"]


def packed(names: Iterable[str], folder: Path) -> Iterator[tuple[str, Path]]:
    """Requirement -> a wheel with the installed files of a package, without its scripts and tests: https://packaging.python.org/specifications/."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        found = metadata.distribution(name)
        told = (found.read_text("WHEEL") or "").splitlines()
        tags = [line.partition(": ")[2] for line in told if line.startswith("Tag: ")]
        about = next(file.parts[0] for file in found.files or () if file.parts[0].endswith(".dist-info"))
        inside = [
            file
            for file in found.files or ()
            if not {"..", "tests"} & {*file.parts}
            and file.suffix != ".pyc"
            and file.name not in ("RECORD", "INSTALLER", "REQUESTED")
        ]
        record = io.StringIO()
        csv.writer(record).writerows([*((file.as_posix(), "", "") for file in inside), (f"{about}/RECORD", "", "")])
        wheel = folder / f"{about.removesuffix('.dist-info')}-{tags[-1]}.whl"
        with zipfile.ZipFile(wheel, "w") as made:
            for file in inside:
                made.write(str(file.locate()), file.as_posix())
            made.writestr(f"{about}/RECORD", record.getvalue())
        yield f"{found.metadata['Name']}=={found.version}", wheel
