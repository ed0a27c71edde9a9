"""The code that a run was."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

__all__ = ["git_state"]

TIMEOUT_S = 20


def git_state(folder: Path) -> dict[str, Any]:
    """{"commit": hex, "dirty": bool}. dirty: the folder is not as the commit has it, files that git does not know included.

    Where git cannot tell (no git, no repository, no commit) commit is empty and dirty is true. Changes nothing, not even
    git's index.
    """
    commit = _git(folder, "rev-parse", "--verify", "--quiet", "HEAD^{commit}")
    if not commit:
        return {"commit": "", "dirty": True}
    changes = _git(folder, "status", "--porcelain", "--untracked-files=normal", "--", ".")
    return {"commit": commit.strip(), "dirty": changes != ""}


def _git(folder: Path, *arguments: str) -> str | None:
    """What git prints, None when it fails. The caller's GIT_DIR (set inside a hook) is not this folder's."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = ["git", "-c", "core.fsmonitor=false", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(
            command, env={**env, "GIT_OPTIONAL_LOCKS": "0"}, stdin=subprocess.DEVNULL, capture_output=True,
            timeout=TIMEOUT_S, check=False, encoding="utf-8", errors="replace",
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
