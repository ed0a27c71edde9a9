"""Fetch the example's data: US Census ACS employment, Massachusetts, 2015 to 2018 (see DATA.md), into a cache folder.

    python training_jobs/employment/fetch.py            prints the folder that holds the three Parquet files

They lie in the wheel of nannyml 0.13.1, which pip downloads and nothing installs. Wheel and files are checked against the SHA-256
below. What is there and right is kept; a half-done download is never seen, because the folder is renamed into place at the end.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "nannyml==0.13.1"
WHEEL_SHA256 = "cf5f4a33489834ae6773cb1baa33a0f98c0a3ee6ed9b43049478b25ce22fe869"
FILES = {
    "employment_MA_reference.pq": "21d0e33655666071bde9ed21bf35b24fe14c1476e3dd37a5194b827ad5a570e4",
    "employment_MA_analysis.pq": "591328bcf7e46139660f2cc6b1705a6f2f66edf2418ce2a893cf2892be3f66a7",
    "employment_MA_analysis_target.pq": "c306840f0c092bda7608a09e61e7e715ac2b7fb2d17da8062900c3ecd6fdbe30",
}
TIMEOUT_S = 300


class CannotFetch(Exception):
    """The data cannot be had; the message says why and what to do."""


def cache_folder() -> Path:
    """Where fetched data is kept: $EKIBEN_DATA_CACHE, else the user's cache folder."""
    if named := os.environ.get("EKIBEN_DATA_CACHE"):
        return Path(named)
    home = {"darwin": Path.home() / "Library" / "Caches"}.get(sys.platform, Path.home() / ".cache")
    return Path(os.environ.get("XDG_CACHE_HOME") or home) / "ekiben" / "data"


def fetch(cache: Path | None = None) -> Path:
    """The folder that holds the three files, fetched if they are not there. Raises CannotFetch."""
    cache = cache or cache_folder()
    folder = cache / "census-acs-employment-ma-2015-2018"
    if all(_sha256(folder / name) == digest for name, digest in FILES.items()):
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix=".fetching-") as scratch:
        wheel = _download(Path(scratch))
        whole = Path(scratch) / "files"
        whole.mkdir()
        with zipfile.ZipFile(wheel) as archive:
            for name in FILES:
                with archive.open(f"nannyml/datasets/data/{name}") as source, (whole / name).open("wb") as target:
                    shutil.copyfileobj(source, target)
        for name, digest in FILES.items():
            _check(whole / name, digest)
        if folder.exists():
            shutil.rmtree(folder, ignore_errors=True)
        try:
            whole.rename(folder)
        except OSError:
            # Somebody else was quicker: theirs is as good, if it is right.
            for name, digest in FILES.items():
                _check(folder / name, digest)
    return folder


def _download(into: Path) -> Path:
    # It is a file of data to us: which Pythons the package would run on is no matter.
    options = ["--no-deps", "--ignore-requires-python", "--only-binary", ":all:", "--quiet"]
    command = [*_pip(), "download", PACKAGE, *options, "--dest", str(into)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)  # noqa: S603
    except subprocess.TimeoutExpired as error:
        raise CannotFetch(
            f"pip did not download {PACKAGE} within {TIMEOUT_S} s. Check the network, run it again."
        ) from error
    wheels = sorted(into.glob("*.whl"))
    if done.returncode or not wheels:
        last = (done.stderr.strip().splitlines() or ["it gave no reason"])[-1]
        raise CannotFetch(f"pip could not download {PACKAGE}: {last} Check the network or pip's index, run it again.")
    _check(wheels[0], WHEEL_SHA256)
    return wheels[0]


def _pip() -> list[str]:
    """A command that is pip: this Python's, that of the Python which this virtual environment came from, or uv's."""
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip"]
    origin = getattr(sys, "_base_executable", sys.executable)
    if subprocess.run([origin, "-m", "pip", "--version"], capture_output=True, timeout=60).returncode == 0:  # noqa: S603
        return [origin, "-m", "pip"]
    if uv := shutil.which("uv"):
        return [uv, "tool", "run", "pip"]
    raise CannotFetch("There is neither pip nor uv to download with. Install one: python -m ensurepip.")


def _check(path: Path, digest: str) -> None:
    if (found := _sha256(path)) != digest:
        raise CannotFetch(f"{path.name} is not the file it should be: SHA-256 {found or '(no file)'}, not {digest}.")


def _sha256(path: Path) -> str:
    """Of the file's bytes; empty where no file is."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return ""


if __name__ == "__main__":
    try:
        print(fetch())
    except CannotFetch as problem:
        sys.exit(str(problem))
