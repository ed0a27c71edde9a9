"""The resources of Ekiben's own plugin for Kubernetes, as a Pulumi program sees them; see `ekiben.kubernetes.declared`."""

from __future__ import annotations

import pulumi

from ekiben.declared import Declared

__all__ = ["Bucket", "Image", "Keys", "Made", "Models", "Object", "Owner", "Wheels"]


class Owner(Declared):
    """Whose a namespace is: nothing in the cluster. owner: a text that the state keeps, to be written on the namespace."""

    kind = "ekiben:kubernetes:Owner"
    owner: pulumi.Output[str]


class Keys(Declared):
    """A Secret with random values, which are in the cluster alone. uid: of the Secret; another one has other values."""

    kind = "ekiben:kubernetes:Keys"
    uid: pulumi.Output[str]


class Bucket(Declared):
    """A bucket of an S3-compatible store. uri: s3://BUCKET."""

    kind = "ekiben:kubernetes:Bucket"
    uri: pulumi.Output[str]


class Object(Declared):
    """A file in a bucket. uri: s3://BUCKET/KEY."""

    kind = "ekiben:kubernetes:Object"
    uri: pulumi.Output[str]


class Wheels(Declared):
    """The wheels of a requirements.txt. uri: s3://BUCKET/PREFIX/."""

    kind = "ekiben:kubernetes:Wheels"
    uri: pulumi.Output[str]


class Image(Declared):
    """An image in a registry, built on this machine where it is not there. image_uri: by its digest."""

    kind = "ekiben:kubernetes:Image"
    image_uri: pulumi.Output[str]


class Made(Declared):
    """What a component's runs and deployments leave in the namespace: it goes when this is destroyed."""

    kind = "ekiben:kubernetes:Made"


class Models(Declared):
    """What a registry has shown in an MLflow server of others: it goes when this is destroyed."""

    kind = "ekiben:kubernetes:Models"
