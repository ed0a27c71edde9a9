"""The resources of Ekiben's own plugin for AWS, as a Pulumi program sees them; see `ekiben.aws.declared`."""

from __future__ import annotations

import pulumi

from ekiben.declared import Declared

__all__ = ["Image", "Jobs", "Packages", "Services", "Variants"]


class Image(Declared):
    """An image in ECR, built by CodeBuild where it is not there. image_uri: by its digest."""

    kind = "ekiben:aws:Image"
    image_uri: pulumi.Output[str]


class Jobs(Declared):
    """What a training's runs leave: it goes when this is destroyed."""

    kind = "ekiben:aws:Jobs"
    log_group: pulumi.Output[str]


class Variants(Declared):
    """What an endpoint's deployments leave on SageMaker: it goes when this is destroyed."""

    kind = "ekiben:aws:Variants"


class Packages(Declared):
    """What a registry shows in SageMaker's: it goes when this is destroyed."""

    kind = "ekiben:aws:Packages"


class Services(Declared):
    """What an endpoint's deployments leave on ECS: it goes when this is destroyed."""

    kind = "ekiben:aws:Services"
