"""What a Provider resource, or a stack's `kubernetes:` config, says."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ekiben.emulators.kubernetes.plugin.server import Server, connected
from ekiben.errors import SpecError

__all__ = ["KNOWN", "Settings", "cluster_of", "settings"]

FLAGS = {
    "deleteUnreachable": False, "enableConfigMapMutable": False, "enablePatchForce": False, "enableSecretMutable": False,
    "enableServerSideApply": True, "upsertExistingObjects": False,
}  # fmt: skip
TEXTS = ("cluster", "context", "kubeconfig", "namespace")
# They say what not to say, or how fast to ask; or are the engine's.
QUIET = ("clusterIdentifier", "kubeClientSettings", "suppressDeprecationWarnings", "suppressHelmHookWarnings", "version",
         "pluginDownloadURL")  # fmt: skip
KNOWN = frozenset({*FLAGS, *TEXTS, *QUIET})
DEFAULT = "~/.kube/config"


@dataclass(frozen=True)
class Settings:
    """Where, and the flags by their names on the wire."""

    texts: Mapping[str, str]
    flags: Mapping[str, bool]

    def server(self) -> Server:
        """Raises SpecError where the kubeconfig cannot be used."""
        asked = self.texts.get("kubeconfig") or os.environ.get("KUBECONFIG") or DEFAULT
        return connected(
            asked, self.texts.get("context", ""), self.texts.get("cluster", ""), self.texts.get("namespace", "")
        )

    def mutable(self) -> frozenset[str]:
        """The kinds whose content changes in place."""
        return frozenset(kind for kind in ("ConfigMap", "Secret") if self.flags[f"enable{kind}Mutable"])


def settings(config: Mapping[str, Any]) -> Settings:
    """From the wire, where all is text, or from the environment's PULUMI_K8S_ variables. Raises SpecError."""
    flags = {}
    for name, otherwise in FLAGS.items():
        value = config.get(name, os.environ.get(VARIABLES.get(name, ""), otherwise))
        if str(value).lower() not in ("true", "false", "1", "0"):
            raise SpecError(f"kubernetes: cannot be configured: {name} is {value!r}. Write true or false.")
        flags[name] = str(value).lower() in ("true", "1")
    if not flags["enableServerSideApply"]:
        raise SpecError(
            "kubernetes: cannot be configured: the stand-in plugin works by server-side apply. Leave enableServerSideApply out."
        )
    return Settings({name: _text(config[name]) for name in TEXTS if config.get(name)}, flags)


VARIABLES = {
    "deleteUnreachable": "PULUMI_K8S_DELETE_UNREACHABLE",
    "enableConfigMapMutable": "PULUMI_K8S_ENABLE_CONFIGMAP_MUTABLE",
    "enablePatchForce": "PULUMI_K8S_ENABLE_PATCH_FORCE",
    "enableSecretMutable": "PULUMI_K8S_ENABLE_SECRET_MUTABLE",
    "upsertExistingObjects": "PULUMI_K8S_UPSERT_EXISTING_OBJECTS",
}


def cluster_of(config: Mapping[str, Any]) -> str:
    """What tells one cluster from another: its identifier, else its address; empty where neither is known."""
    if config.get("clusterIdentifier"):
        return str(config["clusterIdentifier"])
    try:
        return settings(config).server().address
    except SpecError:
        return ""


def _text(value: Any) -> str:
    """A kubeconfig may be given as an object, too."""
    return value if isinstance(value, str) else json.dumps(value)
