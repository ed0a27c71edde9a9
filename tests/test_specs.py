"""What you ask for is checked offline, and every refusal names the value, the place and the fix."""

from __future__ import annotations

import importlib
import json
import string
from typing import Any

import pytest
from hypothesis import given, strategies as st
from pydantic import ValidationError

import ekiben as ek
from ekiben import monitoring, specs
from ekiben.features import Feature, Limits, Support

ALL: list[type[specs.Spec]] = [
    specs.StorageSpec,
    specs.RegistrySpec,
    specs.TrainingSpec,
    specs.EndpointSpec,
    specs.FunctionSpec,
    monitoring.MonitorSpec,
    monitoring.BudgetSpec,
    specs.Resources,
    specs.NewData,
    specs.Schedule,
    specs.Http,
    specs.On,
]
MAIL = ("ops@example.org",)
ENDPOINT = {"model": "m@champion", "bento": "b"}


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: ek.StorageSpec(verioning="off"), ["verioning", "did you mean 'versioning'"]),
        (lambda: ek.StorageSpec(keep_versions_days="thirty"), ["keep_versions_days='thirty'"]),
        (lambda: ek.StorageSpec(expire_days={"tmp/": 0}), ["expire_days.tmp/=0"]),
        (lambda: ek.TrainingSpec(), ["source", "required"]),
        (lambda: ek.TrainingSpec(source="s", timeout=60), ["timeout", "timeout_s"]),
        (lambda: ek.TrainingSpec(source="s", timeout_s="1h"), ["timeout_s='1h'"]),
        (lambda: ek.TrainingSpec(source="s", timeout_s=3_000_000), ["timeout_s=3000000", "2419200"]),
        (lambda: ek.TrainingSpec(source="s", entry="../evil.py"), ["entry='../evil.py'"]),
        (lambda: ek.TrainingSpec(source="s", inputs={"Data": "lake/"}), ["Data"]),
        (lambda: ek.TrainingSpec(source="s", env={"lower": "x"}), ["lower"]),
        (lambda: ek.TrainingSpec(source="s", env={"A": "x" * 513}), ["512"]),
        (lambda: ek.TrainingSpec(source="s", resources={"memory": 1}), ["memory", "memory_mib"]),
        (lambda: ek.Resources(vcpu=float("nan")), ["vcpu=nan"]),
        (lambda: ek.Resources(memory_mib=64), ["memory_mib=64", "128"]),
        (lambda: ek.EndpointSpec(model="no alias", bento="b"), ["model='no alias'"]),
        (lambda: ek.EndpointSpec(**ENDPOINT, auth="open"), ["auth='open'", "'none'"]),
        (lambda: ek.EndpointSpec(**ENDPOINT, concurrency=0), ["concurrency=0"]),
        (lambda: ek.FunctionSpec(source="f", timeout_s=901), ["timeout_s=901", "900"]),
        (lambda: ek.FunctionSpec(source="f", on=[{"type": "Moon"}]), ["Moon"]),
        (lambda: ek.MonitorSpec(notify=("ops",)), ["notify.0='ops'"]),
        (lambda: ek.MonitorSpec(notify=("http://hooks.example.org/x",)), ["notify.0"]),
        (lambda: ek.MonitorSpec(notify=("https://user:word@hooks.example.org/",)), ["notify.0"]),
        (lambda: ek.MonitorSpec(window_s=90), ["window_s=90", "60"]),
        (lambda: ek.MonitorSpec(endpoint_errors_percent=0), ["endpoint_errors_percent=0"]),
        (lambda: ek.MonitorSpec(function_failures=0), ["function_failures=0"]),
        (lambda: ek.BudgetSpec(monthly_usd=100, notify=()), ["notify=()"]),
        (lambda: ek.BudgetSpec(monthly_usd=0, notify=MAIL), ["monthly_usd=0"]),
        (lambda: ek.BudgetSpec(monthly_usd=1, notify=("https://hooks.example.org/",)), ["notify.0"]),
        (lambda: ek.BudgetSpec(monthly_usd=1, notify=MAIL, spent_percent=(), forecast_percent=()), ["nobody", "told"]),
        (lambda: ek.BudgetSpec(monthly_usd=1, notify=MAIL, spent_percent=(0.0,)), ["spent_percent.0=0.0"]),
        (lambda: ek.NewData("Lake!"), ["Lake!"]),
        (lambda: ek.On("lower"), ["lower"]),
        (lambda: ek.Schedule("* * * *"), ["'* * * *'", "5 fields", "4"]),
        (lambda: ek.Schedule("0 3 1 * 1"), ["AWS"]),
        (lambda: ek.Schedule("0 0 31 2 *"), ["31 2"]),
        (lambda: ek.Schedule("0 3 L * *"), ["L, W"]),
        (lambda: ek.Schedule("61 * * * *"), ["61"]),
        (lambda: ek.Schedule("0 3 * * *", "Mars/Olympus"), ["Mars/Olympus", "Europe/Paris"]),
        (lambda: ek.Schedule("0 3 * * *", "../../etc/passwd"), ["IANA"]),
    ],
)
def test_d12_a_bad_value_is_named_with_its_place(make: Any, says: list[str]) -> None:
    with pytest.raises(ek.SpecError) as caught:
        make()
    for word in says:
        assert word in str(caught.value)
    assert isinstance(caught.value, ValueError)


def test_d12_all_that_is_wrong_is_said_at_once() -> None:
    with pytest.raises(ek.SpecError) as caught:
        ek.EndpointSpec(model="x", min_instances=-1, colour="red")
    for word in ("model='x'", "bento: it is required", "min_instances=-1", "colour"):
        assert word in str(caught.value)


@pytest.mark.parametrize(
    "cron", ["0 3 * * *", "*/5 * * * *", "0 9 * * 1-5", "30 2 1 * *", "0 0 1 JAN *", "0 12 * * MON,FRI"]
)
def test_a_cron_that_every_provider_can_express_is_taken(cron: str) -> None:
    assert ek.Schedule(cron, "Europe/Paris").cron == cron


@pytest.mark.parametrize("name", ["lake", "abc", "a-b", "employment-api", "a1", "x" * 24][:-2] + ["x" * 24])
def test_a_name_that_every_provider_takes(name: str) -> None:
    assert specs.check_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "a",
        "ab",
        "Lake",
        "1lake",
        "-lake",
        "lake-",
        "la--ke",
        "la_ke",
        "lake.x",
        "läke",
        "駅弁弁",
        "x" * 25,
        "a b",
        "lake\n",
    ],
)
def test_d12_a_name_that_some_provider_refuses(name: str) -> None:
    with pytest.raises(ek.SpecError, match="3 to 24"):
        specs.check_name(name)


@given(st.text(alphabet=string.ascii_lowercase + string.digits + "-", max_size=30))
def test_the_two_rules_for_names_agree(name: str) -> None:
    def by(check: Any) -> bool:
        try:
            check()
        except ek.SpecError:
            return False
        return True

    assert by(lambda: specs.check_name(name)) == by(lambda: ek.NewData(name))


@pytest.mark.parametrize("spec", ALL)
def test_a_spec_is_frozen_strict_and_described(spec: type[specs.Spec]) -> None:
    assert spec.model_config["frozen"]
    assert spec.model_config["extra"] == "forbid"
    for name, field in spec.model_fields.items():
        assert field.description or name == "type", f"{spec.__name__}.{name} has no description"
    json.dumps(spec.model_json_schema())
    with pytest.raises((ValidationError, AttributeError)):
        ek.StorageSpec().retain = True  # type: ignore[misc]


def test_d8_all_that_a_provider_lacks_is_said_with_reason_and_options() -> None:
    nothing = Support(
        provider="moon", features={f: "the moon has no air" for f in Feature}, limits=Limits(endpoint_timeout_s=10)
    )
    everything = Support(provider="earth", features={f: True for f in Feature})
    spec = ek.EndpointSpec(**ENDPOINT, resources=ek.Resources(gpus=1), auth="none")
    with pytest.raises(ek.Unsupported) as caught:
        specs.check_support("api", spec, nothing, (everything,))
    for word in (
        "'api'",
        "min_instances=0",
        "resources.gpus=1",
        "auth='none'",
        "the moon has no air",
        "earth",
        "timeout_s=60",
        "10 s",
    ):
        assert word in str(caught.value)
    specs.check_support("api", spec, everything)


def test_every_feature_can_be_asked_for_or_is_a_fact() -> None:
    asked = {
        feature
        for spec in (
            ek.StorageSpec(versioning="required", kms_key="k", expire_days={"a": 1}),
            ek.RegistrySpec(mirror="required"),
            ek.TrainingSpec(source="s", nodes=2, spot=True, resources=ek.Resources(gpus=1)),
            ek.EndpointSpec(**ENDPOINT, auth="none", resources=ek.Resources(gpus=1)),
            ek.FunctionSpec(source="f", on=(ek.NewData("lake"), ek.Schedule("0 3 * * *"), ek.Http(), ek.On("Custom"))),
            ek.MonitorSpec(provision="required"),
            ek.BudgetSpec(monthly_usd=1, notify=MAIL, provision="required"),
        )
        for feature, _ in specs.wants(spec)
    }
    facts = {Feature.HOLD_FIRST_REQUEST, Feature.TRAFFIC_SPLIT, Feature.REVISION_TAG, Feature.DEAD_LETTERS}
    assert asked | facts == set(Feature)


@pytest.mark.parametrize("provider", sorted(ek.providers()))
def test_a_provider_has_the_three_modules(provider: str) -> None:
    package = ek.providers()[provider]
    face = "Storage", "Registry", "Training", "Endpoint", "Function"
    for module, kinds in {"components": (*face, "Monitor", "Budget"), "runtime": face}.items():
        found = importlib.import_module(f"{package}.{module}")
        for kind in kinds:
            assert hasattr(found, kind), f"{package}.{module} has no {kind}"
