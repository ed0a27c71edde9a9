"""Volumes for the claims of the default storage class: each is a folder of the cluster's data, gone when its claim is deleted.

They are `local` volumes, so that the kubelet gives them to a pod's fsGroup.
"""

from __future__ import annotations

import logging
import shutil
import threading
from pathlib import Path

from ekiben.emulators.kubernetes.api import Api, Object, Refused
from ekiben.emulators.kubernetes.layout import NODE_NAME

__all__ = ["CLASS", "provide"]

CLASS = "ekiben"
PROVISIONER = "ekiben.dev/folder"
CLAIMS, VOLUMES = "/api/v1/persistentvolumeclaims", "/api/v1/persistentvolumes"
logger = logging.getLogger(__name__)


def provide(api: Api, folder: Path) -> None:
    """Have a default storage class, and see to its claims, from now on, in threads of this process."""
    folder.mkdir(parents=True, exist_ok=True)
    api.apply(f"/apis/storage.k8s.io/v1/storageclasses/{CLASS}", _storage_class())
    for path, see_to in ((CLAIMS, _claims), (VOLUMES, _released)):
        threading.Thread(
            target=api.follow, args=(path, lambda held, see=see_to: see(api, folder, held)), daemon=True
        ).start()


def _claims(api: Api, folder: Path, held: dict[tuple[str, str], Object]) -> None:
    for claim in held.values():
        spec, about = claim["spec"], claim["metadata"]
        # A claim that waits for its first pod is told, by the scheduler, when there is one.
        chosen = about.get("annotations", {}).get("volume.kubernetes.io/selected-node")
        if (
            spec.get("storageClassName") != CLASS
            or spec.get("volumeName")
            or "deletionTimestamp" in about
            or not chosen
        ):
            continue
        name = f"pvc-{about['uid']}"
        place = folder / name
        try:
            place.mkdir(exist_ok=True)
            place.chmod(0o777)
            api.create(VOLUMES, _volume(name, place, claim))
        except (OSError, Refused):
            logger.exception("no volume for the claim %s", about["name"])


def _released(api: Api, folder: Path, held: dict[tuple[str, str], Object]) -> None:
    for volume in held.values():
        spec, name = volume["spec"], volume["metadata"]["name"]
        ours = spec.get("storageClassName") == CLASS and spec.get("local", {}).get("path") == str(folder / name)
        if ours and volume["status"].get("phase") == "Released" and spec["persistentVolumeReclaimPolicy"] == "Delete":
            shutil.rmtree(folder / name, ignore_errors=True)
            try:
                api.delete(f"{VOLUMES}/{name}")
            except (OSError, Refused):
                logger.exception("the volume %s is not deleted", name)


def _storage_class() -> Object:
    return {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {"name": CLASS, "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
        "provisioner": PROVISIONER,
        "reclaimPolicy": "Delete",
        "volumeBindingMode": "WaitForFirstConsumer",
    }


def _volume(name: str, place: Path, claim: Object) -> Object:
    about = claim["metadata"]
    here = {"key": "kubernetes.io/hostname", "operator": "In", "values": [NODE_NAME]}
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name, "annotations": {"pv.kubernetes.io/provisioned-by": PROVISIONER}},
        "spec": {
            "storageClassName": CLASS,
            "capacity": claim["spec"]["resources"]["requests"],
            "accessModes": claim["spec"]["accessModes"],
            "persistentVolumeReclaimPolicy": "Delete",
            "volumeMode": claim["spec"].get("volumeMode", "Filesystem"),
            "local": {"path": str(place)},
            "claimRef": {
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "namespace": about["namespace"],
                "name": about["name"],
                "uid": about["uid"],
            },
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [here]}]}},
        },
    }
