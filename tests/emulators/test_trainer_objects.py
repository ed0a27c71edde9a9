"""What is installed of Kubeflow's Trainer, made from manifests like its own."""

from __future__ import annotations

import base64
import json
from typing import Any

from ekiben.emulators.kubernetes import trainer

REFERENCES = {name: f"registry/{name}@sha256:0" for name in trainer.DEPLOYMENTS}


def manifest(kind: str, name: str, **rest: Any) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": kind, "metadata": {"name": name, "labels": {"a": "b"}}, **rest}


def deployment(name: str) -> dict[str, Any]:
    container = {
        "name": "manager",
        "image": "theirs:1",
        "command": ["/manager"],
        "readinessProbe": {"initialDelaySeconds": 10},
    }
    volumes = [
        {"name": "config", "configMap": {"name": "config"}},
        {"name": "cert", "secret": {"secretName": f"{name}-cert"}},
    ]
    pod = {"containers": [container], "volumes": volumes}
    return manifest("Deployment", name, spec={"template": {"spec": pod}})


def installed(*manifests: dict[str, Any]) -> list[dict[str, Any]]:
    return trainer.objects(manifests, REFERENCES, b"trusted", b"certificate", b"key")


def test_its_parts_run_images_of_ours_with_certificates_of_ours() -> None:
    given = [deployment(name) for name in trainer.DEPLOYMENTS]
    made = installed(manifest("Secret", "jobset-controller-manager-cert"), *given)
    pods = {one["metadata"]["name"]: one["spec"]["template"]["spec"] for one in made if one["kind"] == "Deployment"}
    for name, reference in REFERENCES.items():
        (container,) = pods[name]["containers"]
        assert container["image"] == reference
        assert "command" not in container
        assert container["resources"]["requests"] == trainer.REQUESTS
        assert container["readinessProbe"]["initialDelaySeconds"] == 0
    secrets = {one["metadata"]["name"]: one for one in made if one["kind"] == "Secret"}
    assert set(secrets) == {f"{name}-cert" for name in trainer.DEPLOYMENTS}
    for secret in secrets.values():
        told = {name: base64.b64decode(value) for name, value in secret["data"].items()}
        assert told == {"ca.crt": b"trusted", "tls.crt": b"certificate", "tls.key": b"key"}
    assert {one["metadata"]["labels"]["app.kubernetes.io/managed-by"] for one in made} == {"ekiben"}
    assert "resources" not in given[0]["spec"]["template"]["spec"]["containers"][0], "what was given stays"


def test_what_they_would_do_for_themselves_is_turned_off_where_they_speak_of_it() -> None:
    theirs = (
        "kind: Configuration\nleaderElection: {leaderElect: true, leaseDuration: 15s}\ncertManagement: {enable: true}\n"
    )
    (made,) = installed(manifest("ConfigMap", "config", data={"controller_manager_config.yaml": theirs}))
    assert json.loads(made["data"]["controller_manager_config.yaml"]) == {
        "kind": "Configuration", "leaderElection": {"leaderElect": False, "leaseDuration": "15s"},
        "certManagement": {"enable": False},
    }  # fmt: skip


def test_webhooks_trust_the_certificates_and_come_last() -> None:
    webhook = {"clientConfig": {"service": {"name": "webhook-service"}}}
    definition = manifest(
        "CustomResourceDefinition", "jobsets", spec={"conversion": {"strategy": "Webhook"}, "versions": []}
    )
    made = installed(
        manifest("ValidatingWebhookConfiguration", "w", webhooks=[webhook]), manifest("Service", "s"), definition
    )
    assert [one["kind"] for one in made] == ["Service", "CustomResourceDefinition", "ValidatingWebhookConfiguration"]
    assert made[1]["spec"] == {"versions": []}
    (told,) = made[2]["webhooks"]
    assert base64.b64decode(told["clientConfig"]["caBundle"]) == b"trusted"
    assert told["clientConfig"]["service"]["name"] == "webhook-service"
