"""The facts of each part on Kubernetes: all that the run face needs to know, and what the deploy face therefore has to write.

A fact is a name, a URL, a size or a pod's shape, never a secret: of a Secret it is the name. `Part.facts` is the dict of one of
these records; what is missing or unknown in it is a SpecError that names the key.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from ekiben.errors import SpecError
from ekiben.records import Part, Platform, Record

__all__ = [
    "COMPONENT",
    "MANAGED_BY",
    "OWNER",
    "OWN_MIB",
    "PORT",
    "PROJECT",
    "REVISION",
    "RUN",
    "S3",
    "STACK",
    "TOKEN",
    "TRAFFIC",
    "EndpointFacts",
    "FunctionFacts",
    "Mlflow",
    "RegistryFacts",
    "StorageFacts",
    "TrainingFacts",
    "facts_of",
    "labels",
    "namespace_name",
]

F = TypeVar("F", bound=Record)

# The labels of everything, and those of what runs and deployments make.
MANAGED_BY = "app.kubernetes.io/managed-by"
PROJECT, STACK, COMPONENT = "ekiben.dev/project", "ekiben.dev/stack", "ekiben.dev/component"
RUN, REVISION = "ekiben.dev/run", "ekiben.dev/revision"
# On the namespace: whose it is.
OWNER = "ekiben.dev/owner"
# What the supervisor of a run takes beside the job, in MiB: a job that goes over its memory is then told of by its supervisor.
OWN_MIB = 128
# Where the servers of endpoints and the handlers of functions listen, in their pods and before them.
PORT = 8080
# What callers show, in the Secret that the facts of an endpoint or a function name.
TOKEN = "token"  # noqa: S105 - the name of a field
# Of a namespace's name.
NAME_CHARS = 63
# On the pods of a plain Deployment that take part in the endpoint's traffic: "yes". The endpoint's Service selects by it.
TRAFFIC = "ekiben.dev/traffic"


@dataclass(frozen=True, kw_only=True, slots=True)
class S3(Record):
    """An S3-compatible store. url: as pods reach it; outside_url: as everybody else does.

    Without an outside_url that is `url`, too, or, where `service` ("NAME:PORT" in the namespace) runs the store, that Service's
    own address. secret: the Secret in the namespace with `access_key_id` and `secret_access_key`. A pod that has its keys as
    AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY says so with EKIBEN_S3_SECRET, the name of the Secret, and asks nobody.
    """

    url: str
    secret: str
    region: str = "us-east-1"
    outside_url: str = ""
    service: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class StorageFacts(Record):
    """uri: s3://BUCKET. context: of the kubeconfig, empty for its current one; inside a cluster that does not count."""

    namespace: str
    uri: str
    s3: S3
    context: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Mlflow(Record):
    """An MLflow server. url: where it is, empty where there is none. service: "NAME:PORT" in the namespace where the stack runs it,
    which is then asked through the API server from outside. secret: the Secret in the namespace with its `token`, or its `username`
    and `password`; empty for one that asks nobody. models: what the names of the registry's registered models begin with.
    """

    url: str = ""
    models: str = ""
    service: str = ""
    secret: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class RegistryFacts(Record):
    """uri: s3://BUCKET/registry/NAME. bus: s3://BUCKET/deliveries/_events, where events are written; one for the whole platform.

    mlflow: where its versions are shown, too.
    """

    namespace: str
    uri: str
    s3: S3
    bus: str
    require_approval: bool = True
    mlflow: Mlflow = Mlflow()
    context: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingFacts(Record):
    """spec: the TrainingSpec's JSON. pod: a PodSpec, whose first container, "job", has the image and the resources of one node; a
    run adds its command, its variables, and restartPolicy. See `pods.pod`. kind: what a run is, an Indexed Job or a TrainJob.

    code_*: the bundle of its source, code: its git state; library_*: `packing.job_library("kubernetes/...")`; both archives lie in
    storage_uri. input_uris: input name -> s3:// prefix, in the same store. wheels_uri: a prefix with the wheels of the source's
    requirements.txt, without which they come from an index. bus: as in `RegistryFacts`. elastic: nodes come when they are needed,
    so that a run which fits on none is no mistake. The pod's memory is that of the spec and `OWN_MIB` more, for its supervisor.
    """

    namespace: str
    s3: S3
    storage_uri: str
    spec: dict[str, Any]
    pod: dict[str, Any]
    code_uri: str
    code_sha256: str
    library_uri: str
    library_sha256: str
    bus: str
    code: dict[str, Any] = field(default_factory=dict)
    input_uris: dict[str, str] = field(default_factory=dict)
    wheels_uri: str = ""
    kind: Literal["Job", "TrainJob"] = "Job"
    elastic: bool = False
    context: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class EndpointFacts(Record):
    """backend: "knative": `service` is a Knative Service, which the program makes with a revision that says that there is no model
    yet (`placeholder.SOURCE`); its template and its traffic are changed at run time. "deployments": `service` is a Service that
    selects the pods with the labels COMPONENT and TRAFFIC; Deployments, and a Service and an HPA each, are made at run time.

    pod: a PodSpec whose first container, "server", listens on PORT and has all variables but those of the bento; a revision adds
    them. annotations: of a Knative revision's template. route: the HTTPRoute whose weights are changed; without one the traffic
    of Deployments goes by their numbers of pods. url: where it is called; ingress_url: where the cluster's ingress is found from
    outside, which is sent the host of `url`; without one, callers outside go through the API server. token_secret: the Secret
    whose TOKEN callers have to show, empty where anybody may call. model, storage_uri, template_*: as on the other providers.
    """

    namespace: str
    backend: Literal["knative", "deployments"]
    service: str
    pod: dict[str, Any]
    s3: S3
    storage_uri: str
    model: str
    template_uri: str
    template_sha256: str
    url: str
    min_instances: int = 0
    max_instances: int = 4
    concurrency: int = 8
    timeout_s: float = 60.0
    hold_s: float = 30.0
    drain_s: float = 30.0
    annotations: dict[str, str] = field(default_factory=dict)
    ingress_url: str = ""
    route: str = ""
    token_secret: str = ""
    context: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class FunctionFacts(Record):
    """service: the Deployment of one pod that runs `python -m ekiben.kubernetes.handler`, and the Service (port PORT) before it.

    deliveries_uri: s3://BUCKET/deliveries/NAME, which that pod alone writes and replays. bus: the events that it looks through for
    those in `on`, its triggers as in FunctionSpec; those of NewData have `uri` beside them, the storage's s3://BUCKET.
    token_secret: the Secret whose `token` callers have to show.
    """

    namespace: str
    service: str
    s3: S3
    deliveries_uri: str
    bus: str
    token_secret: str
    on: list[dict[str, Any]] = field(default_factory=list)
    timeout_s: int = 300
    memory_mib: int = 512
    retries: int = 2
    backoff_s: float = 5.0
    url: str = ""
    context: str = ""


def facts_of(part: Part, kind: type[F]) -> F:
    """The part's facts, checked. Raises SpecError, naming the part and the key."""
    try:
        return kind.from_dict(part.facts)
    except SpecError as error:
        raise SpecError(
            f"The platform's {part.kind} {part.name!r} is not one of kubernetes: {error} Run `ekiben up` again."
        ) from error


def labels(platform: Platform, part: Part, **more: str) -> dict[str, str]:
    """What everything carries that is made for a part, so that it is found again when the platform goes.

    more: `run` or `revision`, of what a run or a deployment makes.
    """
    found = {MANAGED_BY: "ekiben", PROJECT: platform.project, STACK: platform.stack, COMPONENT: part.name}
    return {**found, **{f"ekiben.dev/{name}": value for name, value in more.items()}}


def namespace_name(project: str, stack: str) -> str:
    """PROJECT-STACK, as a namespace may be called: 63 of a-z, 0-9 and dashes; what had to be changed is told apart by a digest."""
    plain = f"{project}-{stack}"
    found = re.sub(r"[^a-z0-9-]+", "-", plain.lower()).strip("-")
    if found == plain and len(found) <= NAME_CHARS:
        return found
    digest = hashlib.sha256(f"{project}\0{stack}".encode()).hexdigest()[:8]
    return f"{found[: NAME_CHARS - 9].strip('-')}-{digest}".removeprefix("-")
