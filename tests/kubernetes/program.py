"""Programs of Kubernetes components under a recording monitor, and what Pod Security's level "restricted" asks of their pods."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pulumi

from tests.recording import Made, Recording, ran

__all__ = ["NAMESPACE", "SETTINGS", "Recorded", "not_restricted", "pods", "rules", "run"]

NAMESPACE = "small-dev"
SETTINGS = {"ekiben:registry": "registry.example/ekiben", "ekiben:knative": "true"}


class Recorded(Recording):
    """The cluster answers with what it was asked for, Ekiben's plugin with names."""

    def outputs(self, args: pulumi.runtime.MockResourceArgs) -> dict[str, Any]:
        told = args.inputs
        return {
            "ekiben:kubernetes:Owner": lambda: {"owner": "ann@laptop-1"},
            "ekiben:kubernetes:Keys": lambda: {"uid": "uid-1"},
            "ekiben:kubernetes:Bucket": lambda: {"uri": f"s3://{told['bucket']}"},
            "ekiben:kubernetes:Object": lambda: {"uri": f"s3://{told['bucket']}/{told['key']}"},
            "ekiben:kubernetes:Wheels": lambda: {"uri": f"s3://{told['bucket']}/{told['key']}"},
            "ekiben:kubernetes:Image": lambda: {"image_uri": f"{told['repository']}@sha256:{told['tag']}"},
        }.get(args.typ, dict)()

    def objects(self) -> list[Made]:
        """What is made in the cluster."""
        return [one for one in self.made if one.type.startswith("kubernetes:")]


def run(
    program: Callable[[], Any], root: Path, config: Mapping[str, str] | None = None, *, preview: bool = False
) -> Recorded:
    """Run a program of the project `small`, stack `dev`, at `root`, with `config` over what every stack says."""
    pulumi.runtime.set_all_config({**SETTINGS, **(config or {})})
    recorded = Recorded()
    try:
        ran(recorded, program, root, preview=preview)
    finally:
        pulumi.runtime.set_all_config({})
    return recorded


def pods(recorded: Recorded) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every PodSpec there is, in what was made and in what runs and deployments make of the facts."""
    for one in recorded.objects():
        spec = one.inputs.get("spec") or {}
        if "jobTemplate" in spec:
            spec = spec["jobTemplate"]["spec"]
        if "template" in spec:
            yield str(one), spec["template"]["spec"]
    for part in recorded.parts.values():
        if "pod" in part.facts:
            yield f"facts of {part.name}", part.facts["pod"]


def not_restricted(pod: Mapping[str, Any]) -> list[str]:
    """What of a PodSpec breaks https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted."""
    whole, found = pod.get("securityContext") or {}, []
    found += [name for name in ("hostNetwork", "hostPID", "hostIPC") if pod.get(name)]
    allowed = {
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "persistentVolumeClaim",
        "projected",
        "secret",
    }
    found += [f"volume {one['name']}" for one in pod.get("volumes") or () if not allowed & one.keys()]
    for container in [*pod["containers"], *(pod.get("initContainers") or ())]:
        own = container.get("securityContext") or {}
        told = {**whole, **own}
        wrong = {
            "privileged": own.get("privileged"),
            "allowPrivilegeEscalation": own.get("allowPrivilegeEscalation") is not False,
            "runAsNonRoot": told.get("runAsNonRoot") is not True,
            "runAsUser": told.get("runAsUser") == 0,
            "seccompProfile": told.get("seccompProfile", {}).get("type") not in ("RuntimeDefault", "Localhost"),
            "capabilities": own.get("capabilities", {}).get("drop") != ["ALL"] or own["capabilities"].get("add"),
            "hostPort": any(port.get("hostPort") for port in container.get("ports") or ()),
        }
        found += [f"{container['name']}: {name}" for name, broken in wrong.items() if broken]
    return found


def rules(recorded: Recorded, name: str) -> list[Mapping[str, Any]]:
    """Those of a Role."""
    return list(recorded.one("Role", name).inputs["rules"])
