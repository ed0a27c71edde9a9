"""A SageMaker training job: its name, what it is asked to do, and the request that makes it.

Limits are those of CreateTrainingJob: https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_CreateTrainingJob.html
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

from ekiben.aws.facts import TrainingFacts, tags
from ekiben.errors import Unsupported
from ekiben.records import Job, Part, Platform
from ekiben.runs import run_ask

__all__ = ["ask_of", "job_name", "job_scope", "request", "run_key", "run_of", "scope_of"]

NAME_CHARS = 63
SCOPE_CHARS = 8
INPUTS = 16
HYPERPARAMETERS, HYPERPARAMETER_CHARS = 100, 2500
MAX_RUNTIME_S = 28 * 24 * 3600
# Beside the job's own time: inputs brought, requirements installed, results taken.
AROUND_S = 1800
SPOT_WAIT_S = 24 * 3600
# SageMaker starts a job again that failed for a reason of its own.
OWN_RETRIES = 2
# What the container runs first: Ekiben's library, verified, then its supervisor. 256 characters are the most.
BOOTSTRAP = (
    'set -e;cd "${SAGEMAKER_BASE_DIR:-/opt/ml}/input/data/ekiben-library";echo "$EKIBEN_LIBRARY_SHA256  $(ls)"|sha256sum -c -;'
    "D=$(mktemp -d);tar -xf * -C $D;cd /;PYTHONPATH=$D exec python3 -m ekiben.aws.container"
)


def job_scope(platform: Platform, part: Part, facts: TrainingFacts) -> str:
    """What tells the jobs of this training from all others of the account, which keeps their names for ever.

    The storage is in it, so that an environment that was destroyed and is made again has names of its own.
    """
    return scope_of(platform.project, platform.stack, part.name, facts.storage_uri)


def scope_of(project: str, stack: str, training: str, storage_uri: str) -> str:
    """The scope of the training of this name whose runs are written to `storage_uri`."""
    whose = json.dumps([project, stack, training, storage_uri])
    return hashlib.sha256(whose.encode()).hexdigest()[:SCOPE_CHARS]


def job_name(run: str, scope: str) -> str:
    """The job of a run: "RUN-SCOPE"; of a long run id the beginning and a digest. The same for the same run."""
    room = NAME_CHARS - len(scope) - 1
    if len(run) > room:
        digest = hashlib.sha256(run.encode()).hexdigest()[:12]
        run = f"{run[: room - 13].rstrip('-')}-{digest}"
    return f"{run}-{scope}"


def run_key(training: str, run: str, rest: str = "") -> str:
    """The key in storage of what belongs to a run."""
    return f"runs/{training}/{run}/{rest}"


def run_of(job: Mapping[str, Any]) -> str:
    """The id of the run that a job, as describe_training_job tells it, was made for: it is in the place of its results."""
    return str(job["OutputDataConfig"]["S3OutputPath"]).rpartition("/")[2]


def ask_of(part: Part, facts: TrainingFacts, job: Job, *, by: str, at: str) -> dict[str, Any]:
    """All that the container has to know. Raises SpecError for a bad job, Unsupported for what SageMaker cannot do."""
    spec = facts.spec
    ask = run_ask("aws", part.name, facts, job, by=by, at=at)
    if len(ask["inputs"]) > INPUTS:
        raise Unsupported(f"The training {part.name!r} has {len(ask['inputs'])} inputs: aws takes {INPUTS} at most.")
    if spec["nodes"] > 1 and spec["retries"]:
        raise Unsupported(
            f"The training {part.name!r} has nodes={spec['nodes']} and retries={spec['retries']}: aws ends all nodes when one "
            "fails, and starts none of them again. Set retries=0 and submit it again, or train on one node."
        )
    return ask


def request(
    platform: Platform, part: Part, facts: TrainingFacts, job: Job, ask: Mapping[str, Any], ask_uri: str
) -> dict[str, Any]:
    """The arguments of create_training_job for the job whose ask lies at `ask_uri`."""
    run_uri = f"{facts.storage_uri.rstrip('/')}/{run_key(part.name, job.id).rstrip('/')}"
    channels = {
        "ekiben-ask": ask_uri,
        "ekiben-code": facts.code_uri,
        "ekiben-library": facts.library_uri,
        **({"ekiben-wheels": facts.wheels_uri} if facts.wheels_uri else {}),
        **ask["inputs"],
    }
    runtime_s = min(MAX_RUNTIME_S, (ask["timeout_s"] + ask["grace_s"]) * (ask["retries"] + 1) + AROUND_S)
    stop: dict[str, int] = {"MaxRuntimeInSeconds": runtime_s}
    if ask["spot"]:
        stop["MaxWaitTimeInSeconds"] = min(MAX_RUNTIME_S, runtime_s + SPOT_WAIT_S)
    made: dict[str, Any] = {
        "TrainingJobName": job_name(job.id, job_scope(platform, part, facts)),
        "AlgorithmSpecification": {
            "TrainingImage": facts.image_uri,
            "TrainingInputMode": "File",
            "ContainerEntrypoint": ["/bin/sh", "-c"],
            "ContainerArguments": [BOOTSTRAP],
        },
        "RoleArn": facts.role_arn,
        "Environment": {"EKIBEN_LIBRARY_SHA256": facts.library_sha256},
        "InputDataConfig": [_channel(name, uri) for name, uri in channels.items()],
        "OutputDataConfig": {"S3OutputPath": run_uri, "CompressionType": "NONE", **_key("KmsKeyId", facts.kms_key)},
        "CheckpointConfig": {"S3Uri": run_uri},
        "ResourceConfig": {
            "InstanceType": facts.instance_type,
            "InstanceCount": ask["nodes"],
            "VolumeSizeInGB": facts.volume_gib,
            **_key("VolumeKmsKeyId", "" if _own_disk(facts.instance_type) else facts.kms_key),
        },
        "StoppingCondition": stop,
        "EnableManagedSpotTraining": ask["spot"],
        "EnableNetworkIsolation": facts.network_isolation,
        "EnableInterContainerTrafficEncryption": ask["nodes"] > 1,
        "RetryStrategy": {"MaximumRetryAttempts": OWN_RETRIES},
        "Tags": tags(platform, part),
    }
    if shown := _shown(ask["params"]):
        made["HyperParameters"] = shown
    if facts.subnet_ids:
        made["VpcConfig"] = {"Subnets": facts.subnet_ids, "SecurityGroupIds": facts.security_group_ids}
    return made


def _channel(name: str, uri: str) -> dict[str, Any]:
    source = {"S3DataType": "S3Prefix", "S3Uri": uri, "S3DataDistributionType": "FullyReplicated"}
    return {"ChannelName": name, "DataSource": {"S3DataSource": source}, "InputMode": "File"}


def _shown(params: Mapping[str, Any]) -> dict[str, str]:
    """The parameters as the console shows them; the job reads them from its ask, which has no such limits."""
    texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in params.items()}
    fit = {name: text for name, text in texts.items() if len(text) <= HYPERPARAMETER_CHARS and "\n" not in text}
    return dict(list(fit.items())[:HYPERPARAMETERS])


def _own_disk(instance_type: str) -> bool:
    """Has this type a disk of its own, which is encrypted by itself and takes no key? All with GPUs have."""
    return re.match(r"ml\.[gp]\d", instance_type) is not None


def _key(name: str, kms_key: str) -> dict[str, str]:
    return {name: kms_key} if kms_key else {}
