"""The SageMaker SDK, in an environment of its own."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.environments import python_of

__all__ = ["ask", "python"]

HERE = Path(__file__).parent
TIMEOUT_S = 240.0


def python() -> Path:
    """An interpreter that has the SDK. The environment is made on first use, beside those of bentos: some 300 MB."""
    return python_of(HERE)


def ask(question: Mapping[str, Any], environ: Mapping[str, str]) -> Any:
    """What `answers.py` says there."""
    env = {
        "PATH": os.environ["PATH"],
        "HOME": os.environ["HOME"],
        "SAGEMAKER_ADMIN_CONFIG_OVERRIDE": "/nowhere",
        **environ,
    }
    done = subprocess.run(
        [str(python()), "-I", str(HERE / "answers.py")], input=json.dumps(question), env=env, capture_output=True, text=True,
        timeout=TIMEOUT_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.rpartition("ANSWER ")[2])
