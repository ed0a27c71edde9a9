"""What is installed of Knative Serving, made from manifests like its own."""

from __future__ import annotations

from typing import Any

from ekiben.emulators.kubernetes import knative
from ekiben.emulators.kubernetes.layout import INGRESS_INSIDE, REGISTRY

REFERENCES = {name: f"{REGISTRY}/knative/{name}@sha256:0" for name in knative.PARTS}


def manifest(kind: str, name: str, **rest: Any) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": kind, "metadata": {"name": name, "annotations": {"a": "b"}}, **rest}


def deployment(part: str) -> dict[str, Any]:
    container = {
        "image": f"ko://knative.dev/serving/cmd/{part}", "readinessProbe": {"periodSeconds": 5},
        "resources": {"requests": {"cpu": "300m"}, "limits": {"cpu": "1"}},
    }  # fmt: skip
    return manifest("Deployment", part, spec={"template": {"spec": {"containers": [container]}}})


def test_parts_run_images_of_ours_and_ask_for_little() -> None:
    made = knative.objects([deployment("controller"), deployment("activator")], REFERENCES)
    for part, one in zip(("controller", "activator"), made, strict=False):
        container = one["spec"]["template"]["spec"]["containers"][0]
        assert container["image"] == REFERENCES[part]
        assert container["resources"] == {"requests": knative.REQUESTS, "limits": {"cpu": "1"}}
        assert one["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "ekiben"


def test_examples_make_way_for_settings_and_the_rest_stays() -> None:
    image = "ko://knative.dev/serving/cmd/queue"
    given = [
        manifest("ConfigMap", "config-deployment", data={"_example": "long", "queue-sidecar-image": image}),
        manifest("ConfigMap", "config-logging", data={"_example": "long"}),
        manifest("ConfigMap", "config-gc"),
    ]
    made = {one["metadata"]["name"]: one.get("data") for one in knative.objects(given, REFERENCES)}
    assert made["config-deployment"]["queue-sidecar-image"] == REFERENCES["queue"]
    assert REGISTRY in made["config-deployment"]["registries-skipping-tag-resolving"].split(",")
    assert made["config-logging"] == made["config-gc"] == {}


def test_what_a_node_cannot_have_is_left_out_and_webhooks_come_last() -> None:
    given = [
        manifest("ValidatingWebhookConfiguration", "w"),
        manifest("HorizontalPodAutoscaler", "h"),
        manifest("PodDisruptionBudget", "p"),
        manifest("Certificate", "c"),
        manifest("Service", "s"),
    ]
    made = knative.objects(given, REFERENCES)
    assert [one["kind"] for one in made] == ["Service", "Service", "EndpointSlice", "ValidatingWebhookConfiguration"]
    host, port = INGRESS_INSIDE.split(":")
    assert made[2]["endpoints"][0]["addresses"] == [host]
    assert made[2]["ports"][0]["port"] == made[1]["spec"]["ports"][0]["targetPort"] == int(port)
