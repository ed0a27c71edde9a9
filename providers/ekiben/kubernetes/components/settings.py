"""What a stack's config says of its cluster. Everything has a default but the registry that images are pushed to."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pulumi

from ekiben.errors import SpecError
from ekiben.kubernetes.client import KUBECONFIG

__all__ = ["BENEATH", "PYTHON_IMAGE", "STORE_IMAGE", "Settings", "settings"]

PYTHON_IMAGE = "docker.io/library/python:3.13-slim-bookworm"
# https://github.com/versity/versitygw
STORE_IMAGE = "docker.io/versity/versitygw:v1.8.0"
# The config of the emulated cluster, as JSON: what the stack's own does not say, it does.
BENEATH = "EKIBEN_EMULATED_CONFIG"
STORE_GIB = 20
REGION = "us-east-1"
NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The keys of the stack's config, in their own words.

    context: of the kubeconfig (`kubernetes:context`); empty for its current one. s3_endpoint: an S3-compatible store as pods reach
    it; empty runs one. s3_outside_url: as everybody else does. s3_secret: the Secret in the namespace with its keys. buckets:
    storage -> the bucket that it is. store_image, store_gib, storage_class: of the store that is run.

    python_image: of trainings, functions and the base of environment images, in which {version} stands for a service's Python.
    cpu_share: of the vCPUs that specs ask for, the part that pods are put on a node for; they may use all of them.
    wheels: trainings find their packages in the bucket, where `up` puts them, and ask no index.
    mlflow_uri: an MLflow server in which registries show their versions; mlflow_secret: the Secret in the namespace with its token,
    or its username and password. mlflow_image: of the server that is run where there is none.
    registry: HOST/PATH that images are pushed to, with http:// where it speaks no TLS. pull_secret: with which nodes pull them.

    knative: whether the cluster has Knative Serving, None to ask it. domain: of its routes. ingress_url: where the cluster's
    ingress is found from outside. gateway: NAMESPACE/NAME of the Gateway that routes without Knative. services: endpoint ->
    "knative" or "deployments", and training -> "jobs" or "trainjobs". quota: of the namespace, resource -> amount. elastic: nodes
    come when they are needed, so that a run which fits on none of them waits.
    """

    context: str = ""
    s3_endpoint: str = ""
    s3_outside_url: str = ""
    s3_secret: str = ""
    s3_region: str = REGION
    buckets: Mapping[str, str] = field(default_factory=dict)
    store_image: str = STORE_IMAGE
    store_gib: int = STORE_GIB
    storage_class: str = ""
    python_image: str = PYTHON_IMAGE
    cpu_share: float = 1.0
    wheels: bool = False
    mlflow_uri: str = ""
    mlflow_secret: str = ""
    mlflow_image: str = ""
    registry: str = ""
    pull_secret: str = ""
    knative: bool | None = None
    domain: str = ""
    ingress_url: str = ""
    gateway: str = ""
    quota: Mapping[str, str] = field(default_factory=dict)
    elastic: bool = False
    services: Mapping[str, str] = field(default_factory=dict)


def settings() -> Settings:
    """The stack's. Raises SpecError for a value that cannot be, for a store of one's own without its Secret, and for a kubeconfig
    that Pulumi's plugin alone would read."""
    for key, value in json.loads(os.environ.get(BENEATH) or "{}").items():
        if pulumi.runtime.get_config(key) is None:
            pulumi.runtime.set_config(key, value)
    told = pulumi.Config("ekiben")
    found = Settings(
        context=pulumi.Config("kubernetes").get("context") or "",
        s3_endpoint=_url(told, "s3Endpoint"),
        s3_outside_url=_url(told, "s3OutsideUrl"),
        s3_secret=told.get("s3Secret") or "",
        s3_region=told.get("s3Region") or REGION,
        buckets=_texts(told, "buckets"),
        store_image=told.get("storeImage") or STORE_IMAGE,
        store_gib=_whole(told, "storeGib", STORE_GIB),
        storage_class=told.get("storageClass") or "",
        python_image=told.get("pythonImage") or PYTHON_IMAGE,
        cpu_share=_share(told, "cpuShare"),
        wheels=_flag(told, "wheels") or False,
        mlflow_uri=_url(told, "mlflowUri", path=True),
        mlflow_secret=told.get("mlflowSecret") or "",
        mlflow_image=told.get("mlflowImage") or "",
        registry=(told.get("registry") or "").rstrip("/"),
        pull_secret=told.get("pullSecret") or "",
        knative=_flag(told, "knative"),
        domain=told.get("domain") or "",
        ingress_url=_url(told, "ingressUrl"),
        gateway=told.get("gateway") or "",
        quota=_texts(told, "quota"),
        elastic=_flag(told, "elastic") or False,
        services=_texts(told, "services"),
    )
    _one_cluster(pulumi.Config("kubernetes").get("kubeconfig") or "")
    if found.s3_endpoint and not NAME.fullmatch(found.s3_secret):
        raise SpecError(
            f"The stack's config ekiben:s3Secret is {found.s3_secret!r}: a store of your own (ekiben:s3Endpoint) needs the name of "
            "the Secret in the platform's namespace that has its access_key_id and secret_access_key."
        )
    if found.mlflow_uri and found.mlflow_image:
        raise SpecError(
            "The stack's config names both ekiben:mlflowUri and ekiben:mlflowImage: name the server that you have, or the image of "
            "one to run."
        )
    if found.mlflow_secret and not (found.mlflow_uri and NAME.fullmatch(found.mlflow_secret)):
        raise SpecError(
            f"The stack's config ekiben:mlflowSecret is {found.mlflow_secret!r}: it is the name of the Secret in the platform's "
            "namespace that has a token, or a username and a password, for the server that ekiben:mlflowUri names."
        )
    if found.gateway and len([part for part in found.gateway.split("/") if NAME.fullmatch(part)]) != 2:
        raise SpecError(f"The stack's config ekiben:gateway is {found.gateway!r}: write NAMESPACE/NAME of the Gateway.")
    return found


def _one_cluster(asked: str) -> None:
    """Raises SpecError where Pulumi's plugin, which is told `asked`, reads another kubeconfig than Ekiben's, which has KUBECONFIG.

    The text of one holds keys, and is not told."""
    read = Path(os.environ.get("KUBECONFIG") or KUBECONFIG).expanduser()
    if not asked or ("\n" not in asked and Path(asked).expanduser().resolve() == read.resolve()):
        return
    raise SpecError(
        f"The stack's config has a kubernetes:kubeconfig, and KUBECONFIG is {str(read)!r}: Ekiben's plugin and whoever uses the "
        "platform look there, and would be on another cluster. Name the file in KUBECONFIG, and leave kubernetes:kubeconfig out; "
        "kubernetes:context chooses in it."
    )


def _url(told: pulumi.Config, key: str, *, path: bool = False) -> str:
    """Without a path unless it may have one; who asks is not said in it."""
    value, further = (told.get(key) or "").rstrip("/"), r"(/[!-~]*)?" if path else ""
    if value and not re.fullmatch(rf"https?://[^/\s@?#]+{further}", value):
        said = re.sub(r"//.*@|[?#].*", "...", value)  # who asks may be said there
        raise SpecError(f"The stack's config ekiben:{key} is {said!r}: write http://HOST:PORT or https://HOST.")
    return value


def _whole(told: pulumi.Config, key: str, default: int) -> int:
    try:
        value = told.get_int(key)
    except pulumi.ConfigTypeError as error:
        raise SpecError(f"The stack's config ekiben:{key} is no whole number: {error}.") from error
    if value is not None and value < 1:
        raise SpecError(f"The stack's config ekiben:{key} is {value}: it must be at least 1.")
    return default if value is None else value


def _share(told: pulumi.Config, key: str) -> float:
    try:
        value = told.get_float(key)
    except pulumi.ConfigTypeError as error:
        raise SpecError(f"The stack's config ekiben:{key} is no number: {error}.") from error
    if value is not None and not 0 < value <= 1:
        raise SpecError(f"The stack's config ekiben:{key} is {value:g}: it must be above 0, and 1 at most.")
    return 1.0 if value is None else value


def _flag(told: pulumi.Config, key: str) -> bool | None:
    try:
        return told.get_bool(key) if told.get(key) else None
    except pulumi.ConfigTypeError as error:
        raise SpecError(f"The stack's config ekiben:{key} is neither true nor false: {error}.") from error


def _texts(told: pulumi.Config, key: str) -> Mapping[str, str]:
    """A JSON object of texts; numbers, as in a quota, are texts, too."""
    try:
        value: Any = told.get_object(key)
    except pulumi.ConfigTypeError as error:
        raise SpecError(f"The stack's config ekiben:{key} is no JSON object: {error}.") from error
    if value is None:
        return {}
    if not isinstance(value, dict) or any(isinstance(one, dict | list | bool) or one is None for one in value.values()):
        raise SpecError(f"The stack's config ekiben:{key} is {value!r}: it is to be an object of texts.")
    return {str(name): str(one) for name, one in value.items()}
