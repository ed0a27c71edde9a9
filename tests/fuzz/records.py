"""Files that come from elsewhere: records as JSON, and archives of bentos and code, with a digest that is right.

An input is the name of a record, a line end and its text; or `archive` and the bytes of a tar.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import re
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Hashable
from pathlib import Path

from .findings import Check, Violation

__all__ = ["WORDS", "opened"]


def _tar(name: str, *, kind: bytes = tarfile.REGTYPE, link: str = "", size: int = 3) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        info = tarfile.TarInfo(name)
        info.type, info.linkname, info.size = kind, link, size if kind == tarfile.REGTYPE else 0
        archive.addfile(info, io.BytesIO(b"abc"))
    return buffer.getvalue()


WORDS = [
    b"archive\n", b'{"id": "a", "type": "NewData", "source": "data"}', b'"data": {', b'"schema": 1', b'"parts": {', b"[]",
    b"{}", b"null",
    b"1e999", b"NaN", b"../", b"/etc/passwd", b"a/../../b", b"\x00" * 512, b"ustar\x0000", b"ustar  \x00", b"0000644\x00",
    _tar("../up"), _tar("/absolute"), _tar("link", kind=tarfile.SYMTYPE, link="/etc"),
    _tar("hard", kind=tarfile.LNKTYPE, link="../x"),
    _tar("device", kind=tarfile.CHRTYPE), _tar("folder/", kind=tarfile.DIRTYPE), _tar("b"), _tar("n" * 300), _tar("ü/\n"),
]  # fmt: skip
WORDY = re.compile(r"[a-zA-Z ,.]*")


def opened() -> Check:
    from ekiben import packing, records
    from ekiben.errors import EkibenError

    kinds: dict[bytes, Callable[[bytes], object]] = {
        name.encode(): getattr(records, name).from_json
        for name in records.__all__
        if isinstance(getattr(records, name), type) and dataclasses.is_dataclass(getattr(records, name))
    }
    root = Path(tempfile.mkdtemp(prefix="fuzz-"))

    def unpacked(data: bytes) -> Hashable:
        tar, target = root / "a.tar", root / "in" / "a"
        tar.write_bytes(data)
        try:
            packing.unpack(tar, hashlib.sha256(data).hexdigest(), target)
        except EkibenError as error:
            return type(error).__name__, WORDY.match(str(error).rpartition(": ")[2])[0]  # type: ignore[index]
        finally:
            found = sorted(path for path in root.rglob("*"))
            outside = [path for path in found if not path.is_relative_to(target) and path not in (tar, target.parent)]
            wrong = [path for path in found if path.is_symlink() or not (path.is_file() or path.is_dir())]
            if target.exists():
                packing.remove(target)
            shutil.rmtree(target.parent, ignore_errors=True)
            if outside or wrong:
                for path in outside:
                    path.unlink(missing_ok=True) if not path.is_dir() else shutil.rmtree(path, ignore_errors=True)
                raise Violation("an archive leaves something beside its folder, or no file in it")
        return "unpacked", len(found)

    def check(data: bytes) -> Hashable:
        name, _, text = data.partition(b"\n")
        if name == b"archive":
            return unpacked(text)
        name = name if name in kinds else sorted(kinds)[len(name) % len(kinds)]
        read = kinds[name]
        try:
            record = read(text)
        except EkibenError as error:
            return name, WORDY.match(str(error).partition(" ")[2])[0][:40]  # type: ignore[index]
        if read(record.to_json().encode()) != record:  # type: ignore[attr-defined]
            raise Violation("a record is not what it is written as")
        return name, "read"

    return check
