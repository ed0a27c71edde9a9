"""Keys of objects: one rule for every store, the tightest of S3, GCS, Azure, local folders and object_store's paths."""

from __future__ import annotations

import re

from ekiben.errors import SpecError

__all__ = ["RESERVED", "check_key", "check_prefix", "hidden", "is_data"]

RESERVED = ".ekiben"
OWN_PREFIXES = ("bentos/", "code/", "deliveries/", "predictions/", "registry/", "runs/")
_MAX_KEY_BYTES = 1024
_MAX_SEGMENT_BYTES = 255
# Control characters, the backslash (a separator on Windows) and `|` (object_store takes "x|" for a Windows drive).
_FORBIDDEN = re.compile(r"[\x00-\x1f\x7f-\x9f\\|]")
# object_store's own staging names.
_STAGED = re.compile(r"#[0-9]+\Z")


def check_key(key: str) -> str:
    """`key`, when it names an object on every store. Raises SpecError, saying what is wrong with it."""
    if problem := _problem(key):
        raise SpecError(f"The key {key!r} will not do: {problem}.")
    return key


def check_prefix(prefix: str) -> str:
    """`prefix`, when it can begin a key: as a key, but it may be empty, or end in a slash or within a name."""
    if prefix and (problem := _problem(prefix.removesuffix("/"))):
        raise SpecError(f"The prefix {prefix!r} will not do: {problem}.")
    return prefix


def hidden(key: str) -> bool:
    """Is this path in a store not an object of ours: reserved, half written, or with a name that no key can have?"""
    return bool(_problem(key))


def is_data(key: str) -> bool:
    """Is this key's file meant to be read? Not hidden ones, nor those named as half written, nor what Ekiben itself writes:
    a run that is started by new data must not start another by its own output.
    """
    if key.startswith(OWN_PREFIXES):
        return False
    name = key.rpartition("/")[2]
    return not name.startswith(".") and not name.endswith((".tmp", ".part", "~")) and "/." not in f"/{key}"


def _problem(key: str) -> str:
    if not isinstance(key, str):
        return f"it is {type(key).__name__}, not text"
    try:
        size = len(key.encode())
    except UnicodeEncodeError:
        return "it is not valid Unicode"
    if size > _MAX_KEY_BYTES:
        return f"it has {size} bytes, and {_MAX_KEY_BYTES} is the most"
    if found := _FORBIDDEN.search(key):
        return f"it has the character {found.group()!r}, which not every store takes"
    if key.startswith("/"):
        return "it is absolute; keys are relative"
    for segment in key.split("/"):
        if not segment:
            return "it is empty" if not key else "it has an empty segment (a slash too many)"
        if segment in (".", ".."):
            return f"it climbs or stays by {segment!r}; keys name objects directly"
        if segment == RESERVED:
            return f"{RESERVED}/ is reserved"
        if _STAGED.search(segment):
            return "a name that ends in # and digits is taken for a half-written file"
        if len(segment.encode()) > _MAX_SEGMENT_BYTES:
            return f"a name between slashes has {_MAX_SEGMENT_BYTES} bytes at most"
    return ""
