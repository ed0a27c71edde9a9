"""Kubeflow's Trainer in the cluster, with the JobSet that it needs: built from their modules, installed from their manifests.

Different from what they come with are their webhooks' certificates, which are the cluster's own: those that they would make for
themselves reach them a minute late.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ekiben.emulators.kubernetes import binaries, images, installing
from ekiben.emulators.kubernetes.api import Api, Refused
from ekiben.emulators.kubernetes.installing import Object, Patience, Say
from ekiben.emulators.kubernetes.layout import REGISTRY, Layout
from ekiben.emulators.kubernetes.pki import Authority
from ekiben.errors import ProviderError

__all__ = ["MODULE", "ensure", "objects"]

JOBSET = "sigs.k8s.io/jobset"
# JobSet in the version that it pins, with which it shares most of what they are made of.
MODULE = binaries.Module(
    path="github.com/kubeflow/trainer/v2", version="v2.3.0", cpu_s=160,
    packages={"trainer-controller-manager": "cmd/trainer-controller-manager", "jobset-controller-manager": JOBSET},
)  # fmt: skip
# Folders of manifests, by module: what `manifests/overlays/manager` puts together, which takes JobSet's from the network.
MANIFESTS = {
    JOBSET: ("config/default",),
    MODULE.path: tuple(f"manifests/base/{name}" for name in ("crds", "manager", "rbac", "webhook")),
}
NAMESPACE = "kubeflow-system"
# Deployment -> its binary, and the Service by which the API server calls its webhooks.
DEPLOYMENTS = {
    "kubeflow-trainer-controller-manager": ("trainer-controller-manager", "kubeflow-trainer-controller-manager"),
    "jobset-controller-manager": ("jobset-controller-manager", "jobset-webhook-service"),
}
# Over their own configurations, where those speak of it: there is one of each, and it has its certificate.
SETTINGS: Mapping[str, Object] = {
    "leaderElection": {"leaderElect": False},
    "certManagement": {"enable": False},
    "internalCertManagement": {"enable": False},
}
LABELS = {"app.kubernetes.io/managed-by": "ekiben"}
REQUESTS = {"cpu": "20m", "memory": "60Mi"}
LAST = ("MutatingWebhookConfiguration", "ValidatingWebhookConfiguration")
MARK, CERTIFICATE = "trainer", "trainer-webhooks"
PATIENCE_S = 180.0
KUSTOMIZE_S = 60.0


def ensure(at: Layout, say: Say = lambda line: None) -> None:
    """Have the Trainer in the cluster that runs; returns when a TrainJob would be taken. Repeating is safe and cheap.

    Raises what `binaries.ensure` does, and Unavailable where it does not come up.
    """
    with (at.state / f"{MARK}.lock").open("w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _ensure(Api(at.kubeconfig), at, say)


def _ensure(api: Api, at: Layout, say: Say) -> None:
    folder = binaries.ensure(say, [MODULE])
    binary = {name: folder / of for name, (of, _) in DEPLOYMENTS.items()}
    references = {
        name: images.push(REGISTRY, images.of_binary(f"trainer/{path.name}:{MODULE.version}", path))
        for name, path in binary.items()
    }
    authority = Authority(at.pki)
    # Nobody, where it is shown as a client's.
    names = tuple(f"{service}.{NAMESPACE}.svc" for _, service in DEPLOYMENTS.values())
    authority.issue(CERTIFICATE, "ekiben:webhooks", names=names)
    files = {end: (at.pki / f"{CERTIFICATE}.{end}").read_bytes() for end in ("crt", "key")}
    kept = installing.manifests(f"trainer-{MODULE.version}", _manifests)
    patience = Patience("Kubeflow's Trainer", f"See `kubectl get pods --namespace {NAMESPACE}`", PATIENCE_S)
    wanted = objects(kept, references, authority.certificate.read_bytes(), files["crt"], files["key"])
    installing.apply(api, wanted, at.state / MARK, patience, say)
    for name in DEPLOYMENTS:
        patience.until(f"its {name}", lambda name=name: installing.available(api, NAMESPACE, name))  # type: ignore[misc]
    patience.until("its admission", lambda: _takes(api))


def objects(
    manifests: Iterable[Object], references: Mapping[str, str], trusted: bytes, certificate: bytes, key: bytes
) -> list[Object]:
    """What is installed: their manifests with images of ours, by the Deployment's name, and with `SETTINGS`; in order.

    certificate, key: of their webhooks, by the authority `trusted`; all as PEM.
    """
    files = {"ca.crt": trusted, "tls.crt": certificate, "tls.key": key}
    encoded = {name: base64.b64encode(content).decode() for name, content in files.items()}
    made = [_object(one, references, encoded["ca.crt"]) for one in manifests if one["kind"] != "Secret"]
    pods = [one["spec"]["template"]["spec"] for one in made if one["kind"] == "Deployment"]
    made += [
        {
            "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls", "data": encoded,
            "metadata": {"name": volume["secret"]["secretName"], "namespace": NAMESPACE, "labels": dict(LABELS)},
        }
        for pod in pods
        for volume in pod["volumes"]
        if "secret" in volume
    ]  # fmt: skip
    return sorted(made, key=lambda one: one["kind"] in LAST)


def _object(manifest: Object, references: Mapping[str, str], trusted: str) -> Object:
    made: Object = json.loads(json.dumps(manifest))
    about = made["metadata"]
    about["labels"] = {**about.get("labels", {}), **LABELS}
    if made["kind"] == "CustomResourceDefinition":
        made["spec"].pop("conversion", None)  # each has one version
    if made["kind"] in LAST:
        for webhook in made["webhooks"]:
            webhook["clientConfig"]["caBundle"] = trusted
    if made["kind"] == "ConfigMap":
        made["data"] = {name: _settings(text) for name, text in made["data"].items()}
    if made["kind"] == "Deployment":
        for container in made["spec"]["template"]["spec"]["containers"]:
            container.pop("command", None)  # the image's own
            container["image"] = references[about["name"]]
            container["resources"] = {**container.get("resources", {}), "requests": dict(REQUESTS)}
            container["readinessProbe"] |= {"initialDelaySeconds": 0, "periodSeconds": 1}
    return made


def _settings(text: str) -> str:
    import yaml

    told = yaml.safe_load(text)
    return json.dumps(told | {name: {**told[name], **over} for name, over in SETTINGS.items() if name in told})


def _manifests() -> list[Object]:
    """Theirs, put together by the kustomize that kubectl has."""
    import yaml

    folders = binaries.sources(MODULE, *MANIFESTS)
    with tempfile.TemporaryDirectory() as work:
        # It takes folders by relative paths alone.
        resources = [
            os.path.relpath(folders[path] / name, Path(work).resolve())
            for path, names in MANIFESTS.items()
            for name in names
        ]
        Path(work, "kustomization.yaml").write_text(
            json.dumps({"namespace": NAMESPACE, "resources": resources}), "utf-8"
        )
        try:
            done = subprocess.run(
                [str(binaries.cache() / "bin" / "kubectl"), "kustomize", work],
                stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=KUSTOMIZE_S, check=True,
            )  # fmt: skip
        except (OSError, subprocess.SubprocessError) as error:
            said = (str(getattr(error, "stderr", "") or "").strip() or str(error)).rstrip(".")
            raise ProviderError("kubernetes", "put the Trainer's manifests together", said, "Repeat it") from error
    # The definitions are a megabyte and more, which PyYAML by itself takes a minute for.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return [one for one in yaml.load_all(done.stdout, loader) if one]  # noqa: S506 - safe both


def _takes(api: Api) -> bool:
    """Would the webhooks of both take what is theirs? They are asked without making anything."""
    pod = {"restartPolicy": "Never", "containers": [{"name": "node", "image": f"{REGISTRY}/{images.PAUSE}"}]}
    template: dict[str, Any] = {
        "spec": {"replicatedJobs": [{"name": "node", "template": {"spec": {"template": {"spec": pod}}}}]}
    }
    about = {"name": "would-it", "namespace": "default"}
    runtime = {
        "apiVersion": "trainer.kubeflow.org/v1alpha1", "kind": "TrainingRuntime", "metadata": about,
        "spec": {"template": template},
    }  # fmt: skip
    jobset = {"apiVersion": "jobset.x-k8s.io/v1alpha2", "kind": "JobSet", "metadata": about, **template}
    try:
        for one, plural in ((runtime, "trainingruntimes"), (jobset, "jobsets")):
            api.create(f"/apis/{one['apiVersion']}/namespaces/default/{plural}?dryRun=All", one)
    except Refused:
        return False
    return True
