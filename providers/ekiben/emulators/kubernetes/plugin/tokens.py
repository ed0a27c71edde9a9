"""Types as Pulumi names them, ids, and the SDK's classes: `kubernetes:core/v1:Pod` is the kind Pod of the API v1."""

from __future__ import annotations

import functools
import importlib.util
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ekiben.emulators.plugins.types import problems
from ekiben.errors import Unsupported

__all__ = ["Token", "id_of", "parts_of", "problems_of", "token_of"]

# Groups of the SDK that are no groups of an API server.
COMPONENTS = ("helm.sh/", "kustomize/", "yaml/")


@dataclass(frozen=True)
class Token:
    """`api` and `kind` of the API server; patch: it changes what others have made, and takes back no more than its changes."""

    api: str
    kind: str
    patch: bool = False

    def __str__(self) -> str:
        return f"{self.api} {self.kind}"


def token_of(urn: str, inputs: Mapping[str, Any]) -> Token:
    """What a resource is. Raises Unsupported for what is no object of an API server."""
    token = urn.split("::")[2].rpartition("$")[2]
    _, middle, name = token.split(":")
    if middle.startswith(COMPONENTS):
        raise Unsupported(
            f"kubernetes: cannot make {token}: the stand-in plugin makes the API server's own objects only. "
            "Write them in the program, or read them with pulumi_kubernetes.yaml.ConfigFile."
        )
    api = str(inputs.get("apiVersion") or middle.removeprefix("core/"))
    module = _module(middle)
    patch = name.endswith("Patch") and (inputs.get("kind", "") == name[:-5] or (module is not None and not inputs))
    kind = name[:-5] if patch else name
    if kind.endswith("List") and module is not None and _is_list(module, kind):
        raise Unsupported(
            f"kubernetes: cannot make {token}: a list is no object of its own. Make its items, or use pulumi_kubernetes.yaml."
        )
    return Token(api, kind, patch)


def problems_of(urn: str, inputs: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What the SDK's types say against the inputs; nothing of a kind that it does not have: the server judges these."""
    _, middle, name = urn.split("::")[2].rpartition("$")[2].split(":")
    module = _module(middle)
    if module is None or not _has(module, name):
        return []
    found = problems(module, name, inputs)
    # What a Secret was given instead may be its content.
    return [(at, why.partition(", and is ")[0]) for at, why in found] if name.startswith("Secret") else found


def id_of(thing: Mapping[str, Any]) -> str:
    metadata = thing["metadata"]
    namespace = metadata.get("namespace")
    return f"{namespace}/{metadata['name']}" if namespace else str(metadata["name"])


def parts_of(id: str) -> tuple[str, str]:
    """(namespace, name)."""
    namespace, _, name = id.rpartition("/")
    return namespace, name


@functools.cache
def _module(middle: str) -> str | None:
    """The SDK's module of `apps/v1` or `networking.k8s.io/v1`; None where it has none, as of custom resources."""
    group, _, version = middle.partition("/")
    package = f"pulumi_kubernetes.{group.partition('.')[0]}"
    known = "." not in group or group.endswith(".k8s.io")
    if not known or not re.fullmatch(r"v\d+((alpha|beta)\d+)?", version):
        return None
    try:
        return f"{package}.{version}" if importlib.util.find_spec(f"{package}.{version}") else None
    except ModuleNotFoundError:
        return None


def _has(module: str, name: str) -> bool:
    return hasattr(importlib.import_module(module), name)


def _is_list(module: str, name: str) -> bool:
    return _has(module, name) and _has(module, name[:-4])
