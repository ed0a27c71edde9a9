"""An image of the MLflow server in a cluster's registry, for where its project's own cannot be had."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping

from ekiben.kubernetes.builds import built
from ekiben.packing.flat import DESCRIPTION, LOCK, OWN_LOCK, SITE, USER
from ekiben.packing.image import written
from tests.mlflow_server import HERE

__all__ = ["of_cluster"]


def of_cluster(config: Mapping[str, str]) -> str:
    """Its name, as nodes pull it. `config`: what a stack's says on the cluster (`Chosen.config`).

    It is made as environment images are, of the cluster's Python and what the lock pins, and found again by the digest of both.
    Raises as `ekiben.kubernetes.builds.built` does.
    """
    base = config["ekiben:pythonImage"]
    told = {
        "base": base, "python": base.rpartition(":")[2], "variables": {"PYTHONPATH": SITE}, "user": f"{USER}:{USER}",
        "entrypoint": [], "command": ["mlflow"], "port": 5000,
    }  # fmt: skip
    files = {
        DESCRIPTION: json.dumps(told, sort_keys=True).encode(),
        LOCK: (HERE / "requirements.txt").read_bytes(),
        OWN_LOCK: b"",
        "ekiben/__init__.py": b"",  # what a bento's server would be: it changes with each commit, and is not needed
    }
    context = written(files)
    repository = f"{config['ekiben:registry']}/mlflow"
    return built(repository, context.sha256, str(context.path), stopped=threading.Event())
