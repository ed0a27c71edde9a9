"""Whether the cluster has Knative Serving: what the stack's config says, else what its API answers, once for a program; and whether
it has what else it is asked for."""

from __future__ import annotations

from ekiben.errors import EkibenError, NotFound, SpecError
from ekiben.kubernetes.client import Cluster
from ekiben.kubernetes.components.program import current

__all__ = ["has_knative", "serves"]

GROUP = "serving.knative.dev/v1"


def has_knative() -> bool:
    """Raises SpecError where the cluster cannot be asked, with what to set instead."""
    program = current()
    if program.knative is None:
        said = program.settings.knative
        program.knative = _asked(program.settings.context) if said is None else said
    return program.knative


def serves(context: str, group: str, what: str) -> bool:
    """Does the API have this group? what: what it is of. Raises what the cluster says."""
    try:
        Cluster("default", context).read(f"apis/{group}", f"ask the cluster whether it has {what}")
    except NotFound:
        return False
    return True


def _asked(context: str) -> bool:
    try:
        return serves(context, GROUP, "Knative Serving")
    except EkibenError as error:
        raise SpecError(
            f"{error} Or say whether the cluster has Knative Serving, and it is not asked: pulumi config set ekiben:knative true."
        ) from error
