"""The resources of Ekiben's own plugin, as a Pulumi program sees them: a station and what is declared in it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pulumi

from ekiben.declared import pinned

__all__ = ["Declared", "Host"]


class Host(pulumi.CustomResource):
    """The station of this stack: one process and one state directory."""

    state_dir: pulumi.Output[str]
    url: pulumi.Output[str]

    def __init__(self, name: str, *, state_dir: str, opts: pulumi.ResourceOptions | None = None) -> None:
        inputs = {"state_dir": state_dir, "project": pulumi.get_project(), "stack": pulumi.get_stack()}
        super().__init__("ekiben:station:Host", name, {**inputs, "url": None, "running": None}, pinned(opts))


class Declared(pulumi.CustomResource):
    """A resource in a station, `kind` one of Bucket, Object, Training, Endpoint, Function, Record. `facts`: what came of it."""

    name: pulumi.Output[str]
    facts: pulumi.Output[Mapping[str, Any]]

    def __init__(
        self, kind: str, name: str, inputs: Mapping[str, Any], *, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__(f"ekiben:station:{kind}", name, {**inputs, "facts": None}, pinned(opts))
