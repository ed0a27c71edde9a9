"""Where the project is brought up: what is there, what should be, and what it would be if an engine had not seen it end."""

from __future__ import annotations

import copy
import os
import uuid
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Protocol

from ekiben.aws import begun
from ekiben.emulators import aws, stacks
from ekiben.emulators.kubernetes import chosen
from ekiben.errors import NotFound
from ekiben.kubernetes.client import Cluster
from ekiben.kubernetes.facts import COMPONENT
from ekiben.testing import EmulatedAws
from tests.crash.census import census, named
from tests.crash.stack import NAME, STACK

__all__ = ["CLOUDS", "Aws", "Cloud", "Kubernetes"]

# Ekiben makes the account's group of training jobs where there is none; it is no resource of its own in the state.
BESIDE = Counter({"aws:cloudwatch/logGroup:LogGroup": 1})
NEVER = "-never-made"
Resources = list[dict[str, Any]]


class Cloud(Protocol):
    """project: its name; config: the stack's; resources: as many as the program has, until that is known."""

    project: str
    config: Mapping[str, object]
    resources: int

    def begin(self, root: Path) -> None:
        """The stack is there, and empty."""

    def compared(self, resources: Resources) -> tuple[Counter[str], Counter[str]]:
        """Of each type how many there are, and how many of the resources of the state."""

    def begun(self, resources: Resources) -> Resources:
        """These, as they were begun; and of each type one that was begun, and not made."""

    def left(self) -> Counter[str]:
        """What is there after all was destroyed."""

    def reset(self) -> None:
        """Take away whatever is left."""

    def end(self) -> None: ...


class Aws:
    """An emulated AWS of the project's own."""

    project, resources = NAME, 82
    config: Mapping[str, object] = {"ekiben:provider": "aws", "ekiben:emulate": True, "aws:region": "us-east-1"}

    def begin(self, root: Path) -> None:
        self._root = root
        self._empty = census(self._cloud)

    def compared(self, resources: Resources) -> tuple[Counter[str], Counter[str]]:
        types = begun.NAMED.keys() | begun.ASKED
        there = census(self._cloud) - self._empty
        known = Counter(one["type"] for one in resources if one["type"] in types) + BESIDE
        both = there.keys() & known.keys()
        return Counter({type: there[type] for type in both}), Counter({type: known[type] for type in both})

    def begun(self, resources: Resources) -> Resources:
        theirs = [one for one in resources if one["type"].startswith("aws:")]
        settings = {one["urn"] for one in theirs if one["type"] in begun.REPEATED}
        made = [_never(one, settings) for one in _one_of_each(theirs)]
        for inputs in (one["inputs"] for one in made):
            for key in ("name", "bucket", "statementId", "targetId", "policyArn", "qualifier"):
                if key in inputs:
                    inputs[key] += NEVER
            if "tags" in inputs:
                inputs["tags"]["ekiben:component"] = "nobody"
        return [_unseen(one, settings) for one in resources] + made

    def left(self) -> Counter[str]:
        return census(self._cloud) - self._empty

    def reset(self) -> None:
        self._cloud.reset()

    def end(self) -> None:
        aws.stop(stacks.state_dir(self._root))

    @property
    def _cloud(self) -> EmulatedAws:
        server = stacks.found(self._root)
        assert server is not None
        return EmulatedAws(server)


class Kubernetes:
    """This user's own cluster, which others use, too: the project's name, and with it its namespace's, is its own.

    One endpoint is on Knative, and one on Deployments.
    """

    resources = 51

    def __init__(self) -> None:
        self.project = f"{NAME}-{uuid.uuid4().hex[:8]}"
        self._lent = ExitStack()
        there = chosen.with_knative(self._lent.enter_context(chosen.borrowed(print)), print)
        self.config: Mapping[str, object] = {
            "ekiben:provider": "kubernetes", "ekiben:emulate": True, **there.config,
            "ekiben:services": {"large-api": "deployments"}, "ekiben:quota": {"pods": "20"},
        }  # fmt: skip
        os.environ.update(there.environment)

    def begin(self, root: Path) -> None: ...

    def compared(self, resources: Resources) -> tuple[Counter[str], Counter[str]]:
        """What Pulumi's plugin has applied: controllers and nodes make more."""
        known = (one["inputs"] for one in resources if one["type"].startswith("kubernetes:"))
        return _kinds(one for one in self._named() if _applied(one)), _kinds(known)

    def begun(self, resources: Resources) -> Resources:
        made = [_never(one) for one in _one_of_each(one for one in resources if one["type"].startswith("kubernetes:"))]
        for metadata in (one["inputs"]["metadata"] for one in made):
            metadata["name"] += NEVER
            metadata["labels"] = {**metadata["labels"], COMPONENT: "nobody"}
        return [_unseen(one) for one in resources] + made

    def left(self) -> Counter[str]:
        return _kinds(self._named())

    def reset(self) -> None:
        """What is in no namespace; what is in it goes with the namespace."""
        for one in self._named():
            if "namespace" not in one["metadata"]:
                with suppress(NotFound):
                    Cluster("").delete_at(one["path"], "take away what is left")

    def end(self) -> None:
        self._lent.close()

    def _named(self) -> Iterator[dict[str, Any]]:
        return named(f"{self.project}-{STACK}")


def _kinds(objects: Iterable[Mapping[str, Any]]) -> Counter[str]:
    return Counter(f"{one['apiVersion']}/{one['kind']}" for one in objects)


def _applied(thing: Mapping[str, Any]) -> bool:
    managers = thing["metadata"].get("managedFields") or ()
    return any(one["operation"] == "Apply" and one["manager"].startswith("pulumi-kubernetes-") for one in managers)


def _one_of_each(resources: Iterable[dict[str, Any]]) -> Resources:
    return list({one["type"]: one for one in resources}.values())


def _unseen(resource: dict[str, Any], settings: Collection[str] = ()) -> dict[str, Any]:
    """As it was begun. What is forgotten, because it is made again, is nobody's dependency any more."""
    kept = [urn for urn in resource.get("dependencies", ()) if urn not in settings]
    by_property = {
        key: [urn for urn in urns if urn not in settings]
        for key, urns in resource.get("propertyDependencies", {}).items()
    }
    return {**resource, "outputs": {}, "id": "", "dependencies": kept, "propertyDependencies": by_property}


def _never(resource: dict[str, Any], settings: Collection[str] = ()) -> dict[str, Any]:
    """One of the same type that was begun, and not made."""
    made = _unseen(copy.deepcopy(resource), settings)
    made["urn"] += NEVER
    return made


CLOUDS: Mapping[str, Callable[[], Cloud]] = {"aws": Aws, "kubernetes": Kubernetes}
