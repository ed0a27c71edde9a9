"""The wheels of a training's requirements.txt in a bucket, for clusters whose pods reach no package index.

They are fetched on this machine, with whatever index and login it has, for the Python of the training's image.
"""

from __future__ import annotations

import re
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ekiben.errors import SpecError
from ekiben.kubernetes import buckets, builds
from ekiben.kubernetes.client import Cluster

__all__ = ["LIST", "kept", "python_of", "wanted"]

# Beside the wheels, and written last: where it is, all are.
LIST = "wheels.txt"
FETCH_TIMEOUT_S = 1800.0
# The glibc of the oldest image that is meant: see `builds.GLIBC`.
NEWEST_GLIBC, OLDEST_GLIBC = 28, 5


def kept(
    cluster: Cluster,
    s3: Mapping[str, Any],
    bucket: str,
    prefix: str,
    lock: Path,
    python: str,
    stopped: threading.Event,
    timeout_s: float = 0.0,
) -> None:
    """Have the wheels of what `lock` names below the prefix, and `LIST` beside them. Repeating is safe.

    Raises ModelFailed, with the end of pip's output, where one cannot be had; Unavailable when it takes too long or `stopped` is
    set.
    """
    deadline = time.monotonic() + (timeout_s or FETCH_TIMEOUT_S)
    with tempfile.TemporaryDirectory(prefix="ekiben-wheels-") as folder:
        asked, found = Path(folder, "requirements.txt"), Path(folder, "found")
        asked.write_text("\n".join(wanted(lock.read_text("utf-8"), python)), "utf-8")
        platforms = [
            *(f"manylinux_2_{minor}_{builds.MACHINE}" for minor in range(NEWEST_GLIBC, OLDEST_GLIBC - 1, -1)),
            *(f"manylinux{year}_{builds.MACHINE}" for year in (2014, 2010, 1)),
        ]
        command = [
            builds.uv(), "tool", "run", "--quiet", "pip", "download", "--quiet", "--no-input", "--disable-pip-version-check",
            "--no-deps", "--only-binary", ":all:", "--python-version", python, "--implementation", "cp", "--dest", str(found),
            *(word for one in platforms for word in ("--platform", one)), "--requirement", str(asked),
        ]  # fmt: skip
        builds.ran(command, f"fetch the wheels of {lock.name}", stopped, deadline)
        wheels = sorted(found.glob("*.whl"))
        for wheel in wheels:
            buckets.uploaded(cluster, s3, bucket, prefix + wheel.name, str(wheel))
        told = Path(folder, LIST)
        told.write_text("".join(f"{wheel.name}\n" for wheel in wheels), "utf-8")
        buckets.uploaded(cluster, s3, bucket, prefix + LIST, str(told))


def wanted(lock: str, python: str) -> list[str]:
    """What a requirements.txt names for that Python on Linux, without markers and hashes. Raises SpecError for any other line."""
    from packaging.requirements import InvalidRequirement, Requirement

    where = {
        "python_version": python, "python_full_version": f"{python}.0", "implementation_name": "cpython", "os_name": "posix",
        "platform_python_implementation": "CPython", "platform_machine": builds.MACHINE, "platform_system": "Linux",
        "sys_platform": "linux",
    }  # fmt: skip
    found = []
    for line in re.sub(r"\\\n", " ", lock).splitlines():
        text = re.split(r"\s--hash|(?:^|\s)#", line, maxsplit=1)[0].strip()
        if not text or text.startswith("-"):
            continue
        try:
            one = Requirement(text)
        except InvalidRequirement as error:
            raise SpecError(f"A requirements.txt has the line {text!r}: {error}.") from error
        if one.marker is None or one.marker.evaluate(where):
            one.marker = None
            found.append(str(one))
    return found


def python_of(image: str) -> str:
    """The Python of an image by its name, as "3.13" of python:3.13-slim. Raises SpecError where the name says none."""
    if found := re.search(r"(?:python|py)[:-]?(3\.\d+)|:(3\.\d+)", image.rpartition("/")[2]):
        return found[1] or found[2]
    raise SpecError(
        f"The stack's config ekiben:pythonImage is {image!r}, whose name does not say its Python: with ekiben:wheels its tag has "
        "to begin with it, as in python:3.13-slim."
    )
