"""The resources of Ekiben's own plugin for AWS, as a Pulumi program sees them; see `ekiben.aws.declared`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pulumi

from ekiben import __version__

__all__ = ["Image", "Jobs", "Packages", "Services", "Variants"]


class Image(pulumi.CustomResource):
    """An image in ECR, built by CodeBuild where it is not there. image_uri: by its digest."""

    image_uri: pulumi.Output[str]

    def __init__(self, name: str, inputs: Mapping[str, Any], opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("ekiben:aws:Image", name, {**inputs, "image_uri": None}, _pinned(opts))


class Jobs(pulumi.CustomResource):
    """What a training's runs leave: it goes when this is destroyed."""

    log_group: pulumi.Output[str]

    def __init__(self, name: str, inputs: Mapping[str, Any], opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("ekiben:aws:Jobs", name, {**inputs, "log_group": None}, _pinned(opts))


class Variants(pulumi.CustomResource):
    """What an endpoint's deployments leave on SageMaker: it goes when this is destroyed."""

    def __init__(self, name: str, inputs: Mapping[str, Any], opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("ekiben:aws:Variants", name, {**inputs}, _pinned(opts))


class Packages(pulumi.CustomResource):
    """What a registry shows in SageMaker's: it goes when this is destroyed."""

    def __init__(self, name: str, inputs: Mapping[str, Any], opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("ekiben:aws:Packages", name, {**inputs}, _pinned(opts))


class Services(pulumi.CustomResource):
    """What an endpoint's deployments leave on ECS: it goes when this is destroyed."""

    def __init__(self, name: str, inputs: Mapping[str, Any], opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("ekiben:aws:Services", name, {**inputs}, _pinned(opts))


def _pinned(opts: pulumi.ResourceOptions | None) -> pulumi.ResourceOptions:
    """The plugin is the one of this very version."""
    return pulumi.ResourceOptions.merge(opts, pulumi.ResourceOptions(version=__version__))
