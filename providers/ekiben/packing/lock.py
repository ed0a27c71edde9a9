"""The lock of a bento: a requirements.txt in which every line says one version."""

from __future__ import annotations

import re
from pathlib import Path

from ekiben.errors import SpecError

__all__ = ["LOCK", "check_lock", "requirements"]

LOCK = "requirements.txt"

PINNED = re.compile(r"[A-Za-z0-9][\w.-]*\s*(?:\[[^\]]*\])?\s*(?:===?\s*[^\s;,*]+|@\s*https://\S+#sha256=[0-9a-f]{64})")
OPTION = re.compile(
    r"(?:-i|--index-url|--extra-index-url|-f|--find-links|--no-index|--only-binary|--no-binary|--require-hashes)\b"
)
CREDENTIALS = re.compile(r"://[^/\s]*@")


def check_lock(path: Path) -> bytes:
    """The lock's bytes, when each line of it is locked and BentoML is among them.

    Raises SpecError, naming the line: not pinned, another file, or a password in a URL.
    """
    make = "Lock it with: uv pip compile --universal --generate-hashes requirements.in -o requirements.txt."
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise SpecError(f"The bento {str(path.parent)!r} has no {LOCK}, which locks what it needs. {make}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"The lock {str(path)!r} cannot be read: {error}.") from error
    names = set()
    for number, line in _lines(text):
        where = f"Line {number} of {str(path)!r}"
        if CREDENTIALS.search(line):
            raise SpecError(
                f"{where} has a password in a URL, and would carry it into every bento. Use pip's own settings."
            )
        if OPTION.match(line):
            continue
        requirement = _requirement(line)
        if not PINNED.fullmatch(requirement):
            raise SpecError(f"{where} is not locked to one version: {line!r}. {make}")
        names.add(re.split(r"[^\w.-]", requirement, maxsplit=1)[0].lower())
    if "bentoml" not in names:
        raise SpecError(f"{str(path)!r} does not lock bentoml, without which the bento cannot be served. {make}")
    return text.encode()


def requirements(text: str) -> list[str]:
    """What the lines name, without markers, hashes and options: "name==version", normalised."""
    return [
        re.sub(r"\s", "", _requirement(line)).lower().replace("_", "-")
        for _, line in _lines(text)
        if not OPTION.match(line)
    ]


def _requirement(line: str) -> str:
    """A line without its marker; in a URL a semicolon is part of it unless a space goes before."""
    return line.partition(" ;" if "@" in line else ";")[0].strip()


def _lines(text: str) -> list[tuple[int, str]]:
    """(number, line) of the logical lines: continuations joined, comments and hashes taken off, empty ones left out."""
    found = []
    start, logical = 1, ""
    for number, line in enumerate(text.splitlines(), 1):
        if not logical:
            start = number
        line = re.sub(r"(?:^|\s)#.*$", "", line).rstrip()
        logical += line.removesuffix("\\") + " "
        if line.endswith("\\"):
            continue
        logical = re.sub(r"\s--hash[=\s]\S+", " ", f" {logical}").strip()
        if logical:
            found.append((start, logical))
        logical = ""
    if logical.strip():
        found.append((start, re.sub(r"\s--hash[=\s]\S+", " ", f" {logical}").strip()))
    return found
