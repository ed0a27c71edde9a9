"""The rig of the provider `kubernetes` with runs that are TrainJobs, on a cluster with Kubeflow's Trainer in it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests.rigs import kubernetes

if TYPE_CHECKING:
    from ekiben.emulators.kubernetes.chosen import Chosen

TRAININGS = ("tiny", "brittle", "pair", "fleeting")


def make(base: type) -> Any:
    class TrainJobsRig(kubernetes.rig(base)):  # type: ignore[misc]
        def settings(self, there: Chosen) -> dict[str, object]:
            from ekiben.emulators.kubernetes import chosen

            if there.origin != "own":
                pytest.skip("no Trainer that is known: the cluster is not Ekiben's own")
            chosen.with_trainer(there, lambda line: print(line, file=sys.stderr))
            return {"ekiben:services": dict.fromkeys(TRAININGS, "trainjobs")}

    return TrainJobsRig()
