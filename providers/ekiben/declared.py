"""Resources of Ekiben's own plugin, as a Pulumi program sees them. What the plugin does for them: `ekiben.engine.kinds`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import pulumi

from ekiben import __version__

__all__ = ["Declared", "pinned"]


class Declared(pulumi.CustomResource):
    """kind: its type, as in ekiben:station:Bucket. What a subclass annotates are its outputs: known when it is made."""

    kind: ClassVar[str]

    def __init__(self, name: str, inputs: Mapping[str, Any], opts: pulumi.ResourceOptions | None = None) -> None:
        outputs = dict.fromkeys(type(self).__dict__.get("__annotations__", ()))
        super().__init__(self.kind, name, {**inputs, **outputs}, pinned(opts))


def pinned(opts: pulumi.ResourceOptions | None) -> pulumi.ResourceOptions:
    """The options, with the plugin of this very version."""
    return pulumi.ResourceOptions.merge(opts, pulumi.ResourceOptions(version=__version__))
