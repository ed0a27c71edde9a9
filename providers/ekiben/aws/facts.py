"""The facts of each part on AWS: all that the run face needs to know, and what the deploy face therefore has to write.

A fact is a name, an ARN, a URI or a size, never a secret. `Part.facts` is the dict of one of these records; what is missing or
unknown in it is a SpecError that names the key.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeVar

from ekiben.errors import SpecError
from ekiben.records import Part, Platform, Record

__all__ = [
    "EndpointFacts",
    "ExpressFacts",
    "FunctionFacts",
    "RegistryFacts",
    "ServerlessFacts",
    "StorageFacts",
    "TrainingFacts",
    "VariantsFacts",
    "facts_of",
    "tags",
]

F = TypeVar("F", bound=Record)


@dataclass(frozen=True, kw_only=True, slots=True)
class StorageFacts(Record):
    """uri: s3://BUCKET. kms_key: the customer's key, empty for S3's own."""

    region: str
    uri: str
    kms_key: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class RegistryFacts(Record):
    """uri: s3://BUCKET/registry/NAME. bus: the event bus that decisions are published on.

    model_groups: what the names of its SageMaker model package groups begin with, one group a model ("PREFIX-MODEL"); empty
    keeps no mirror. image_uri: what its packages name as their image.
    """

    region: str
    uri: str
    bus: str
    require_approval: bool = True
    model_groups: str = ""
    image_uri: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingFacts(Record):
    """spec: the TrainingSpec's JSON. role_arn: what its jobs run as. image_uri, instance_type: see `ekiben.aws.stock`.

    code_*: the bundle of its source, code: its git state; library_*: `packing.job_library()`; both archives lie in storage_uri.
    input_uris: input name -> s3:// prefix. wheels_uri: a prefix with the wheels of the source's requirements.txt, without which
    they come from an index. network_isolation: the job reaches nothing but what SageMaker brings and takes.
    """

    region: str
    storage_uri: str
    spec: dict[str, Any]
    role_arn: str
    image_uri: str
    instance_type: str
    code_uri: str
    code_sha256: str
    library_uri: str
    library_sha256: str
    code: dict[str, Any] = field(default_factory=dict)
    input_uris: dict[str, str] = field(default_factory=dict)
    wheels_uri: str = ""
    volume_gib: int = 50
    subnet_ids: list[str] = field(default_factory=list)
    security_group_ids: list[str] = field(default_factory=list)
    kms_key: str = ""
    network_isolation: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class EndpointFacts(Record):
    """An endpoint on Lambda: function is the name of an image function that runs `ekiben serve` behind Lambda's web adapter, alias
    the name of the alias that its traffic goes to. Its environment and its aliases are changed at run time, not by the program.

    model: what its spec says; template_*: its bento's template; storage_uri: where the bentos and its predictions are; url: of the
    alias; log_group: where the function logs. provisioned: instances that are always started, of what has the traffic.
    """

    region: str
    function: str
    alias: str
    model: str
    storage_uri: str
    template_uri: str
    template_sha256: str
    log_group: str
    url: str = ""
    provisioned: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class VariantsFacts(Record):
    """An endpoint on SageMaker's instances, for what Lambda cannot do: endpoint is its name, 40 characters at most. It is made by
    the first deployment, and so are its models and configurations, with the platform's tags.

    image_uri: an image whose `serve` is `ekiben serve`; role_arn: what its models run as. instances: of each variant; where
    max_instances is more, those with traffic scale up to it by `concurrency` requests at once. variables: what each model's
    environment has beside its bento. The rest as in `EndpointFacts`.
    """

    region: str
    endpoint: str
    role_arn: str
    image_uri: str
    instance_type: str
    instances: int
    model: str
    storage_uri: str
    template_uri: str
    template_sha256: str
    subnet_ids: list[str] = field(default_factory=list)
    security_group_ids: list[str] = field(default_factory=list)
    kms_key: str = ""
    network_isolation: bool = False
    variables: dict[str, str] = field(default_factory=dict)
    max_instances: int = 0
    concurrency: int = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerlessFacts(Record):
    """An endpoint on SageMaker serverless: serverless is its name, 40 characters at most. A revision is an endpoint of its own, by
    which it is tested; the one with that name has the traffic. All are made by deployments, as those of `VariantsFacts` are.

    memory_mib: 1024 to 6144, in steps of 1024. max_concurrency: requests at once, 200 at most; provisioned: those that find an
    instance started. The rest as in `VariantsFacts`.
    """

    region: str
    serverless: str
    role_arn: str
    image_uri: str
    memory_mib: int
    max_concurrency: int
    model: str
    storage_uri: str
    template_uri: str
    template_sha256: str
    variables: dict[str, str] = field(default_factory=dict)
    provisioned: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class ExpressFacts(Record):
    """An endpoint on ECS Express: service is the name of the service that has the traffic, 40 characters at most, and of the task
    definitions that are its revisions; a revision without traffic runs as a service of its own. All are made by deployments.

    cluster_arn: of the services. execution_role_arn: what starts the tasks; task_role_arn: what they run as;
    infrastructure_role_arn: what makes the load balancer. vcpu, memory_mib: of a task, see `backends.fargate`. The rest as in
    `VariantsFacts`.
    """

    region: str
    service: str
    cluster_arn: str
    execution_role_arn: str
    infrastructure_role_arn: str
    task_role_arn: str
    image_uri: str
    vcpu: float
    memory_mib: int
    min_instances: int
    max_instances: int
    timeout_s: float
    model: str
    storage_uri: str
    template_uri: str
    template_sha256: str
    log_group: str
    variables: dict[str, str] = field(default_factory=dict)
    subnet_ids: list[str] = field(default_factory=list)
    security_group_ids: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True, slots=True)
class FunctionFacts(Record):
    """function: the name of a zip function with the handler `ekiben.aws.handler.handle` and PYTHONPATH=/var/task/_ekiben.

    retries: of its event invoke configuration, 2 at most. url: where it has one. dead_letters: the URL of the queue that is the
    dead-letter queue of the function, of the rules and of the schedules that call it.

    Its environment says EKIBEN_DELIVERIES=s3://BUCKET/deliveries/NAME where it may read and write a prefix of that kind:
    there it marks the events that it has had, so that one that comes twice is handled once.
    """

    region: str
    function: str
    log_group: str
    timeout_s: int
    retries: int = 2
    url: str = ""
    dead_letters: str = ""


def facts_of(part: Part, kind: type[F]) -> F:
    """The part's facts, checked. Raises SpecError, naming the part and the key."""
    try:
        return kind.from_dict(part.facts)
    except SpecError as error:
        raise SpecError(
            f"The platform's {part.kind} {part.name!r} is not one of aws: {error} Run `ekiben up` again."
        ) from error


def tags(platform: Platform, part: Part) -> list[dict[str, str]]:
    """What everything carries that is made for a part, so that it is found again when the platform goes."""
    pairs = {"ekiben:platform": platform.project, "ekiben:stack": platform.stack, "ekiben:component": part.name}
    return [{"Key": key, "Value": value} for key, value in pairs.items()]
