"""The resources of Ekiben's own plugin for Kubernetes, as a Pulumi program sees them; see `ekiben.kubernetes.declared`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pulumi

from ekiben import __version__

__all__ = ["Bucket", "Image", "Keys", "Made", "Object", "Wheels"]


class _Declared(pulumi.CustomResource):
    def __init__(
        self, kind: str, name: str, inputs: Mapping[str, Any], opts: pulumi.ResourceOptions | None, *outputs: str
    ) -> None:
        # The plugin is the one of this very version.
        pinned = pulumi.ResourceOptions.merge(opts, pulumi.ResourceOptions(version=__version__))
        super().__init__(f"ekiben:kubernetes:{kind}", name, {**inputs, **dict.fromkeys(outputs)}, pinned)


class Keys(_Declared):
    """A Secret with random values, which are in the cluster alone. uid: of the Secret; another one has other values."""

    uid: pulumi.Output[str]

    def __init__(self, name: str, inputs: Mapping[str, Any], opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("Keys", name, inputs, opts, "uid")


class Bucket(_Declared):
    """A bucket of an S3-compatible store. uri: s3://BUCKET."""

    uri: pulumi.Output[str]

    def __init__(self, name: str, inputs: Mapping[str, Any], opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("Bucket", name, inputs, opts, "uri")


class Object(_Declared):
    """A file in a bucket. uri: s3://BUCKET/KEY."""

    uri: pulumi.Output[str]

    def __init__(self, name: str, inputs: Mapping[str, Any], opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("Object", name, inputs, opts, "uri")


class Wheels(_Declared):
    """The wheels of a requirements.txt. uri: s3://BUCKET/PREFIX/."""

    uri: pulumi.Output[str]

    def __init__(self, name: str, inputs: Mapping[str, Any], opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("Wheels", name, inputs, opts, "uri")


class Image(_Declared):
    """An image in a registry, built on this machine where it is not there. image_uri: by its digest."""

    image_uri: pulumi.Output[str]

    def __init__(self, name: str, inputs: Mapping[str, Any], opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("Image", name, inputs, opts, "image_uri")


class Made(_Declared):
    """What a component's runs and deployments leave in the namespace: it goes when this is destroyed."""

    def __init__(self, name: str, inputs: Mapping[str, Any], opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("Made", name, inputs, opts)
