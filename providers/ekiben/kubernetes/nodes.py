"""Which nodes a pod may be put on: GPUs by their neutral names, and spot capacity, in the words of each kind of cluster.

One table for all clusters: NVIDIA's GPU Feature Discovery (on-premises, and wherever its operator is), GKE, EKS with Karpenter.
Labels: https://github.com/NVIDIA/k8s-device-plugin/tree/main/docs/gpu-feature-discovery,
https://cloud.google.com/kubernetes-engine/docs/how-to/gpus, https://karpenter.sh/docs/concepts/scheduling/,
https://cloud.google.com/kubernetes-engine/docs/concepts/spot-vms, https://learn.microsoft.com/azure/aks/spot-node-pool and
https://docs.aws.amazon.com/eks/latest/userguide/managed-node-groups.html.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ekiben.errors import Unsupported

__all__ = ["GPUS", "GPU_RESOURCE", "placement"]

GPU_RESOURCE = "nvidia.com/gpu"
DISCOVERED, GKE, KARPENTER = (
    "nvidia.com/gpu.product", "cloud.google.com/gke-accelerator", "karpenter.k8s.aws/instance-gpu-name",
)  # fmt: skip
# The neutral name -> label -> the values that a node with that GPU has.
GPUS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "T4": {DISCOVERED: ("Tesla-T4",), GKE: ("nvidia-tesla-t4",), KARPENTER: ("t4",)},
    "L4": {DISCOVERED: ("NVIDIA-L4",), GKE: ("nvidia-l4",), KARPENTER: ("l4",)},
    "A10G": {DISCOVERED: ("NVIDIA-A10G",), KARPENTER: ("a10g",)},
    "L40S": {DISCOVERED: ("NVIDIA-L40S",), KARPENTER: ("l40s",)},
    "A100-40": {
        DISCOVERED: ("NVIDIA-A100-SXM4-40GB", "NVIDIA-A100-PCIE-40GB"),
        GKE: ("nvidia-tesla-a100",),
        KARPENTER: ("a100",),
    },
    "A100-80": {DISCOVERED: ("NVIDIA-A100-SXM4-80GB", "NVIDIA-A100-80GB-PCIe"), GKE: ("nvidia-a100-80gb",)},
    "H100": {
        DISCOVERED: ("NVIDIA-H100-80GB-HBM3", "NVIDIA-H100-PCIe"),
        GKE: ("nvidia-h100-80gb", "nvidia-h100-mega-80gb"),
        KARPENTER: ("h100",),
    },
    "H200": {DISCOVERED: ("NVIDIA-H200",), GKE: ("nvidia-h200-141gb",), KARPENTER: ("h200",)},
}
# What nodes of spot capacity are labelled with, and the taints that keep others off them.
SPOT: Mapping[str, str] = {
    "cloud.google.com/gke-spot": "true",
    "karpenter.sh/capacity-type": "spot",
    "eks.amazonaws.com/capacityType": "SPOT",
    "kubernetes.azure.com/scalesetpriority": "spot",
}
PREFERENCE = 100  # the most that there is


def placement(*, gpus: int = 0, gpu: str = "", spot: bool = False) -> dict[str, Any]:
    """What a PodSpec says of its nodes: `affinity` and `tolerations`, where there is anything to say.

    A GPU that is named is asked for by any one of the labels that clusters have for it. Spot capacity is preferred, not asked for:
    a cluster without any runs the pod as well. Raises Unsupported for a name that is not in the table.
    """
    affinity: dict[str, Any] = {}
    if gpus and gpu:
        affinity["requiredDuringSchedulingIgnoredDuringExecution"] = {
            "nodeSelectorTerms": [_term(label, *values) for label, values in _labels(gpu).items()]
        }
    if spot:
        affinity["preferredDuringSchedulingIgnoredDuringExecution"] = [
            {"weight": PREFERENCE, "preference": _term(label, value)} for label, value in SPOT.items()
        ]
    tolerations = [{"key": GPU_RESOURCE, "operator": "Exists", "effect": "NoSchedule"}] if gpus else []
    if spot:
        tolerations += [
            {"key": label, "operator": "Equal", "value": value, "effect": "NoSchedule"} for label, value in SPOT.items()
        ]
    found: dict[str, Any] = {"affinity": {"nodeAffinity": affinity}} if affinity else {}
    return {**found, "tolerations": tolerations} if tolerations else found


def _labels(gpu: str) -> Mapping[str, tuple[str, ...]]:
    """ "A100" takes both A100-40 and A100-80."""
    found: dict[str, tuple[str, ...]] = {}
    for name, labels in GPUS.items():
        if name == gpu or name.startswith(f"{gpu}-"):
            for label, values in labels.items():
                found[label] = (*found.get(label, ()), *values)
    if not found:
        raise Unsupported(
            f"resources.gpu={gpu!r}: kubernetes knows no label of nodes with it. Ask for one of {', '.join(GPUS)}, or for any GPU "
            "by leaving it out."
        )
    return found


def _term(label: str, *values: str) -> dict[str, Any]:
    return {"matchExpressions": [{"key": label, "operator": "In", "values": list(values)}]}
