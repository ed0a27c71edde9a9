"""What an endpoint is on: Knative Serving where the cluster has it, else Deployments. What each holds, and the rule that picks.

Limits of Knative, as it comes: https://knative.dev/docs/serving/configuration/config-defaults/ and
https://knative.dev/docs/serving/configuration/feature-flags/.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from ekiben.errors import SpecError, Unsupported

if TYPE_CHECKING:
    from ekiben.specs import EndpointSpec

__all__ = ["BACKENDS", "Backend", "choose", "lacks"]


@dataclass(frozen=True, kw_only=True)
class Backend:
    """least: instances that are always there; timeout_s: of a request, 0 is no limit; chooses: by the name of a GPU, too."""

    name: str
    title: str
    least: int = 0
    timeout_s: int = 0
    chooses: bool = True


BACKENDS: Mapping[str, Backend] = {
    one.name: one
    for one in (
        Backend(name="knative", title="Knative Serving", timeout_s=600, chooses=False),
        Backend(name="deployments", title="Deployments", least=1),
    )
}


class Lack(NamedTuple):
    """What a backend cannot hold: the field as it was asked, why not, and what it would hold."""

    asked: str
    why: str
    instead: str


def choose(name: str, spec: EndpointSpec, *, knative: bool, named: str = "") -> Backend:
    """What the endpoint `name` is on. knative: whether the cluster has it; named: what the stack's config asks for.

    Raises SpecError for a name that there is not; Unsupported, with what each lacks and the nearest that it would hold.
    """
    if named and named not in BACKENDS:
        raise SpecError(
            f"Endpoint {name!r}: there is no service {named!r} on kubernetes; there are: {', '.join(BACKENDS)}."
        )
    if named == "knative" and not knative:
        raise Unsupported(
            f"EndpointSpec of {name!r}: ekiben:services asks for Knative Serving, which the cluster lacks. Install it, or name "
            "deployments."
        )
    asked = [BACKENDS[named]] if named else [one for one in BACKENDS.values() if knative or one.name != "knative"]
    found = {one.name: list(lacks(one, spec)) for one in asked}
    for one in asked:
        if not found[one.name]:
            return one
    nearest = sorted(asked, key=lambda one: len(found[one.name]))
    told = "; ".join(f"{one.title}: " + ", ".join(f"{it.asked}: {it.why}" for it in found[one.name]) for one in nearest)
    options = " or ".join(f"{' with '.join(it.instead for it in found[one.name])} ({one.title})" for one in nearest)
    hint = "" if knative or named else " The cluster has no Knative Serving, with which it would scale to zero."
    raise Unsupported(
        f"EndpointSpec of {name!r}: nothing on this cluster holds all of it. {told}. Ask for {options}.{hint}"
    )


def lacks(backend: Backend, spec: EndpointSpec) -> Iterator[Lack]:
    """All that `spec` asks for and the backend does not hold."""
    if spec.min_instances < backend.least:
        yield Lack(
            f"min_instances={spec.min_instances}",
            "it does not scale to zero",
            f"min_instances of {backend.least} or more",
        )
    if backend.timeout_s and spec.timeout_s > backend.timeout_s:
        yield Lack(
            f"timeout_s={spec.timeout_s:g}", f"{backend.timeout_s} at most", f"timeout_s of {backend.timeout_s} or less"
        )
    if spec.resources.gpus and spec.resources.gpu and not backend.chooses:
        yield Lack(f"resources.gpu={spec.resources.gpu!r}", "it does not choose nodes by their GPU", "any GPU")
