"""What the components of Kubernetes share: children with names and labels, service accounts and what they may, bundles in buckets.

All of a stack is in one namespace, PROJECT-STACK, so names in it are the components' own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pulumi
import pulumi_kubernetes as k8s

from ekiben.components import Component
from ekiben.cost import Cost
from ekiben.errors import SpecError
from ekiben.kubernetes.components.resources import Keys, Made, Object
from ekiben.kubernetes.components.settings import Settings, settings
from ekiben.kubernetes.facts import COMPONENT, MANAGED_BY, PROJECT, STACK, TOKEN
from ekiben.packing import Bundle
from ekiben.records import Platform

if TYPE_CHECKING:
    from ekiben.kubernetes.components.namespace import Namespace
    from ekiben.kubernetes.components.resources import Image
    from ekiben.kubernetes.components.storage import Storage
    from ekiben.kubernetes.components.store import Store

__all__ = ["Kubernetes", "Rule", "current", "exported", "labels_of", "rule"]

# Of a Role: apiGroups, resources, verbs, and resourceNames where they are known.
Rule = Mapping[str, Any]


@dataclass
class Program:
    """What one run of a Pulumi program has made so far that belongs to no component, and its storages by name."""

    monitor: Any
    settings: Settings
    namespace: Namespace | None = None
    store: Store | None = None
    mlflow: pulumi.Output[str] | None = None
    storages: dict[str, Storage] = field(default_factory=dict)
    images: dict[str, Image] = field(default_factory=dict)
    priority: k8s.scheduling.v1.PriorityClass | None = None
    knative: bool | None = None


_program: Program | None = None


def current() -> Program:
    """The program that runs now: another engine connection is another program (tests run several in one process)."""
    global _program
    monitor = pulumi.runtime.settings.get_monitor()
    if _program is None or _program.monitor is not monitor:
        _program = Program(monitor=monitor, settings=settings())
    return _program


class Kubernetes(Component[Any]):
    """What is the same for every component. account: what its pods run as."""

    account: k8s.core.v1.ServiceAccount | None = None
    # Does it call the cluster's API at run time? Only then are its pods given a token.
    acts = False

    def cost(self) -> Cost:
        return Cost(why="what a cluster's nodes cost is known to whoever runs them")

    def needs(self) -> Sequence[Rule]:
        """What whoever uses this component has to be allowed at the cluster's API: exactly what its runtime class calls."""
        return ()

    def grant(self, to: Component[Any]) -> None:
        """Let the service account of `to` use this component. Repeating is safe. Raises SpecError where there is none."""
        if not isinstance(to, Kubernetes) or not to.acts or to.account is None:
            raise SpecError(
                f"The {self.kind} {self.name!r} is on kubernetes and cannot be granted to the {to.kind} {to.name!r}: it calls "
                "nothing there. Grant it to a function of kubernetes."
            )
        rules = self.needs()
        if rules and self.name not in to._granted:
            to._granted.add(self.name)
            to.may(f"uses-{self.name}", rules)

    def may(self, what: str, rules: Sequence[Rule]) -> None:
        """A Role, and its binding to the component's own service account."""
        assert self.account is not None, f"{self.name} has no service account"
        name = f"{self.name}-{what}"
        role = k8s.rbac.v1.Role(name, metadata=self.meta(name), rules=[dict(one) for one in rules], opts=self.opts())
        bound = k8s.rbac.v1.RoleBinding(
            name,
            metadata=self.meta(name),
            role_ref={"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": role.metadata.name},
            subjects=[{"kind": "ServiceAccount", "name": self.account.metadata.name, "namespace": self.namespace}],
            opts=self.opts(),
        )
        self.permissions.append(bound)

    def runs(self) -> k8s.core.v1.ServiceAccount:
        """The service account of the component's pods. A token is mounted only where the pod asks for it."""
        pulls = current().settings.pull_secret
        self.account = k8s.core.v1.ServiceAccount(
            self.name,
            metadata=self.meta(),
            automount_service_account_token=False,
            image_pull_secrets=[{"name": pulls}] if pulls else None,
            opts=self.opts(),
        )
        return self.account

    def opts(self, *, retain: bool = False, depends_on: Sequence[pulumi.Resource] = ()) -> pulumi.ResourceOptions:
        """The options of a child. Providers, transforms and protection come from the component."""
        return pulumi.ResourceOptions(parent=self, retain_on_delete=retain or None, depends_on=list(depends_on) or None)

    def meta(self, name: str = "", **annotations: str) -> dict[str, Any]:
        """The metadata of an object in the namespace; without a name it has the component's."""
        made = {"name": name or self.name, "namespace": self.namespace, "labels": self.labels}
        return {**made, "annotations": annotations} if annotations else made

    def token_secret(self) -> tuple[str, Keys]:
        """The Secret, by its name, with the token that callers of the component show."""
        name = f"{self.name}-token"
        return name, Keys(
            name, {**self.place, "secret": name, "fields": [TOKEN], "labels": self.labels}, opts=self.opts()
        )

    def leaves(self, what: str, *after: pulumi.Resource) -> Made:
        """What is made at run time for the component: it goes with it, and before `after` and the account that it runs as, so that
        pods are gone before the bucket that they write to is."""
        about = {**self.place, "labels": self.labels}
        before = [*after, *([self.account] if self.account else [])]
        return Made(f"{self.name}-{what}", about, opts=self.opts(depends_on=before))

    def upload(self, bundle: Bundle, storage: Storage, suffix: str) -> pulumi.Output[str]:
        """The s3:// URI of an archive, under its own hash. A newer one does not delete it: models were made from it."""
        key = f"code/{bundle.sha256}{bundle.path.suffix}"
        held = Object(
            f"{self.name}{suffix}-{bundle.sha256[:12]}",
            {**storage.where, "key": key, "source_path": str(bundle.path), "sha256": bundle.sha256},
            opts=self.opts(retain=True, depends_on=[storage.bucket]),
        )
        return held.uri

    @property
    def namespace(self) -> pulumi.Output[str]:
        """The name of the stack's namespace, which is made on first use."""
        from ekiben.kubernetes.components.namespace import namespace_of

        return namespace_of(self).name

    @property
    def place(self) -> dict[str, Any]:
        """How a resource of Ekiben's plugin finds the stack's namespace."""
        return {"context": current().settings.context, "namespace": self.namespace}

    @property
    def labels(self) -> dict[str, str]:
        return labels_of(self.name)

    @property
    def permissions(self) -> list[pulumi.Resource]:
        """What binds roles to the component's service account: what acts waits for them."""
        return self.__dict__.setdefault("_permissions", [])  # type: ignore[no-any-return]

    @property
    def _granted(self) -> set[str]:
        return self.__dict__.setdefault("_grants", set())  # type: ignore[no-any-return]


def rule(group: str, resources: str, verbs: str, *names: pulumi.Input[str]) -> Rule:
    """A rule of a Role: words apart by spaces; `names` where only those objects are meant."""
    made: dict[str, Any] = {"apiGroups": [group], "resources": resources.split(), "verbs": verbs.split()}
    return {**made, "resourceNames": list(names)} if names else made


def labels_of(component: str) -> dict[str, str]:
    """What everything carries that is made for a component; with "" what belongs to the whole stack."""
    project, stack = pulumi.get_project(), pulumi.get_stack()
    return {MANAGED_BY: "ekiben", PROJECT: project, STACK: stack, COMPONENT: component}


def exported(record: pulumi.Output[Platform]) -> None:
    """Nothing more: functions have the record of what they use, and everybody else has the stack's output."""
