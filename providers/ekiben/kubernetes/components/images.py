"""Environment images in the registry that the stack's config names: one for each environment, whichever endpoints share it."""

from __future__ import annotations

from typing import Any

import pulumi

from ekiben.components import Component
from ekiben.errors import SpecError
from ekiben.kubernetes.components.program import Kubernetes, current
from ekiben.kubernetes.components.resources import Image
from ekiben.packing import Bundle

__all__ = ["image_of"]

TAG_CHARS = 12
REPOSITORY = "ekiben-environments"


def image_of(registry: Kubernetes, asked_by: Component[Any], context: Bundle) -> pulumi.Output[str]:
    """The image of this context, by its digest. Raises SpecError where the config names no registry.

    It belongs to the model registry, because models of one registry share their environments.
    """
    program = current()
    if not program.settings.registry:
        raise SpecError(
            f"The endpoint {asked_by.name!r} needs an image of its environment, and the stack names no registry for it. Set one "
            "that the cluster's nodes pull from, with: pulumi config set ekiben:registry HOST/PATH."
        )
    if context.sha256 not in program.images:
        program.images[context.sha256] = Image(
            f"{registry.name}-image-{context.sha256[:TAG_CHARS]}",
            {
                "repository": f"{program.settings.registry}/{REPOSITORY}",
                "tag": context.sha256,
                "source": str(context.path),
            },
            opts=registry.opts(),
        )
    return program.images[context.sha256].image_uri
