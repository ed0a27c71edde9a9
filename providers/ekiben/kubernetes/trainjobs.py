"""A run as a TrainJob of Kubeflow's Trainer 2, where the stack's config asks for it: the Indexed Job that the run is else, in a
TrainingRuntime of its own. The Trainer makes a JobSet of it, and the JobSet that Job, so what runs in its pods is the same.

https://trainer.kubeflow.org: the fields are those that all versions from 2.0 on have.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

__all__ = ["API", "IN_JOBSET", "job_of", "of"]

API = "trainer.kubeflow.org/v1alpha1"
# What the Trainer calls the Job and the container of a node, and how it knows them.
NODE, ANCESTOR = "node", {"trainer.kubeflow.org/trainjob-ancestor-step": "trainer"}
# On the Jobs of a JobSet.
IN_JOBSET = "jobset.sigs.k8s.io/jobset-name"
# They say which submitter's it is: all else is the same for all submitters of a run.
OWN = "EKIBEN_ASK_URI"


def job_of(name: str) -> str:
    """The Job that a TrainJob comes to; its pods are found, in DNS too, by `job_of(name)-INDEX`."""
    return f"{name}-{NODE}-0"


def of(job: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(TrainingRuntime, TrainJob) that come to this Job. The runtime has to be there first."""
    spec, name = copy.deepcopy(job["spec"]), job["metadata"]["name"]
    labels = job["metadata"]["labels"]
    container = spec["template"]["spec"]["containers"][0]
    for rule in spec["podFailurePolicy"]["rules"]:
        if "onExitCodes" in rule:
            rule["onExitCodes"]["containerName"] = NODE
    own = [one for one in container["env"] if one["name"] == OWN]
    container |= {"name": NODE, "env": [one for one in container["env"] if one not in own]}
    nodes = {"name": NODE, "replicas": 1, "template": {"metadata": {"labels": {**labels, **ANCESTOR}}, "spec": spec}}
    runtime = {
        "apiVersion": API, "kind": "TrainingRuntime",
        "metadata": {"name": name, "labels": labels},
        "spec": {
            "mlPolicy": {"numNodes": spec["completions"]},
            "template": {"metadata": {"labels": labels}, "spec": {"replicatedJobs": [nodes]}},
        },
    }  # fmt: skip
    trainjob = {
        "apiVersion": API, "kind": "TrainJob", "metadata": job["metadata"],
        "spec": {
            "runtimeRef": {"apiGroup": API.partition("/")[0], "kind": "TrainingRuntime", "name": name},
            "trainer": {"numNodes": spec["completions"], "env": own},
        },
    }  # fmt: skip
    return runtime, trainjob
