"""Facts survive JSON, a wrong one is named, and pods are of the shape that "restricted" asks for."""

import pytest

from ekiben.errors import SpecError
from ekiben.kubernetes.facts import S3, StorageFacts, facts_of, labels, namespace_name
from ekiben.kubernetes.pods import pod, s3_variables
from ekiben.records import Part, Platform

STORE = S3(url="http://s3.shop-dev.svc:7070", secret="s3-keys", service="s3:7070")


def storage(**facts: object) -> Part:
    given = StorageFacts(namespace="shop-dev", uri="s3://lake", s3=STORE).to_dict()
    return Part(name="lake", kind="storage", provider="kubernetes", ref="lake", facts={**given, **facts})


def test_facts_survive_the_platforms_json() -> None:
    part = Part.from_json(storage().to_json())
    assert facts_of(part, StorageFacts).s3 == STORE


def test_an_unknown_fact_is_named_with_its_part() -> None:
    with pytest.raises(SpecError, match=r"storage 'lake' is not one of kubernetes: .*'password'.*ekiben up"):
        facts_of(storage(password="x"), StorageFacts)


def test_what_is_made_for_a_run_says_whose_it_is() -> None:
    made = labels(Platform(project="shop", stack="dev"), storage(), run="r-1")
    assert made == {
        "app.kubernetes.io/managed-by": "ekiben", "ekiben.dev/project": "shop", "ekiben.dev/stack": "dev",
        "ekiben.dev/component": "lake", "ekiben.dev/run": "r-1",
    }  # fmt: skip


def test_a_pod_may_do_nothing_that_it_does_not_need() -> None:
    made = pod("job", "python:3.11", vcpu=0.5, memory_mib=256, gpus=2, variables=s3_variables(STORE))
    (container,) = made["containers"]
    security = container["securityContext"]
    assert security["runAsNonRoot"]
    assert security["readOnlyRootFilesystem"]
    assert not security["allowPrivilegeEscalation"]
    assert security["capabilities"] == {"drop": ["ALL"]}
    assert security["seccompProfile"]["type"] == "RuntimeDefault"
    assert made["automountServiceAccountToken"] is False
    wanted = {"cpu": "500m", "memory": "256Mi", "nvidia.com/gpu": "2"}
    assert container["resources"] == {"requests": wanted, "limits": wanted}
    # Keys come from the Secret, and are nowhere in the pod's own text.
    keys = [one for one in container["env"] if "valueFrom" in one]
    assert {one["valueFrom"]["secretKeyRef"]["name"] for one in keys} == {"s3-keys"}
    assert len(keys) == 2


def test_a_namespace_s_name_is_one_and_no_other_stack_s() -> None:
    assert namespace_name("shop", "dev") == "shop-dev"
    changed = {
        namespace_name(*one) for one in (("Shop", "dev"), ("shop", "de_v"), ("s" * 50, "d" * 50), ("sho.p", "dev"))
    }
    assert len(changed) == 4
    assert all(len(one) <= 63 and one.isascii() and one.lower() == one for one in changed)
