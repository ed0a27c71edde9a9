"""Programs of a provider's components under a recording monitor: what they ask of the engine, and the parts that they make."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pulumi
from pulumi.runtime import settings
from pulumi.runtime.mocks import MockMonitor

__all__ = ["Made", "Recording", "ran"]


class Made:
    """One resource as the program asked for it."""

    def __init__(self, type_: str, name: str, inputs: dict[str, Any]) -> None:
        self.type, self.name, self.inputs = type_, name, inputs
        self.parent = ""
        self.retained = False
        self.ignored: list[str] = []

    def __repr__(self) -> str:
        return f"{self.type} {self.name}"


class Monitor(MockMonitor):
    """Keeps what a resource's options say, too, which mocks are not told."""

    def __init__(self, recorded: Recording) -> None:
        super().__init__(recorded)
        self.recorded = recorded

    def RegisterResource(self, request: Any) -> Any:
        answer = super().RegisterResource(request)
        for made in self.recorded.made:
            if (made.type, made.name) == (request.type, request.name):
                made.parent, made.retained = request.parent, request.retainOnDelete
                made.ignored = list(request.ignoreChanges)
        return answer


class Recording(pulumi.runtime.Mocks):
    """Every resource that was made, and the parts of the platform. A provider's own says what comes back."""

    def __init__(self) -> None:
        self.made: list[Made] = []
        self.parts: dict[str, Any] = {}

    def outputs(self, args: pulumi.runtime.MockResourceArgs) -> dict[str, Any]:
        """What a resource has beside its inputs."""
        raise NotImplementedError

    def new_resource(self, args: pulumi.runtime.MockResourceArgs) -> tuple[str | None, dict[Any, Any]]:
        self.made.append(Made(args.typ, args.name, dict(args.inputs)))
        return f"{args.name}-id", {**args.inputs, **self.outputs(args)}

    def call(self, args: pulumi.runtime.MockCallArgs) -> dict[Any, Any]:
        return {}

    def all(self, type_: str) -> list[Made]:
        """Those of a type, named by its end: "Role", "s3/bucket:Bucket"."""
        return [one for one in self.made if one.type.endswith((f":{type_}", f"/{type_}")) or one.type == type_]

    def one(self, type_: str, name: str = "") -> Made:
        (found,) = [one for one in self.all(type_) if not name or one.name == name]
        return found


def ran(recorded: Recording, program: Callable[[], Any], root: Path, *, preview: bool = False) -> None:
    """Run a program of the project `small`, stack `dev`, at `root`; the parts of the components that it returns are `parts`."""
    pulumi.runtime.set_mocks(recorded, project="small", stack="dev", preview=preview, monitor=Monitor(recorded))
    settings.SETTINGS.root_directory = str(root)  # type: ignore[attr-defined]

    def wrapped() -> None:
        for component in program():
            component.part.apply(lambda part: recorded.parts.__setitem__(part.name, part))

    pulumi.runtime.test(wrapped)()
