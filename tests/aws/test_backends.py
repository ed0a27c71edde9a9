"""The rule that says which service an endpoint is on, both ways: what is chosen holds the spec, what is refused nothing holds."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from botocore.session import get_session
from hypothesis import example, given, strategies as st

import ekiben as ek
from ekiben.aws import SUPPORT, backends, stock
from ekiben.aws.backends import BACKENDS, choose, fargate, instances, lacks, room

ROWS = {one.name: one for one in BACKENDS}


def spec(**over: Any) -> ek.EndpointSpec:
    return ek.EndpointSpec(model="tiny@champion", bento="bentos/tiny", **over)


def resources(**over: Any) -> ek.Resources:
    return ek.Resources(**{"memory_mib": 1024, **over})


SPECS = st.builds(
    lambda low, more, vcpu, memory_mib, gpus, gpu, **rest: spec(
        min_instances=low, max_instances=max(low + more, 1),
        resources=ek.Resources(vcpu=vcpu, memory_mib=memory_mib, gpus=gpus, gpu=gpu if gpus else ""), **rest,
    ),
    low=st.integers(0, 3), more=st.integers(0, 50),
    vcpu=st.sampled_from([0.25, 1, 2, 6, 7, 16, 17]),
    memory_mib=st.sampled_from([128, 1024, 6144, 6145, 10_240, 10_241, 40_000, 122_880, 122_881, 4_000_000]),
    gpus=st.sampled_from([0, 0, 1, 8, 16]), gpu=st.sampled_from(["", "T4", "nothing"]),
    timeout_s=st.sampled_from([1, 60, 60.5, 900, 901, 3600]),
    max_request_bytes=st.sampled_from([1, 4_000_000, 4_000_001, 6 * 2**20, 6 * 2**20 + 1, 10**9]),
    concurrency=st.sampled_from([1, 8, 1000]), auth=st.sampled_from(["platform", "none"]),
)  # fmt: skip


def holds(name: str, asked: ek.EndpointSpec, private: bool) -> bool:
    """The same said again in plain words, service by service."""
    size, mib = asked.resources, asked.resources.memory_mib
    if name == "lambda":
        return (
            not size.gpus and size.vcpu <= 6 and mib <= 10_240 and asked.timeout_s <= 900
            and asked.max_request_bytes <= 6_291_456
        )  # fmt: skip
    if name == "sagemaker-serverless":
        return (
            not size.gpus and mib <= 6144 and asked.timeout_s <= 60 and asked.max_request_bytes <= 4_000_000
            and asked.max_instances * asked.concurrency <= 200 and asked.auth == "platform" and not private
        )  # fmt: skip
    if name == "sagemaker-instances":
        try:
            stock.instance(size.vcpu, mib, gpus=size.gpus, gpu=size.gpu)
        except ek.NoCapacity:
            return False
        return (
            asked.timeout_s <= 60 and asked.max_request_bytes <= 6_291_456 and asked.auth == "platform"
            and asked.min_instances > 0
        )  # fmt: skip
    task = any(vcpu >= size.vcpu and mib <= most for vcpu, (_, most, _) in backends.FARGATE.items())
    return task and not size.gpus and asked.auth == "none" and asked.min_instances > 0


@given(asked=SPECS, private=st.booleans())
@example(asked=spec(), private=False)
@example(asked=spec(timeout_s=901, auth="none", min_instances=1), private=True)
@example(asked=spec(resources=ek.Resources(gpus=1, gpu="T4"), min_instances=1), private=True)
def test_the_first_that_holds_a_spec_has_it_and_none_does_when_it_is_refused(
    asked: ek.EndpointSpec, private: bool
) -> None:
    able = [one.name for one in BACKENDS if holds(one.name, asked, private)]
    assert [one.name for one in BACKENDS if not lacks(one, asked, private=private)] == able
    if able:
        assert choose("api", asked, private=private).name == able[0]
    else:
        with pytest.raises(ek.Unsupported) as caught:
            choose("api", asked, private=private)
        for one in BACKENDS:
            for lack in lacks(one, asked, private=private):
                assert f"{lack.asked}: {lack.why}" in str(caught.value)
    for one in BACKENDS:
        if one.name in able:
            assert choose("api", asked, named=one.name, private=private) is one
        else:
            with pytest.raises(ek.Unsupported, match="does not hold it"):
                choose("api", asked, named=one.name, private=private)


@given(asked=SPECS, private=st.booleans())
def test_serverless_inference_holds_nothing_that_lambda_does_not(asked: ek.EndpointSpec, private: bool) -> None:
    """It is there for those who ask for it: the rule alone never picks it."""
    assert lacks(ROWS["sagemaker-serverless"], asked, private=private) or not lacks(ROWS["lambda"], asked)


@given(asked=SPECS)
def test_there_is_room_for_what_was_asked_and_not_more(asked: ek.EndpointSpec) -> None:
    for one in BACKENDS:
        least, most = instances(one, asked)
        assert one.idle <= least <= max(most, one.idle)
        assert least >= asked.min_instances
        assert (most if one.each == 1 else most * asked.concurrency) == room(asked)


@given(
    vcpu=st.floats(0.01, 192, allow_nan=False),
    memory_mib=st.integers(128, 4_194_304),
)
def test_a_task_has_at_least_what_was_asked_in_a_size_that_there_is(vcpu: float, memory_mib: int) -> None:
    asked = ek.Resources(vcpu=vcpu, memory_mib=memory_mib)
    fit = [(row, most) for row, (_, most, _) in backends.FARGATE.items() if row >= vcpu and most >= memory_mib]
    if not fit:
        with pytest.raises(ek.NoCapacity, match="Fargate has none"):
            fargate(asked)
        return
    has_vcpu, has_mib = fargate(asked)
    least, most, step = backends.FARGATE[has_vcpu]
    assert (has_vcpu, has_mib >= memory_mib, (has_mib - least) % step) == (fit[0][0], True, 0)
    assert least <= has_mib <= most


def test_what_is_refused_says_what_to_ask_for_and_where_the_nearest_first() -> None:
    with pytest.raises(ek.Unsupported) as caught:
        choose("api", spec(timeout_s=1200, min_instances=1))
    assert str(caught.value).startswith(
        "EndpointSpec of 'api': no service of aws holds all of it. Lambda: timeout_s=1200: 900 at most; "
        "ECS Express: auth='platform': it does not ask IAM who calls; "
    )
    assert "Ask for timeout_s of 900 or less (Lambda) or auth='none' (ECS Express)" in str(caught.value)
    with pytest.raises(ek.SpecError, match="'fargate'.*lambda, ecs-express"):
        choose("api", spec(), named="fargate")


def test_what_is_too_much_for_all_services_is_too_much_for_the_provider() -> None:
    assert SUPPORT.limits.endpoint_timeout_s == max(one.timeout_s for one in BACKENDS)


def test_fewer_instances_at_most_than_at_least_are_refused() -> None:
    with pytest.raises(ek.SpecError, match="min_instances=5 is more than max_instances=4"):
        spec(min_instances=5)


def test_the_table_in_the_docs_has_every_column_of_the_rule() -> None:
    head, rule, *rows = backends.table().splitlines()
    assert head.count("|") == rule.count("|") == len(BACKENDS) + 2
    assert {row.count("|") for row in rows} == {len(BACKENDS) + 2}
    assert len(rows) >= len(dataclasses.fields(backends.Backend)) - 4


def test_the_limit_of_the_provider_is_that_of_its_most_patient_service() -> None:
    assert SUPPORT.limits.endpoint_timeout_s == max(one.timeout_s for one in BACKENDS)


def test_sagemaker_s_requests_are_as_large_as_its_api_says() -> None:
    service = get_session().get_service_model("sagemaker-runtime")
    body = service.operation_model("InvokeEndpoint").input_shape.members["Body"]
    assert ROWS["sagemaker-instances"].request_bytes == body.metadata["max"]
    assert ROWS["sagemaker-serverless"].request_bytes <= body.metadata["max"]
