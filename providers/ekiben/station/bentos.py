"""Bentos on this machine: fetched by URI, verified, unpacked read-only at bentos/<digest>, with the environment they ask for."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

from ekiben import packing
from ekiben.errors import ModelFailed
from ekiben.packing.fetch import fetched
from ekiben.serving import plain, trees
from ekiben.station import environments

__all__ = ["Bentos", "Plan", "prepare"]


@dataclass(frozen=True)
class Plan:
    """How to run a bento: its folder, its Python, what a parent imports for it, and why it needs BentoML itself, if it does."""

    bento: Path
    python: Path
    modules: list[str]
    reason: str


class Bentos:
    """Each is checked once in the station's life, and fetched again when its files are not right."""

    def __init__(self, state_dir: Path) -> None:
        self._folder = state_dir / "bentos"
        self._plans: dict[str, asyncio.Task[Plan]] = {}

    async def plan(self, digest: str, uri: str) -> Plan:
        """Raises IntegrityError, NotFound, ModelFailed; the next call tries again then."""
        task = self._plans.get(digest)
        if task is None:
            task = self._plans[digest] = asyncio.create_task(
                asyncio.to_thread(prepare, uri, digest, self._folder / digest)
            )
        try:
            return await asyncio.shield(task)
        except Exception:
            if self._plans.get(digest) is task:
                del self._plans[digest]
            raise

    def pythons(self, digests: set[str]) -> set[Path]:
        """The interpreters of these bentos, as far as they are known."""
        plans = [self._plans[digest] for digest in digests if digest in self._plans]
        return {task.result().python for task in plans if task.done() and not task.cancelled() and not task.exception()}

    async def keep(self, digests: set[str]) -> None:
        """Remove all others."""
        for path in list(self._folder.iterdir()) if self._folder.is_dir() else []:
            if path.name not in digests and not path.name.startswith("."):
                self._plans.pop(path.name, None)
                await asyncio.to_thread(packing.remove, path)


def prepare(uri: str, digest: str, folder: Path) -> Plan:
    """The bento at `uri`, verified and unpacked in `folder`, and its Python. Raises IntegrityError, NotFound, ModelFailed."""
    fetched(uri, digest, folder)
    if not (folder / "bento.yaml").is_file():
        raise ModelFailed(f"local: cannot serve {uri}: the archive is no bento (it has no bento.yaml). Pack it again.")
    python = environments.interpreter(environments.lock_of(folder))
    source = folder / "src"
    reason = plain.reason(source)
    modules = plain.preloaded(reason, environments.modules(source))
    return Plan(folder, python, trees.preloaded(folder, modules), reason)
