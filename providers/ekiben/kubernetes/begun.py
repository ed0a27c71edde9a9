"""Objects of Pulumi's Kubernetes plugin whose making was begun, and nobody saw it end: what they would be, if they were made.

The engine knows their names before it asks for them, and an object's id is its name with its namespace:
https://www.pulumi.com/registry/packages/kubernetes/. Whether they are there, a refresh tells.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

__all__ = ["identity"]


def identity(type: str, inputs: Mapping[str, Any], settings: Mapping[str, Any], known: Collection[str]) -> str | None:
    """The id of an object that was perhaps made; empty for a patch, which is made again and is then the same.

    Raises KeyError for what was given up before it had a name.
    """
    name = type.rpartition(":")[2]
    if name == f"{inputs.get('kind')}Patch":
        return ""
    metadata = inputs["metadata"]
    namespace = metadata.get("namespace")
    return f"{namespace}/{metadata['name']}" if namespace else str(metadata["name"])
