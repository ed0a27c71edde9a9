"""Which of AWS's services an endpoint is on: one table of what each holds, and the rule that picks from it.

The first row that holds all of a spec has it, unless the program names another one that does. Limits:
https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html,
https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_runtime_InvokeEndpoint.html (the length of its Body),
https://docs.aws.amazon.com/sagemaker/latest/dg/serverless-endpoints-invoke.html,
https://docs.aws.amazon.com/AmazonECS/latest/developerguide/task-cpu-memory-error.html and
https://docs.aws.amazon.com/elasticloadbalancing/latest/application/edit-load-balancer-attributes.html.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from ekiben.aws import stock
from ekiben.errors import NoCapacity, SpecError, Unsupported

if TYPE_CHECKING:
    from ekiben.specs import EndpointSpec, Resources

__all__ = ["BACKENDS", "Backend", "Lack", "Tally", "choose", "fargate", "instances", "lacks", "room", "table"]

MIB = 2**20
# vCPUs -> least memory, most memory, step, all in MiB.
FARGATE = {
    0.25: (512, 2048, 512),
    0.5: (1024, 4096, 1024),
    1: (2048, 8192, 1024),
    2: (4096, 16_384, 1024),
    4: (8192, 30_720, 1024),
    8: (16_384, 61_440, 4096),
    16: (32_768, 122_880, 8192),
}


@dataclass(frozen=True, kw_only=True)
class Backend:
    """What a service holds; 0 is no limit of its own.

    room: requests at once, of all instances. each: requests at once, of one instance. splits: revisions that share the traffic.
    idle: at least so many instances always run. iam: callers are asked who they are; open: anybody may call. private: it can be
    in a network of your own. routes: methods beside `predict` can be called. tags: a revision can have an address of its own.
    """

    name: str
    title: str
    timeout_s: int
    memory_mib: int
    least_mib: int = 128
    vcpu: int = 0
    request_bytes: int
    gpus: bool = False
    idle: int = 0
    room: int = 0
    each: int = 0
    iam: bool = True
    open: bool = False
    private: bool = True
    splits: int
    routes: bool = False
    tags: bool = False
    takes: str


class Lack(NamedTuple):
    """What a service cannot hold: the field as it was asked, why not, and what it would hold."""

    asked: str
    why: str
    instead: str


BACKENDS = (
    Backend(
        name="lambda", title="Lambda", timeout_s=900, memory_mib=10_240, vcpu=6, request_bytes=6 * MIB, each=1, open=True,
        splits=2, routes=True, tags=True, takes="seconds",
    ),
    Backend(
        name="ecs-express", title="ECS Express", timeout_s=3600, memory_mib=122_880, least_mib=512, vcpu=16, request_bytes=0,
        idle=1, iam=False, open=True, splits=1, routes=True, takes="ten minutes",
    ),
    Backend(
        name="sagemaker-instances", title="SageMaker's instances", timeout_s=60, memory_mib=0, request_bytes=6 * MIB,
        gpus=True, idle=1, splits=10, takes="minutes",
    ),
    Backend(
        name="sagemaker-serverless", title="SageMaker serverless", timeout_s=60, memory_mib=6144, least_mib=1024,
        request_bytes=4 * 10**6, room=200, each=1, private=False, splits=1, takes="minutes",
    ),
)  # fmt: skip


def choose(name: str, spec: EndpointSpec, *, named: str = "", private: bool = False) -> Backend:
    """The service that the endpoint `name` is on. `named`: the one that the program asks for; private: in a network of its own.

    Raises SpecError for a name that there is not; Unsupported, with what each service lacks and the nearest that it would hold.
    """
    known = {one.name: one for one in BACKENDS}
    if named and named not in known:
        raise SpecError(
            f"Endpoint {name!r}: there is no service {named!r} for endpoints on aws; there are: {', '.join(known)}."
        )
    asked = [known[named]] if named else BACKENDS
    found = {one.name: lacks(one, spec, private=private) for one in asked}
    for one in asked:
        if not found[one.name]:
            return one
    nearest = sorted(asked, key=lambda one: len(found[one.name]))
    told = "; ".join(f"{one.title}: {_told(found[one.name])}" for one in nearest)
    options = " or ".join(f"{_instead(found[one.name])} ({one.title})" for one in nearest)
    held = f"{known[named].title} does not hold it" if named else "no service of aws holds all of it"
    raise Unsupported(f"EndpointSpec of {name!r}: {held}. {told}. Ask for {options}.")


def lacks(backend: Backend, spec: EndpointSpec, *, private: bool = False) -> list[Lack]:
    """All that `spec` asks for and the service does not hold; empty when it holds it."""
    return list(_lacks(backend, spec, private))


def room(spec: EndpointSpec) -> int:
    """Requests at once that the spec asks room for: what its instances at most take together."""
    return spec.max_instances * spec.concurrency


def instances(backend: Backend, spec: EndpointSpec) -> Tally:
    """How many instances the service is told to have; where an instance takes one request at a time it has as many for each."""
    return Tally(max(spec.min_instances, backend.idle), room(spec) if backend.each == 1 else spec.max_instances)


class Tally(NamedTuple):
    """Instances that are always there, and at most."""

    least: int
    most: int


def fargate(resources: Resources) -> tuple[float, int]:
    """The smallest size of a Fargate task that has all this: vCPUs and MiB. Raises NoCapacity."""
    for vcpu, (least, most, step) in FARGATE.items():
        wanted = max(least, -(-resources.memory_mib // step) * step)
        if vcpu >= resources.vcpu and wanted <= most:
            return vcpu, wanted
    asked = f"{resources.vcpu:g} vCPUs and {resources.memory_mib} MiB"
    raise NoCapacity("aws", "choose the size of a task", f"Fargate has none with {asked}", "Ask for less")


def table() -> str:
    """The table in Markdown, for the docs."""
    rows = {
        "name": [f"`{one.name}`" for one in BACKENDS],
        "scales to zero": [_yes(not one.idle) for one in BACKENDS],
        "GPUs": [_yes(one.gpus) for one in BACKENDS],
        "memory": [_most(one.memory_mib, "MiB", "as its types have") for one in BACKENDS],
        "time-out": [_most(one.timeout_s, "s") for one in BACKENDS],
        "request": [_most(one.request_bytes, "bytes") for one in BACKENDS],
        "requests at once of an instance": [str(one.each or "many") for one in BACKENDS],
        "requests at once": [_most(one.room, "") for one in BACKENDS],
        "callers known to IAM": [_yes(one.iam) for one in BACKENDS],
        "anybody may call": [_yes(one.open) for one in BACKENDS],
        "in your own network": [_yes(one.private) for one in BACKENDS],
        "revisions with traffic": [str(one.splits) for one in BACKENDS],
        "routes": ["all" if one.routes else "`predict`" for one in BACKENDS],
        "tags": [_yes(one.tags) for one in BACKENDS],
        "a new revision takes": [one.takes for one in BACKENDS],
    }
    lines = ["| | " + " | ".join(one.title for one in BACKENDS) + " |", "|---" * (len(BACKENDS) + 1) + "|"]
    return "\n".join(lines + [f"| {name} | {' | '.join(cells)} |" for name, cells in rows.items()]) + "\n"


def _lacks(backend: Backend, spec: EndpointSpec, private: bool) -> Iterator[Lack]:
    resources = spec.resources
    limits = (
        ("timeout_s", spec.timeout_s, backend.timeout_s),
        ("resources.memory_mib", resources.memory_mib, backend.memory_mib),
        ("resources.vcpu", resources.vcpu, backend.vcpu),
        ("max_request_bytes", spec.max_request_bytes, backend.request_bytes),
        ("max_instances * concurrency", room(spec), backend.room),
    )
    for field, value, limit in limits:
        if limit and value > limit:
            yield Lack(f"{field}={value:g}", f"{limit:,} at most", f"{field} of {limit} or less")
    if resources.gpus and not backend.gpus:
        yield Lack(f"resources.gpus={resources.gpus}", "it has no GPUs", "no GPU")
    if spec.min_instances < backend.idle:
        yield Lack(
            f"min_instances={spec.min_instances}",
            "it does not scale to zero",
            f"min_instances of {backend.idle} or more",
        )
    if spec.auth == "platform" and not backend.iam:
        yield Lack("auth='platform'", "it does not ask IAM who calls", "auth='none'")
    if spec.auth == "none" and not backend.open:
        yield Lack("auth='none'", "only callers whom IAM knows reach it", "auth='platform'")
    if private and not backend.private:
        yield Lack("a network of its own", "it is in no network of yours", "none")
    if size := _no_size(backend, resources):
        yield size


def _no_size(backend: Backend, resources: Resources) -> Lack | None:
    """Where what is asked is within each limit, and there is no size that has all of it together."""
    within = (not backend.memory_mib or resources.memory_mib <= backend.memory_mib) and (
        not backend.vcpu or resources.vcpu <= backend.vcpu
    )
    try:
        if backend.name == "ecs-express" and within:
            fargate(resources)
        if backend.name == "sagemaker-instances":
            stock.instance(resources.vcpu, resources.memory_mib, gpus=resources.gpus, gpu=resources.gpu)
    except NoCapacity as error:
        return Lack("resources", error.why, "less of them")
    return None


def _told(found: list[Lack]) -> str:
    return ", ".join(f"{one.asked}: {one.why}" for one in found)


def _instead(found: list[Lack]) -> str:
    return " with ".join(one.instead for one in found)


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _most(value: int, unit: str, none: str = "no limit") -> str:
    return f"{value:,} {unit}".rstrip() if value else none
