"""What of a run is finished: parts in a hidden folder beside the output, bound to what they were made from.

    .power.parquet.part/binding.json           digests of the input and the model, and the options: another run is refused
    .power.parquet.part/parts/<from>-<to>.arrow    predictions for these rows, and their errors; each is written whole or not at all
    .power.parquet.part/staged                 the output while it is being written, where the output is a local file

The same command goes on after the last part. Batches begin at the same rows as without an interruption, and the output is written
from the parts in blocks of a fixed size: its bytes are the same.
"""

from __future__ import annotations

import fcntl
import filecmp
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from ekiben.errors import AlreadyExists, NotFound, SpecError
from ekiben.storage import Storage, open_storage

__all__ = ["Journal", "Part"]

BINDING = "binding.json"


class Part(NamedTuple):
    """Finished rows: those with numbers in (start, end]. `table`: their predictions, None without any; `errors`: rows that failed;
    `seen`: a digest of all the input up to `end`, where the source has none of its own."""

    start: int
    end: int
    table: Any
    errors: list[dict[str, Any]]
    seen: str = ""


class Journal:
    """The parts of the run that writes `output`, a local path or a URI."""

    def __init__(self, output: Path | str) -> None:
        self._output = output
        self._lock: Any = None
        if isinstance(output, Path):
            self._work = output.with_name(f".{output.name}.part")
            self.staging = self._work
            self.errors_place: Path | str = output.with_name(f"{output.name}.errors.jsonl")
        else:
            parent, _, name = output.rpartition("/")
            if not name or parent.endswith("/"):
                raise SpecError(
                    f"The output {output!r} names no object: write {output.rstrip('/')}/predictions.parquet."
                )
            self._home, self._name = open_storage(parent), name
            self._private = tempfile.TemporaryDirectory(prefix="ekiben-batch-")
            self.staging = Path(self._private.name)
            self.errors_place = f"{output}.errors.jsonl"

    def begin(self, binding: Mapping[str, Any], *, restart: bool, overwrite: bool) -> list[str]:
        """Take hold of the output; the keys of the finished parts, from the first row on without a gap.

        Raises SpecError when another run was begun there, or is at work, or when the output exists and may not be written over.
        """
        if isinstance(self._output, Path):
            if not self._output.parent.is_dir():
                raise NotFound("ekiben", f"write {str(self._output)!r}", "its folder does not exist", "Make it")
            self._work.mkdir(exist_ok=True)
            self._lock = open(self._work / "lock", "w")  # noqa: SIM115
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise SpecError(f"Another run is writing {self._output} at this moment. Wait for it.") from None
            self._store, self._prefix = open_storage(self._work.as_uri()), ""
        else:
            self._store, self._prefix = self._home, f".{self._name}.part/"
        if restart:
            self._clear()
        text = json.dumps(binding, sort_keys=True, ensure_ascii=False, indent=1).encode()
        try:
            before = self._store.get(self._prefix + BINDING)
        except NotFound:
            if not overwrite and self._exists():
                self._forget()
                raise SpecError(f"{self._output} is there already. Write over it with --overwrite.") from None
            self._store.put(self._prefix + BINDING, text)
            return []
        if before != text:
            raise SpecError(
                f"A run that was begun for {self._output} cannot go on: {_difference(json.loads(before), dict(binding))}. "
                "Begin again with --restart, or write to another place."
            )
        parts, at = [], 0
        for found in self._store.list(f"{self._prefix}parts/"):
            start, _, end = found.key.rpartition("/")[2].removesuffix(".arrow").partition("-")
            if int(start) == at:
                parts.append(found.key)
                at = int(end)
        return parts

    def load(self, key: str) -> Part:
        import pyarrow as pa

        with pa.ipc.open_file(pa.py_buffer(self._store.get(key))) as reader:
            table = reader.read_all()
        about = json.loads(table.schema.metadata[b"ekiben"])
        bare = table.replace_schema_metadata(None)
        return Part(about["start"], about["end"], bare if about["rows"] else None, about["errors"], about["seen"])

    def save(self, part: Part) -> None:
        """Keep a part, whole or not at all."""
        import pyarrow as pa

        table = pa.table({}) if part.table is None else part.table
        about = {"start": part.start, "end": part.end, "rows": table.num_rows, "errors": part.errors, "seen": part.seen}
        schema = table.schema.with_metadata({"ekiben": json.dumps(about, default=str)})
        out = pa.BufferOutputStream()
        with pa.ipc.new_file(out, schema) as writer:
            writer.write_table(table.cast(schema))
        self._store.put(f"{self._prefix}parts/{part.start:015d}-{part.end:015d}.arrow", out.getvalue().to_pybytes())

    def deliver(self, staged: Path, errors: Path | None, *, overwrite: bool) -> None:
        """Put the finished file in its place, and the errors beside it; then forget the parts. Repeating is safe.

        Raises AlreadyExists when something else has come to be there in the meantime.
        """
        if isinstance(self._output, Path):
            beside = Path(self.errors_place)
            if errors is not None:
                os.replace(errors, beside)
            else:
                beside.unlink(missing_ok=True)
            self._place(staged, self._output, overwrite)
        else:
            if errors is not None:
                self._home.put(f"{self._name}.errors.jsonl", errors)
            else:
                self._home.delete(f"{self._name}.errors.jsonl")
            self._home.put(self._name, staged)
        self._clear()
        self._forget()

    def _place(self, staged: Path, output: Path, overwrite: bool) -> None:
        if not overwrite and output.exists() and not filecmp.cmp(staged, output, shallow=False):
            raise AlreadyExists(
                "ekiben", f"write {str(output)!r}", "another file has come to be there", "Repeat with --overwrite"
            )
        os.replace(staged, output)

    def close(self) -> None:
        """Let go of the output; the parts stay for the next run."""
        if self._lock is not None:
            self._lock.close()
        if not isinstance(self._output, Path):
            self._private.cleanup()

    def _exists(self) -> bool:
        if isinstance(self._output, Path):
            return self._output.exists()
        try:
            self._home.head(self._name)
        except NotFound:
            return False
        return True

    def _clear(self) -> None:
        # The binding goes last: without it parts would be nobody's.
        store: Storage = self._store
        for found in list(store.list(f"{self._prefix}parts/")):
            store.delete(found.key)
        store.delete(self._prefix + BINDING)

    def _forget(self) -> None:
        if isinstance(self._output, Path):
            with suppress(OSError):
                shutil.rmtree(self._work)


def _difference(before: dict[str, Any], now: dict[str, Any]) -> str:
    """In words, what of two bindings is not the same."""
    if before.get("input") != now["input"]:
        old = {f["uri"]: f["digest"] for f in before.get("input", {}).get("files", [])}
        new = {f["uri"]: f["digest"] for f in now["input"].get("files", [])}
        changed = sorted(uri for uri in old.keys() & new.keys() if old[uri] != new[uri])
        if changed:
            return f"the input {changed[0]} has changed since"
        if gone := sorted(old.keys() - new.keys()):
            return f"its input was another one, with {gone[0]}"
        if come := sorted(new.keys() - old.keys()):
            return f"the input has {come[0]} now, which it had not"
        return "its input was another one"
    if before.get("model") != now["model"]:
        was, this = before.get("model", {}), now["model"]
        return (
            f"it was of {was.get('ref')} ({str(was.get('digest'))[:12]}), this is {this['ref']} ({this['digest'][:12]})"
        )
    names = sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
    return f"it had other options ({', '.join(names)})"
