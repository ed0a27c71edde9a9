"""When the stand-in for Kubernetes takes an object for ready."""

from __future__ import annotations

from typing import Any

import pytest
from pulumi.runtime.rpc import UNKNOWN

from ekiben.emulators.kubernetes.plugin.readiness import Lost, rule_of
from ekiben.emulators.kubernetes.plugin.waits import problems
from ekiben.errors import SpecError

from .test_kubernetes_rules import noted, of


def conditions(**said: str) -> dict[str, Any]:
    return {
        "conditions": [
            {"type": key, "status": value, "reason": "R", "message": "because"} for key, value in said.items()
        ]
    }


SEEN = {"observedGeneration": 2}


def nothing(api: str, kind: str, namespace: str, labels: str) -> list[dict[str, Any]]:
    return []


def endpoints(api: str, kind: str, namespace: str, labels: str) -> list[dict[str, Any]]:
    return [{"endpoints": [{"conditions": {"ready": True}}]}] if labels.endswith("=x") else []


@pytest.mark.parametrize(
    ("thing", "why"),
    [
        (of("apps/v1/Deployment", replicas=2), "its controller has not seen it yet"),
        (of("apps/v1/Deployment", SEEN, replicas=2), "0 of 2 replicas are as asked"),
        (of("apps/v1/Deployment", {**SEEN, "updatedReplicas": 2, "replicas": 3}, replicas=2), "1 old replicas are still there"),
        (of("apps/v1/Deployment", {**SEEN, "updatedReplicas": 2, "replicas": 2, "availableReplicas": 1}, replicas=2),
         "1 of 2 replicas are available"),
        (of("apps/v1/Deployment", {**SEEN, "updatedReplicas": 2, "replicas": 2, "availableReplicas": 2}, replicas=2), ""),
        (of("apps/v1/Deployment", SEEN, replicas=0), ""),
        (of("apps/v1/StatefulSet", {**SEEN, "replicas": 1, "readyReplicas": 0}, replicas=1), "0 of 1 replicas are ready"),
        (of("apps/v1/StatefulSet", {**SEEN, "replicas": 2, "readyReplicas": 2, "updatedReplicas": 1, "updateRevision": "b",
                                    "currentRevision": "a"}, replicas=2), "1 of 2 replicas are as asked"),
        (of("apps/v1/StatefulSet", {**SEEN, "replicas": 2, "readyReplicas": 2, "updatedReplicas": 1, "updateRevision": "b",
                                    "currentRevision": "a"}, replicas=2, updateStrategy={"rollingUpdate": {"partition": 1}}), ""),
        (of("apps/v1/DaemonSet", {**SEEN, "desiredNumberScheduled": 3, "updatedNumberScheduled": 3, "numberAvailable": 2}),
         "2 of 3 pods are available"),
        (of("batch/v1/Job", {"active": 1}), "it is not complete: 0 pods have succeeded, 1 run"),
        (of("batch/v1/Job", conditions(Complete="True")), ""),
        (of("batch/v1/Job", suspend=True), ""),
        (of("v1/Pod", {"phase": "Pending"}), "it is Pending"),
        (of("v1/Pod", {"phase": "Running", **conditions(Ready="True")}), ""),
        (of("v1/Service", selector={"a": "b"}), "it has no endpoints: none of the pods that it selects is ready"),
        (of("v1/Service"), ""),
        (of("v1/Service", type="ExternalName", selector={"a": "b"}), ""),
        (of("v1/Service", type="LoadBalancer"), "it has no address from a load balancer"),
        (of("v1/PersistentVolumeClaim", {"phase": "Pending"}), "it is Pending: no volume is bound to it"),
        (of("v1/PersistentVolumeClaim", {"phase": "Bound"}), ""),
        (of("apiextensions.k8s.io/v1/CustomResourceDefinition", conditions(Established="True")), ""),
        (of("serving.knative.dev/v1/Service", {**SEEN, **conditions(Ready="False")}), "it is not Ready (R: because)"),
        (of("serving.knative.dev/v1/Service", {"observedGeneration": 1, **conditions(Ready="True")}),
         "its controller has not seen it yet"),
        (of("serving.knative.dev/v1/Service", {**SEEN, **conditions(Ready="True")}), ""),
    ],
)  # fmt: skip
def test_what_is_ready(thing: dict[str, Any], why: str) -> None:
    rule = rule_of(thing)
    assert rule is not None
    assert rule(thing, nothing) == why


def test_a_service_and_what_is_before_it_are_ready_with_their_endpoints() -> None:
    service = of("v1/Service", selector={"a": "b"})
    rule = rule_of(service)
    assert rule is not None
    assert rule(service, endpoints) == ""
    paths = [{"backend": {"service": {"name": name}}} for name in ("x", "y")]
    ingress = of("networking.k8s.io/v1/Ingress", rules=[{"http": {"paths": paths}}])
    rule = rule_of(ingress)
    assert rule is not None
    assert rule(ingress, endpoints) == "the service y behind it has no endpoints"
    paths.pop()
    assert rule(ingress, endpoints) == "it has no address: no ingress controller has taken it up"
    ingress["status"] = {"loadBalancer": {"ingress": [{"ip": "1.2.3.4"}]}}
    assert rule(ingress, endpoints) == ""


@pytest.mark.parametrize(
    "thing",
    [
        of("batch/v1/Job", conditions(Failed="True")),
        of("v1/Pod", {"phase": "Failed", "reason": "Evicted"}),
        of(
            "apps/v1/Deployment",
            {**SEEN, "conditions": [{"type": "Progressing", "reason": "ProgressDeadlineExceeded"}]},
        ),
        of("apiextensions.k8s.io/v1/CustomResourceDefinition", conditions(NamesAccepted="False")),
    ],
)
def test_what_never_will_be_ready(thing: dict[str, Any]) -> None:
    rule = rule_of(thing)
    assert rule is not None
    with pytest.raises(Lost):
        rule(thing, nothing)


def test_what_is_ready_when_it_is_there() -> None:
    assert rule_of(of("v1/ConfigMap")) is None
    assert rule_of(noted(of("apps/v1/Deployment"), skipAwait="true")) is None


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ("condition=Good", ""),
        ("condition=Good=False", "its condition Good is not False"),
        ("jsonpath={.status.phase}=Running", ""),
        ("jsonpath={.status.phase}=Gone", ".status.phase is not 'Gone'"),
        ("jsonpath={.status.address}", ".status.address is not there"),
        ("jsonpath={.status.list[0].flag}=true", ""),
        ('jsonpath={.status.list[?(@.name=="b")].n}=2', ""),
        ("jsonpath={.status['list'][*].n}=2", ""),
        ('["condition=Good", "jsonpath={.status.list[7]}"]', ".status.list[7] is not there"),
    ],
)
def test_what_the_program_waits_for(said: str, why: str) -> None:
    status = {"phase": "Running", "list": [{"flag": True}, {"name": "b", "n": 2}], **conditions(Good="True")}
    thing = noted(of("example.com/v1/Thing", status), waitFor=said)
    rule = rule_of(thing)
    assert rule is not None
    assert rule(thing, nothing) == why


@pytest.mark.parametrize("said", ["later", "jsonpath=.a", "jsonpath={.a..b}", "condition=", "[", '["x"]'])
def test_waiting_for_nothing_that_is_understood_is_refused(said: str) -> None:
    thing = noted(of("v1/Pod"), waitFor=said)
    with pytest.raises(SpecError, match="cannot wait for"):
        rule_of(thing)
    assert [at for at, _ in problems(thing)] == ['metadata.annotations["pulumi.com/waitFor"]']


def test_how_long_to_wait_is_a_number_or_not_known_yet() -> None:
    assert [why for _, why in problems(noted(of("v1/Pod"), timeoutSeconds="soon"))] == [
        "kubernetes: cannot wait 'soon' seconds. Write a number into pulumi.com/timeoutSeconds."
    ]
    for said in ("60", "0.5", UNKNOWN):
        assert list(problems(noted(of("v1/Pod"), timeoutSeconds=said, waitFor=UNKNOWN))) == []
