"""What you ask for. Frozen, no unknown keys, every quantity with its unit in its name; checked offline, before any cloud call.

A bad value raises SpecError, which names the spec, the field, the value and the fix. What a *provider* lacks is not checked
here but against its `SUPPORT` (see `wants`): a spec is the same data on every provider.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import cronsim
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from ekiben.errors import SpecError, Unsupported
from ekiben.features import Feature, Support

__all__ = [
    "Dispensable",
    "EndpointSpec",
    "FunctionSpec",
    "Http",
    "NewData",
    "On",
    "RegistrySpec",
    "Resources",
    "Schedule",
    "Spec",
    "StorageSpec",
    "TrainingSpec",
    "Trigger",
    "check_name",
    "check_support",
    "wants",
]

NAME = re.compile(r"[a-z](?:[a-z0-9]|-(?=[a-z0-9])){1,22}[a-z0-9]", re.ASCII)


def check_name(name: str) -> str:
    """`name`, when every provider takes it: 3 to 24 of a-z, 0-9 and single dashes, a letter first, no dash last.

    The tightest provider allows 32 characters (Azure Container Apps), of which Pulumi's auto-naming takes 8.
    """
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise SpecError(
            f"The name {name!r} will not do on every provider: use 3 to 24 of a-z, 0-9 and single dashes, "
            "a letter first and no dash last."
        )
    return name


class Spec(BaseModel):
    """Base of the specs: frozen, strict about keys, one clear error for all that is wrong."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    def __init__(self, **data: Any) -> None:
        try:
            super().__init__(**data)
        except ValidationError as error:
            raise SpecError(_explain(type(self), error)) from error


class Dispensable(Spec):
    """Base of the specs of what a platform works without, where a provider lacks it: its component then makes nothing."""

    feature: ClassVar[Feature]

    provision: Literal["where-supported", "required"] = "where-supported"
    """Whether a provider that lacks it may leave it out, or fails the preview."""


Name = Annotated[str, Field(min_length=3, max_length=24, pattern=r"^[a-z](?:[a-z0-9]|-[a-z0-9])+$")]
Env = dict[Annotated[str, Field(pattern=r"^[A-Z][A-Z0-9_]*$")], Annotated[str, Field(max_length=512)]]


class Resources(Spec):
    """What one node, instance or call gets."""

    vcpu: float = Field(default=1.0, gt=0, le=192)
    """Virtual CPUs; fractions are allowed where the provider shares them."""
    memory_mib: int = Field(default=2048, ge=128, le=4_194_304)
    """Memory in MiB; going over it ends the process."""
    gpus: int = Field(default=0, ge=0, le=16)
    """GPUs."""
    gpu: str = ""
    """The GPU's neutral name (T4, L4, A100-80, H100, H200); empty takes any. Only with gpus above 0."""


class StorageSpec(Spec):
    """A bucket: private, encrypted, deleted with its contents by destroy unless `retain` is set."""

    versioning: Literal["where-supported", "required", "off"] = "where-supported"
    """Keep overwritten and deleted objects for `keep_versions_days`."""
    keep_versions_days: int = Field(default=30, ge=1, le=3650)
    """Days that overwritten and deleted objects are kept, with versioning."""
    expire_days: dict[str, Annotated[int, Field(ge=1, le=3650)]] = {}
    """Prefix -> days after which its objects are deleted."""
    kms_key: str = ""
    """The customer's key for encryption; empty takes the provider's own."""
    retain: bool = False
    """Leave the bucket and its objects when the stack is destroyed."""


class RegistrySpec(Spec):
    """A model registry: records in a storage component, with states, aliases and an audit."""

    require_approval: bool = True
    """A new version is `pending` until somebody approves it; otherwise it is approved as it is registered."""
    mirror: Literal["where-supported", "required", "off"] = "where-supported"
    """Show the versions in the provider's own model registry, too."""


class TrainingSpec(Spec):
    """A way to train a model: code, inputs, resources. Each run of it is a call at run time, not a resource."""

    source: str
    """The folder of the training code, from the project's root; `requirements.txt` in it locks what it needs."""
    entry: str = Field(default="train.py", pattern=r"^\w[\w.-]*(?:/\w[\w.-]*)*\.py$")
    """The script in `source` that is run."""
    inputs: dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")], str] = {}
    """Input name -> "storage/prefix/"; the job finds it as a folder, EKIBEN_INPUT_<NAME>."""
    params: dict[str, str | int | float | bool] = {}
    """Parameters of the job, JSON in EKIBEN_PARAMS; a run may override them."""
    arguments: bool = False
    """The script gets its parameters as `--name value`, too: so SageMaker's ModelTrainer gives them."""
    env: Env = {}
    """More environment variables. No secrets: they are recorded."""
    resources: Resources = Resources()
    """What each node gets."""
    nodes: int = Field(default=1, ge=1, le=256)
    """Machines (on `local`, groups of processes) that train together."""
    timeout_s: int = Field(default=3600, ge=1, le=2_419_200)
    """Seconds after which a run is stopped and has failed. 28 days is SageMaker's limit."""
    grace_s: int = Field(default=30, ge=0, le=120)
    """Seconds between SIGTERM and SIGKILL: the time to write a checkpoint. 120 is SageMaker's limit."""
    retries: int = Field(default=0, ge=0, le=10)
    """Times that a failed run is started again by itself. With `spot` an interruption is no failure."""
    spot: bool = False
    """The run may be interrupted, and then goes on from its last checkpoint; where capacity that may be taken away is sold for
    less, that is used. The job must write checkpoints."""
    model: str = ""
    """The name of the model it makes; empty takes the component's name."""


class EndpointSpec(Spec):
    """A serverless endpoint: revisions of a bento behind one address, scaled from zero."""

    model: str = Field(pattern=r"^[a-z][a-z0-9-]*(?:@[a-z][a-z0-9-]*|:[1-9][0-9]*)$")
    """What it serves: "name@alias" or "name:version"."""
    bento: str
    """The folder of the BentoML service, from the project's root; `requirements.txt` in it locks what it needs."""
    resources: Resources = Resources(memory_mib=1024)
    """What each instance gets."""
    min_instances: int = Field(default=0, ge=0, le=1000)
    """Instances that are always there; 0 scales to zero."""
    max_instances: int = Field(default=4, ge=1, le=1000)
    """Instances at most, over all revisions with traffic."""
    concurrency: int = Field(default=8, ge=1, le=1000)
    """Requests at once that one instance takes before another is started."""
    idle_s: int = Field(default=300, ge=1, le=86_400)
    """Seconds without a request after which an instance above the minimum is stopped."""
    max_queue: int = Field(default=256, ge=0, le=100_000)
    """Requests held while no instance has room; one more gets 503 with Retry-After."""
    hold_s: float = Field(default=30.0, gt=0, le=600)
    """Seconds that a request is held before it gets 503 with Retry-After."""
    timeout_s: float = Field(default=60.0, gt=0, le=3600)
    """Seconds that the model may take for one request."""
    max_request_bytes: int = Field(default=4_000_000, ge=1, le=1_000_000_000)
    """Bytes of a request's body; more get 413."""
    drain_s: float = Field(default=30.0, ge=0, le=3600)
    """Seconds that running requests are given when a revision is retired."""
    auth: Literal["platform", "none"] = "platform"
    """Who may call: those whom the platform knows (IAM, a token), or anybody."""
    log_predictions: float = Field(default=1.0, ge=0, le=1)
    """The share of the predictions that is logged, with request and answer: 1 is all, 0 none."""
    env: Env = {}
    """Environment variables of the service. No secrets."""

    @model_validator(mode="after")
    def _ordered(self) -> EndpointSpec:
        if self.min_instances > self.max_instances:
            raise ValueError(f"min_instances={self.min_instances} is more than max_instances={self.max_instances}")
        return self


class NewData(Spec):
    """When an object has landed, whole, in a storage component. What Ekiben itself writes there is no new data: bentos/, code/,
    deliveries/, predictions/, registry/ and runs/.
    """

    type: Literal["NewData"] = "NewData"
    storage: Name
    """The storage component."""
    prefix: str = ""
    """Only keys that start so."""
    suffix: str = ""
    """Only keys that end so."""
    settle_s: float = Field(default=2.0, ge=0.5, le=3600)
    """Seconds that a file must not have changed, where the provider can't tell that it is whole."""

    def __init__(self, storage: str, prefix: str = "", **data: Any) -> None:
        super().__init__(storage=storage, prefix=prefix, **data)


class Schedule(Spec):
    """When a cron expression of five fields fires, in an IANA time zone."""

    type: Literal["Schedule"] = "Schedule"
    cron: str
    """minute hour day-of-month month day-of-week."""
    zone: str = "UTC"
    """IANA time zone, such as Europe/Paris."""

    def __init__(self, cron: str, zone: str = "UTC", **data: Any) -> None:
        super().__init__(cron=cron, zone=zone, **data)

    @field_validator("cron")
    @classmethod
    def _expressible(cls, cron: str) -> str:
        fields = cron.split()
        if len(fields) != 5:
            raise ValueError(f"a cron expression has 5 fields (minute hour day month weekday), this has {len(fields)}")
        if re.search(r"[#LlWw?@]", re.sub(r"[A-Za-z]{3}", "", cron)):
            raise ValueError("L, W, # and ? are not understood by every provider; use numbers, names, * , - and /")
        if fields[2] != "*" and fields[4] != "*":
            raise ValueError(
                "day of month and day of week are both restricted: AWS cannot express that, and cron dialects "
                "disagree on whether it means and or or; restrict one, or use two Schedules"
            )
        try:
            from datetime import UTC, datetime

            next(iter(cronsim.CronSim(cron, datetime.now(UTC))))
        except (cronsim.CronSimError, StopIteration) as error:
            raise ValueError(f"it never fires or is no cron expression ({error or 'no such date'})") from error
        return cron

    @field_validator("zone")
    @classmethod
    def _known(cls, zone: str) -> str:
        try:
            ZoneInfo(zone)
        except (ZoneInfoNotFoundError, ValueError, OSError) as error:
            raise ValueError("it is no IANA time zone; examples: UTC, Europe/Paris, Asia/Tokyo") from error
        return zone


class Http(Spec):
    """When somebody calls the function's address."""

    type: Literal["Http"] = "Http"


class On(Spec):
    """When something else of the platform has happened."""

    type: Literal["On"] = "On"
    event: str = Field(pattern=r"^[A-Z][A-Za-z0-9]{1,62}$")
    """TrainingEnded, ModelDecided, or a name of your own."""
    source: str = ""
    """Only events of this component; empty takes all."""

    def __init__(self, event: str, source: str = "", **data: Any) -> None:
        super().__init__(event=event, source=source, **data)


Trigger = Annotated[NewData | Schedule | Http | On, Field(discriminator="type")]


class FunctionSpec(Spec):
    """An event handler: `main.py` in `source` has `handler(event, runtime)`. Delivered at least once."""

    source: str
    """The folder of the handler, from the project's root."""
    on: tuple[Trigger, ...] = ()
    """What starts it."""
    timeout_s: int = Field(default=300, ge=1, le=900)
    """Seconds that one call may take. 900 is Lambda's limit."""
    memory_mib: int = Field(default=512, ge=128, le=10_240)
    """Memory of one call in MiB. 10,240 is Lambda's limit."""
    retries: int = Field(default=2, ge=0, le=10)
    """Times that a failed delivery is tried again, with growing pauses, before it is a dead letter."""
    backoff_s: float = Field(default=5.0, gt=0, le=900)
    """Seconds before the first retry; each further pause is twice as long, an hour at most."""
    env: Env = {}
    """Environment variables. No secrets."""


def wants(spec: Spec) -> list[tuple[Feature, str]]:
    """The features that `spec` cannot do without, each with the field (and value) that asks for it."""
    found: list[tuple[Feature, str]] = []

    def need(condition: bool, feature: Feature, field: str) -> None:
        if condition:
            found.append((feature, field))

    if isinstance(spec, StorageSpec):
        need(spec.versioning == "required", Feature.VERSIONING, "versioning='required'")
        need(bool(spec.kms_key), Feature.KMS, "kms_key")
        need(bool(spec.expire_days), Feature.EXPIRY, "expire_days")
    elif isinstance(spec, RegistrySpec):
        need(spec.mirror == "required", Feature.MIRROR, "mirror='required'")
    elif isinstance(spec, TrainingSpec):
        need(spec.nodes > 1, Feature.MULTI_NODE, f"nodes={spec.nodes}")
        need(spec.resources.gpus > 0, Feature.TRAINING_GPU, f"resources.gpus={spec.resources.gpus}")
        need(spec.spot, Feature.SPOT, "spot=True")
    elif isinstance(spec, EndpointSpec):
        need(spec.min_instances == 0, Feature.SCALE_TO_ZERO, "min_instances=0")
        need(spec.resources.gpus > 0, Feature.ENDPOINT_GPU, f"resources.gpus={spec.resources.gpus}")
        need(spec.auth == "none", Feature.OPEN_ENDPOINT, "auth='none'")
    elif isinstance(spec, FunctionSpec):
        by_type = {
            "NewData": Feature.ON_NEW_DATA,
            "Schedule": Feature.ON_SCHEDULE,
            "Http": Feature.ON_HTTP,
            "On": Feature.ON_EVENT,
        }
        for i, trigger in enumerate(spec.on):
            need(True, by_type[trigger.type], f"on[{i}]={trigger.type}")
    elif isinstance(spec, Dispensable):
        need(spec.provision == "required", spec.feature, "provision='required'")
    return found


def check_support(name: str, spec: Spec, support: Support, others: tuple[Support, ...] = ()) -> None:
    """Raise Unsupported for all that `spec` asks of a provider that lacks it; `others` are named where they have it."""
    problems = []
    for feature, field in wants(spec):
        if feature not in support:
            able = [other.provider for other in others if feature in other]
            hint = f" Available on: {', '.join(able)}." if able else ""
            problems.append(f"{field}: {support.provider} lacks {feature.value}: {support.reason(feature)}.{hint}")
    for field, value, limit, unit in _limits(spec, support):
        if limit and value > limit:
            problems.append(f"{field}={value:g}: {support.provider} allows {limit:g} {unit} at most.")
    if problems:
        raise Unsupported(f"{type(spec).__name__} of {name!r}: " + " ".join(problems))


def _limits(spec: Spec, support: Support) -> list[tuple[str, float, float, str]]:
    limits = support.limits
    if isinstance(spec, TrainingSpec):
        return [("timeout_s", spec.timeout_s, limits.training_timeout_s, "s")]
    if isinstance(spec, EndpointSpec):
        return [
            ("timeout_s", spec.timeout_s, limits.endpoint_timeout_s, "s"),
            ("resources.memory_mib", spec.resources.memory_mib, limits.endpoint_memory_mib, "MiB"),
            ("max_request_bytes", spec.max_request_bytes, limits.request_bytes, "bytes"),
        ]
    if isinstance(spec, FunctionSpec):
        return [
            ("timeout_s", spec.timeout_s, limits.function_timeout_s, "s"),
            ("memory_mib", spec.memory_mib, limits.function_memory_mib, "MiB"),
            ("retries", spec.retries, limits.function_retries, "retries"),
        ]
    return []


def _explain(spec: type[Spec], error: ValidationError) -> str:
    """One line a problem: field, value, what is wrong, and for an unknown key the nearest known one."""
    import difflib

    lines = []
    for problem in error.errors(include_url=False):
        field = ".".join(str(part) for part in problem["loc"]) or "(whole)"
        if problem["type"] == "extra_forbidden":
            near = difflib.get_close_matches(str(problem["loc"][-1]), list(spec.model_fields), 1, 0.5)
            known = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(spec.model_fields)}."
            lines.append(f"{field}: there is no such field; {known}")
        elif problem["type"] == "missing":
            lines.append(f"{field}: it is required.")
        else:
            message = problem["msg"].removeprefix("Value error, ")
            value = repr(problem["input"])
            lines.append(f"{field}={value if len(value) <= 80 else value[:77] + '...'}: {message}.")
    return f"{spec.__name__}: " + " ".join(lines)
