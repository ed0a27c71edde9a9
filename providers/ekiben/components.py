"""Deploy face: the contract of the components, `provider()` that picks whose, and `export()` that makes the Platform record.

Each provider's `components.py` has the same class names, derived from these, and writes one method, `create`. A component puts
its children under itself, sets `ref` and `facts`, and lets Pulumi own only what lives long: runs, versions and traffic weights are
run-time calls. What a provider lacks is collected, and fails the preview all at once.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

try:
    import pulumi
except ImportError as _error:  # pragma: no cover - needs an environment without the extra
    from ekiben.errors import MissingDependency

    raise MissingDependency("pulumi", "iac") from _error

from ekiben import providers
from ekiben.cost import Cost
from ekiben.errors import SpecError, Unsupported
from ekiben.features import Support
from ekiben.monitoring import BudgetSpec, MonitorSpec
from ekiben.programs import Sealed, calls_first, traced_shortly
from ekiben.records import Part, Platform
from ekiben.specs import (
    Dispensable,
    EndpointSpec,
    FunctionSpec,
    RegistrySpec,
    Spec,
    StorageSpec,
    TrainingSpec,
    check_name,
    check_support,
)

__all__ = [
    "Budget",
    "Component",
    "Endpoint",
    "Function",
    "Monitor",
    "Provider",
    "Registry",
    "Storage",
    "Training",
    "export",
    "platform_of",
    "project_root",
    "provider",
    "server_variables",
    "source_folder",
    "tags",
]

S = TypeVar("S", bound=Spec)

# What was asked of providers that lack it, in this program: shown together by `export`.
_unsupported: list[str] = []


class Component(pulumi.ComponentResource, Generic[S]):
    """Base of the components. Type token `ekiben:<provider>:<Class>`.

    ref: the provider's own id. facts: what a runtime needs to use it. Both are set by `create`. kind: what it is in the Platform
    record; None for what no runtime uses, which is not in there.
    """

    kind: ClassVar[Any] = None
    support: ClassVar[Support]

    ref: pulumi.Output[str]
    facts: pulumi.Output[Mapping[str, Any]]

    def __init__(self, name: str, spec: S, opts: pulumi.ResourceOptions | None) -> None:
        check_name(name)
        self.name = name
        self.spec = spec
        self.provider = self.support.provider
        with traced_shortly():
            super().__init__(f"ekiben:{self.provider}:{type(self).__name__}", name, None, opts)
            self.ref, self.facts = pulumi.Output.from_input(""), pulumi.Output.from_input({})
            self._created()
        self.register_outputs({"ref": self.ref, "facts": self.facts, "cost": self.cost().to_json()})

    def _created(self) -> None:
        name, spec = self.name, self.spec
        try:
            check_support(name, spec, self.support, _others(self.provider))
            if isinstance(spec, Dispensable) and spec.feature not in self.support:
                why = f"{self.provider} lacks {spec.feature.value}: {self.support.reason(spec.feature)}"
                pulumi.log.info(f"{type(self).__name__} {name!r} makes nothing: {why}.", self)
            else:
                self.create()
        except Unsupported as problem:
            _unsupported.append(str(problem))
            pulumi.log.error(str(problem), self)

    def create(self) -> None:
        """Make the children (`parent=self`, names that start with `self.name`) and set `ref` and `facts`.

        Raises Unsupported for what only here is known to be asked too much; it is shown with all else that providers lack.
        """
        raise NotImplementedError

    def grant(self, to: Component[Any]) -> None:
        """Let `to`, a component that acts, use this one: no more than its runtime class calls."""
        raise NotImplementedError

    def cost(self) -> Cost:
        """What it costs with this spec, for the preview: no calls. Here: not known; a provider that has prices overrides it."""
        return Cost(why=f"{self.provider} gives no prices")

    @property
    def part(self) -> pulumi.Output[Part]:
        return pulumi.Output.all(self.ref, self.facts.apply(Sealed)).apply(
            lambda made: Part(
                name=self.name,
                kind=self.kind,
                provider=self.provider,
                ref=made[0] or "",
                facts=dict(made[1].value or {}),
            )
        )


class Storage(Component[StorageSpec]):
    """A private bucket."""

    kind = "storage"

    def __init__(
        self, name: str, spec: StorageSpec | None = None, *, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__(name, spec or StorageSpec(), opts)


class Registry(Component[RegistrySpec]):
    """A model registry: records in `storage`."""

    kind = "registry"

    def __init__(
        self,
        name: str,
        spec: RegistrySpec | None = None,
        *,
        storage: Storage,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        self.storage = storage
        super().__init__(name, spec or RegistrySpec(), opts)


class Training(Component[TrainingSpec]):
    """A way to train: its code goes to `storage`, where its runs also write; its inputs name components in `inputs_from`."""

    kind = "training"

    def __init__(
        self,
        name: str,
        spec: TrainingSpec,
        *,
        storage: Storage,
        inputs_from: Sequence[Storage] = (),
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        self.storage = storage
        self.sources = {source.name: source for source in (storage, *inputs_from)}
        for key, where in spec.inputs.items():
            bucket = where.partition("/")[0]
            if bucket not in self.sources:
                raise SpecError(
                    f"TrainingSpec of {name!r}: inputs.{key}={where!r} names the storage {bucket!r}, which it is not given: "
                    f"pass storage= or inputs_from= ({', '.join(self.sources)})."
                )
        super().__init__(name, spec, opts)


class Endpoint(Component[EndpointSpec]):
    """A serverless endpoint for models of `registry`. It begins without a revision; a release gives it one."""

    kind = "endpoint"

    def __init__(
        self, name: str, spec: EndpointSpec, *, registry: Registry, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        self.registry = registry
        super().__init__(name, spec, opts)

    @property
    def url(self) -> pulumi.Output[str]:
        return self.facts.apply(lambda facts: str(facts.get("url", "")))


class Function(Component[FunctionSpec]):
    """An event handler. It is given, and may use, only the components in `uses`."""

    kind = "function"

    def __init__(
        self,
        name: str,
        spec: FunctionSpec,
        *,
        uses: Sequence[Component[Any]] = (),
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        self.uses = tuple(uses)
        super().__init__(name, spec, opts)


class Monitor(Component[MonitorSpec]):
    """Alarms on the endpoints, functions and trainings in `watches`. A provider without alarms makes nothing of it."""

    def __init__(
        self,
        name: str,
        spec: MonitorSpec | None = None,
        *,
        watches: Sequence[Endpoint | Function | Training],
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        self.watches = tuple(watches)
        for watched in self.watches:
            if not isinstance(watched, Endpoint | Function | Training):
                raise SpecError(
                    f"The monitor {name!r} is to watch {watched.name!r}, a {watched.kind}: it watches endpoints, functions and "
                    "trainings. Leave the others out."
                )
        super().__init__(name, spec or MonitorSpec(), opts)


class Budget(Component[BudgetSpec]):
    """A monthly limit for all that the stack has on this provider. A provider that nobody bills makes nothing of it."""

    def __init__(self, name: str, spec: BudgetSpec, *, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__(name, spec, opts)


# What every provider's `components` has.
CLASSES = (Storage, Registry, Training, Endpoint, Function, Monitor, Budget)


class Provider:
    """One provider's components: `cloud.Storage(...)`, `cloud.Registry(...)`, and so on."""

    Storage: type[Storage]
    Registry: type[Registry]
    Training: type[Training]
    Endpoint: type[Endpoint]
    Function: type[Function]
    Monitor: type[Monitor]
    Budget: type[Budget]

    def __init__(self, name: str) -> None:
        known = providers()
        if name not in known:
            raise SpecError(
                f"There is no provider {name!r}; there are: {', '.join(sorted(known))}. Set one with "
                "`pulumi config set ekiben:provider NAME`, or install the package that brings it."
            )
        self.name = name
        self.support: Support = importlib.import_module(known[name]).SUPPORT
        self.module = importlib.import_module(f"{known[name]}.components")
        for contract in CLASSES:
            setattr(self, contract.__name__, getattr(self.module, contract.__name__))


def provider(name: str = "") -> Provider:
    """The provider `name`, or the one that the stack's config names (`ekiben:provider`)."""
    if not name:
        name = pulumi.Config("ekiben").get("provider") or ""
        if not name:
            raise SpecError(
                f"The stack {pulumi.get_stack()!r} names no provider. Set it with: pulumi config set ekiben:provider local."
            )
    return Provider(name)


def platform_of(components: Sequence[Component[Any]]) -> pulumi.Output[Platform]:
    """The Platform record of these components, without those that no runtime uses."""
    project, stack = pulumi.get_project(), pulumi.get_stack()
    return pulumi.Output.all(*(component.part for component in components if component.kind)).apply(
        lambda parts: Platform(project=project, stack=stack, parts={part.name: part for part in parts})
    )


def export(*components: Component[Any]) -> None:
    """Make the stack output `platform` of these components. Raises Unsupported for all that providers lack, at once."""
    if _unsupported:
        problems = list(_unsupported)
        _unsupported.clear()
        raise Unsupported("\n".join(problems))
    names = [component.name for component in components]
    if doubled := sorted({name for name in names if names.count(name) > 1}):
        raise SpecError(f"Two components are called {doubled[0]!r}: a platform names each part once.")
    record = platform_of(components)
    pulumi.export("platform", record.apply(lambda platform: platform.to_dict()))
    known = providers()
    for used in sorted({component.provider for component in components}):
        importlib.import_module(f"{known[used]}.components").exported(record)
    calls_first()


def tags(component: Component[Any]) -> dict[str, str]:
    """The tags of everything that is created for a component, also by run-time calls."""
    return {
        "ekiben:platform": pulumi.get_project(),
        "ekiben:stack": pulumi.get_stack(),
        "ekiben:component": component.name,
    }


def server_variables(endpoint: Endpoint, storage_uri: pulumi.Input[str]) -> dict[str, pulumi.Input[str]]:
    """What a server is told beside which bento it serves: the spec's own variables, and where predictions are logged."""
    spec = endpoint.spec
    logged: dict[str, pulumi.Input[str]] = {}
    if spec.log_predictions:
        logged = {"EKIBEN_LOG_PREDICTIONS": storage_uri, "EKIBEN_LOG_SHARE": f"{spec.log_predictions:g}"}
    limits = {
        "EKIBEN_SERVER_MAX_BODY_BYTES": str(spec.max_request_bytes),
        "EKIBEN_SERVER_DRAIN_TIMEOUT_S": str(max(1, math.ceil(spec.drain_s))),
    }
    return {**spec.env, **limits, "EKIBEN_ENDPOINT": endpoint.name, **logged}


def project_root() -> Path:
    """The folder of Pulumi.yaml: `source` and `bento` paths start there."""
    return Path(pulumi.get_root_directory() or ".").resolve()


def source_folder(component: Component[Any], source: str, entry: str = "") -> Path:
    """A source folder of the project. Raises SpecError when it, or the file `entry` in it, is not there."""
    root = project_root()
    folder = (root / source).resolve()
    where = f"The {component.kind} {component.name!r}"
    if not folder.is_relative_to(root):
        raise SpecError(
            f"{where}: {source!r} is not below the project's folder {root}. Move the code into the project."
        )
    if not folder.is_dir():
        raise SpecError(f"{where}: there is no folder {source!r} in {root}. Make it, or correct the path.")
    if entry and not (folder / entry).is_file():
        raise SpecError(f"{where}: the folder {source!r} has no file {entry!r}. Write it, or correct the path.")
    return folder


def _others(name: str) -> tuple[Support, ...]:
    others = []
    for other, package in sorted(providers().items()):
        if other != name:
            others.append(importlib.import_module(package).SUPPORT)
    return tuple(others)
