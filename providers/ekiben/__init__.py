"""Ekiben: pack a model once, run it on any platform.

The public names are loaded on first use: `import ekiben` alone imports none of its dependencies.
"""

from __future__ import annotations

import importlib
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ekiben.components import (
        Provider as Provider,
        export as export,
        provider as provider,
    )
    from ekiben.errors import (
        AccessDenied as AccessDenied,
        AlreadyExists as AlreadyExists,
        EkibenError as EkibenError,
        FunctionFailed as FunctionFailed,
        IntegrityError as IntegrityError,
        MissingDependency as MissingDependency,
        ModelFailed as ModelFailed,
        NoCapacity as NoCapacity,
        NotFound as NotFound,
        PreconditionFailed as PreconditionFailed,
        ProviderError as ProviderError,
        SpecError as SpecError,
        TrainingFailed as TrainingFailed,
        Unavailable as Unavailable,
        Unsupported as Unsupported,
        WorkloadError as WorkloadError,
    )
    from ekiben.features import (
        Feature as Feature,
        Limits as Limits,
        Support as Support,
    )
    from ekiben.monitoring import (
        BudgetSpec as BudgetSpec,
        MonitorSpec as MonitorSpec,
    )
    from ekiben.records import (
        Decision as Decision,
        Event as Event,
        Job as Job,
        LoggedPrediction as LoggedPrediction,
        ModelVersion as ModelVersion,
        Part as Part,
        Platform as Platform,
        Prediction as Prediction,
        Revision as Revision,
        RevisionMetrics as RevisionMetrics,
        Run as Run,
    )
    from ekiben.runtime import (
        Runtime as Runtime,
        connect as connect,
    )
    from ekiben.specs import (
        EndpointSpec as EndpointSpec,
        FunctionSpec as FunctionSpec,
        Http as Http,
        NewData as NewData,
        On as On,
        RegistrySpec as RegistrySpec,
        Resources as Resources,
        Schedule as Schedule,
        StorageSpec as StorageSpec,
        TrainingSpec as TrainingSpec,
    )

__version__ = "0.1.0"

# The providers that come with Ekiben: name -> package, which has SUPPORT, `components` and `runtime`.
# Others register the same under the entry point group "ekiben.providers".
_PROVIDERS = {"aws": "ekiben.aws", "kubernetes": "ekiben.kubernetes", "local": "ekiben.local"}

_NAMES = {
    "ekiben.components": "Provider export provider",
    "ekiben.errors": "AccessDenied AlreadyExists EkibenError FunctionFailed IntegrityError MissingDependency ModelFailed "
    "NoCapacity NotFound PreconditionFailed ProviderError SpecError TrainingFailed Unavailable Unsupported WorkloadError",
    "ekiben.features": "Feature Limits Support",
    "ekiben.monitoring": "BudgetSpec MonitorSpec",
    "ekiben.records": "Decision Event Job LoggedPrediction ModelVersion Part Platform Prediction Revision "
    "RevisionMetrics Run",
    "ekiben.runtime": "Runtime connect",
    "ekiben.specs": "EndpointSpec FunctionSpec Http NewData On RegistrySpec Resources Schedule StorageSpec TrainingSpec",
}
_HOME = {name: module for module, names in _NAMES.items() for name in names.split()}

__all__ = sorted([*_HOME, "__version__", "providers"])  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'ekiben' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})


@cache
def providers() -> dict[str, str]:
    """Every provider there is: name -> package. Ekiben's own cannot be replaced by another's entry point."""
    from importlib import metadata  # slow to load, and rarely needed

    found = {point.name: point.value for point in metadata.entry_points(group="ekiben.providers")}
    return {**found, **_PROVIDERS}
