"""The deploy face on one machine: components over the resources of the station."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pulumi

from ekiben import components
from ekiben.components import Component, project_root, source_folder, tags
from ekiben.cost import FREE, Cost
from ekiben.errors import SpecError
from ekiben.local import SUPPORT
from ekiben.local.resources import Declared, Host
from ekiben.programs import once
from ekiben.records import Platform

__all__ = ["Budget", "Endpoint", "Function", "Monitor", "Registry", "Storage", "Training", "exported"]


@dataclass
class Program:
    """What one run of a Pulumi program has made so far: its station, and its storages by name."""

    monitor: Any
    host: Host | None = None
    storages: dict[str, Storage] = field(default_factory=dict)


_program = Program(monitor=None)


class _Local(Component[Any]):
    """What is the same for every local component."""

    def cost(self) -> Cost:
        return replace(FREE, why="it runs on a machine of your own, and nobody bills it")

    def grant(self, to: Component[Any]) -> None:
        """The station lets a function use what is in its `uses`, and nothing else; other components act as the station."""
        if isinstance(to, Function) and self not in to.uses:
            raise SpecError(
                f"The function {to.name!r} is made already: give it uses=[{self.name}, ...] instead of a grant."
            )

    def _ref(self) -> pulumi.Output[str]:
        return pulumi.Output.from_input(f"{pulumi.get_project()}/{pulumi.get_stack()}/{self.kind}/{self.name}")

    def _declare(self, kind: str, inputs: Mapping[str, Any], suffix: str = "", *, retain: bool = False) -> Declared:
        """A child: `inputs` beside those that every resource of a station has."""
        name = self.name + suffix
        given = {"state_dir": _station().state_dir, "name": name, "tags": tags(self), **inputs}
        return Declared(kind, name, given, opts=pulumi.ResourceOptions(parent=self, retain_on_delete=retain or None))

    def _upload(self, bundle: Any, bucket: pulumi.Input[str], suffix: str) -> Declared:
        """An archive in a bucket, under its own hash. A newer one does not delete it: models were made from it."""
        inputs = {
            "name": f"{self.name}{suffix}-{bundle.sha256[:12]}",
            "bucket": bucket,
            "key": f"code/{bundle.sha256}.tar",
            "source_path": str(bundle.path),
            "sha256": bundle.sha256,
        }
        return self._declare("Object", inputs, suffix, retain=True)


class Storage(_Local, components.Storage):
    """A folder below the station's."""

    support = SUPPORT
    bucket: Declared

    def create(self) -> None:
        self.bucket = self._declare("Bucket", {"retain": self.spec.retain})
        self.ref, self.facts = self._ref(), self.bucket.facts
        _current().storages[self.name] = self

    @property
    def uri(self) -> pulumi.Output[str]:
        return self.facts.apply(lambda facts: str(facts["uri"]))


class Registry(_Local, components.Registry):
    """Records in its storage; the station publishes its decisions."""

    support = SUPPORT

    def create(self) -> None:
        self.ref = self._ref()
        self.facts = _facts(
            uri=_local_storage(self, self.storage).uri.apply(lambda uri: f"{uri}/registry/{self.name}"),
            require_approval=self.spec.require_approval,
            station=_station().state_dir,
        )


class Training(_Local, components.Training):
    """A training of the station: its code is an object in its storage."""

    support = SUPPORT

    def create(self) -> None:
        from ekiben import lineage, packing

        folder = source_folder(self, self.spec.source, self.spec.entry)
        storage = _local_storage(self, self.storage)
        code = once(packing.bundle, folder)
        held = self._upload(code, storage.bucket.name, "-code")
        inputs = {}
        for name, where in self.spec.inputs.items():
            bucket, _, prefix = where.partition("/")
            inputs[name] = pulumi.Output.concat(_local_storage(self, self.sources[bucket]).uri, "/", prefix)
        self._declare(
            "Training",
            {
                "spec": _text(self.spec.model_dump(mode="json")),
                "storage_uri": storage.uri,
                "code_uri": held.facts["uri"],
                "code_sha256": code.sha256,
                "code": _text(once(lineage.git_state, folder)),
                "input_uris": inputs,
            },
        )
        self.ref = self._ref()
        self.facts = _facts(station=_station().state_dir, storage_uri=storage.uri, model=self.spec.model or self.name)


class Endpoint(_Local, components.Endpoint):
    """An endpoint of the station, and the template of its bento in the registry's storage."""

    support = SUPPORT

    def create(self) -> None:
        from ekiben import packing

        template = once(packing.template, source_folder(self, self.spec.bento))
        storage = _local_storage(self, self.registry.storage)
        held = self._upload(template, storage.bucket.name, "-template")
        made = self._declare(
            "Endpoint",
            {
                "spec": _text(self.spec.model_dump(mode="json")),
                "storage_uri": storage.uri,
                "station": _station().url,
            },
        )
        self.ref = self._ref()
        self.facts = _facts(
            station=_station().state_dir,
            url=made.facts["url"],
            storage_uri=storage.uri,
            model=self.spec.model,
            template_uri=held.facts["uri"],
            template_sha256=template.sha256,
        )


class Function(_Local, components.Function):
    """A function of the station. Its code lies in the first storage that it uses, else in a bucket of its own."""

    support = SUPPORT

    def create(self) -> None:
        from ekiben import packing

        bundle = packing.function_bundle(source_folder(self, self.spec.source, "main.py"))
        reached = {storage.name: storage for used in self.uses for storage in _storages(used)}
        homes = [storage.bucket for storage in reached.values()]
        home = homes[0] if homes else self._declare("Bucket", {"retain": False}, "-bucket")
        held = self._upload(bundle, home.name, "-code")
        for used in self.uses:
            used.grant(self)
        project, stack = pulumi.get_project(), pulumi.get_stack()
        platform = pulumi.Output.all(*(used.part for used in self.uses)).apply(
            lambda parts: Platform(project=project, stack=stack, parts={part.name: part for part in parts}).to_json()
        )
        made = self._declare(
            "Function",
            {
                "spec": _text(self.spec.model_dump(mode="json")),
                "code_uri": held.facts["uri"],
                "code_sha256": bundle.sha256,
                "platform": platform,
                "bucket_uris": self._watched({**_current().storages, **reached}),
                "uses": sorted(used.name for used in self.uses),
                "station": _station().url,
            },
        )
        self.ref = self._ref()
        self.facts = _facts(station=_station().state_dir, url=made.facts["url"])

    def _watched(self, storages: Mapping[str, Storage]) -> dict[str, pulumi.Output[str]]:
        found = {}
        for i, trigger in enumerate(self.spec.on):
            if trigger.type != "NewData":
                continue
            if trigger.storage not in storages:
                there = ", ".join(storages) or "none"
                raise SpecError(
                    f"FunctionSpec of {self.name!r}: on[{i}] names the storage {trigger.storage!r}, which the program has "
                    f"not made on {self.provider} before this function; it has made: {there}."
                )
            found[trigger.storage] = storages[trigger.storage].uri
        return found


class Monitor(_Local, components.Monitor):
    """Nothing: see SUPPORT."""

    support = SUPPORT


class Budget(_Local, components.Budget):
    """Nothing: see SUPPORT."""

    support = SUPPORT


def exported(record: pulumi.Output[Platform]) -> None:
    """Write the Platform record of the stack where the command line and the station find it."""
    inputs = {
        "state_dir": _station().state_dir,
        "name": "platform",
        "platform": record.apply(lambda platform: platform.to_json()),
        "tags": {"ekiben:platform": pulumi.get_project(), "ekiben:stack": pulumi.get_stack(), "ekiben:component": ""},
    }
    Declared("Record", "platform", inputs)


def _station() -> Host:
    """The one station of the stack, made on first use."""
    program = _current()
    if program.host is None:
        program.host = Host("station", state_dir=str(project_root() / ".ekiben" / pulumi.get_stack()))
    return program.host


def _current() -> Program:
    """The program that runs now: another engine connection is another program (tests run several in one process)."""
    global _program
    monitor = pulumi.runtime.settings.get_monitor()
    if _program.monitor is not monitor:
        _program = Program(monitor=monitor)
    return _program


def _storages(component: Component[Any]) -> Iterator[Storage]:
    """The local storages that a component lives in."""
    if isinstance(component, Storage):
        yield component
    elif isinstance(component, components.Training):
        yield from (storage for storage in component.sources.values() if isinstance(storage, Storage))
    elif isinstance(component, components.Registry):
        yield from _storages(component.storage)
    elif isinstance(component, components.Endpoint):
        yield from _storages(component.registry)


def _local_storage(component: Component[Any], storage: components.Storage) -> Storage:
    if not isinstance(storage, Storage):
        raise SpecError(
            f"The {component.kind} {component.name!r} is local and its storage {storage.name!r} is on {storage.provider}: "
            "the station reads and writes folders of its own only. Give it a local storage."
        )
    return storage


def _facts(**values: Any) -> pulumi.Output[Mapping[str, Any]]:
    return pulumi.Output.all(**values).apply(dict)


def _text(data: Any) -> str:
    """JSON text: numbers keep their types on the way through the engine, which knows floats only."""
    return json.dumps(data, sort_keys=True, allow_nan=False, ensure_ascii=False)
