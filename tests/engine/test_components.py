"""The local components under a recording monitor: parents, names, tags, what is passed on, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pulumi
import pytest
from pulumi.runtime import settings

import ekiben as ek
from ekiben import packing
from ekiben.errors import SpecError
from ekiben.local.components import Budget, Endpoint, Function, Monitor as Watch, Registry, Storage, Training

from .conftest import Project


class Monitor(pulumi.runtime.Mocks):
    """Answers as the plugin does, and keeps every resource: (type, name) -> inputs."""

    def __init__(self) -> None:
        self.made: dict[tuple[str, str], dict[str, Any]] = {}

    def new_resource(self, args: pulumi.runtime.MockResourceArgs) -> tuple[str | None, dict[Any, Any]]:
        self.made[args.typ, args.name] = dict(args.inputs)
        facts = {"uri": f"file:///state/{args.name}", "url": f"http://127.0.0.1:1/{args.name}"}
        return f"{args.name}-id", {**args.inputs, "facts": facts, "url": "http://127.0.0.1:1"}

    def call(self, args: pulumi.runtime.MockCallArgs) -> dict[Any, Any]:
        return {}

    def inputs(self, kind: str, name: str) -> dict[str, Any]:
        return self.made[f"ekiben:station:{kind}", name]


@pytest.fixture
def run(bare: Project, monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], Any]], Any]:
    """Runs a program of the project `small`, stack `dev`, under a monitor of its own; returns what the program returned."""
    monkeypatch.chdir(bare.root)
    (bare.root / "bentos" / "box").mkdir(parents=True)

    def run(program: Callable[[], Any], *, preview: bool = False) -> tuple[Monitor, dict[str, Any]]:
        monitor = Monitor()
        pulumi.runtime.set_mocks(monitor, project="small", stack="dev", preview=preview)
        settings.SETTINGS.root_directory = str(bare.root)  # type: ignore[attr-defined]
        known: dict[str, Any] = {}

        def wrapped() -> None:
            for component in program():
                component.part.apply(lambda part: known.__setitem__(part.name, part))
                component.urn.apply(lambda urn, name=component.name: known.__setitem__(f"urn:{name}", urn))

        pulumi.runtime.test(wrapped)()
        return monitor, known

    return run


@pytest.fixture(autouse=True)
def _template(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No bento is built here."""
    tar = tmp_path / "template.tar"
    tar.write_bytes(b"")
    monkeypatch.setattr(packing, "template", lambda folder: packing.Bundle(tar, "ab" * 32), raising=False)


def whole() -> list[Any]:
    lake = Storage("lake", ek.StorageSpec(retain=True))
    models = Registry("models", ek.RegistrySpec(require_approval=False), storage=lake)
    job = Training(
        "job",
        ek.TrainingSpec(source="training_jobs/job", inputs={"rows": "lake/rows/"}, params={"depth": 4, "rate": 1.0}),
        storage=lake,
    )
    api = Endpoint("box-api", ek.EndpointSpec(model="job@champion", bento="bentos/box"), registry=models)
    hello = Function(
        "hello",
        ek.FunctionSpec(source="functions/hello", on=(ek.NewData("lake", "rows/"), ek.Http())),
        uses=[models, job, api],
    )
    alone = Function("alone", ek.FunctionSpec(source="functions/hello", on=(ek.Http(),)))
    parts = [lake, models, job, api, hello, alone]
    ek.export(*parts)
    return parts


def test_parts_have_the_facts_that_the_runtime_needs(run: Callable[..., Any], bare: Project) -> None:
    _, known = run(whole)
    state = str(bare.root / ".ekiben" / "dev")
    facts = {name: part.facts for name, part in known.items() if not name.startswith("urn:")}
    assert facts["lake"]["uri"] == "file:///state/lake"
    assert facts["models"] == {"uri": "file:///state/lake/registry/models", "require_approval": False, "station": state}
    assert facts["job"] == {"station": state, "storage_uri": "file:///state/lake", "model": "job"}
    assert facts["box-api"] == {
        "station": state,
        "url": "http://127.0.0.1:1/box-api",
        "storage_uri": "file:///state/lake",
        "model": "job@champion",
        "template_uri": "file:///state/box-api-template",
        "template_sha256": "ab" * 32,
    }
    assert facts["hello"] == {"station": state, "url": "http://127.0.0.1:1/hello"}
    assert known["job"].ref == "small/dev/training/job"


def test_d6_d11_everything_is_under_its_component_and_tagged(run: Callable[..., Any]) -> None:
    monitor, known = run(whole)
    for (token, name), inputs in monitor.made.items():
        if not token.startswith("ekiben:station:") or token.endswith(":Host"):
            continue
        owner = inputs["tags"]["ekiben:component"]
        assert name.startswith(owner), f"{name} belongs to {owner}"
        assert (inputs["tags"]["ekiben:platform"], inputs["tags"]["ekiben:stack"]) == ("small", "dev")
        assert inputs["state_dir"].endswith("/.ekiben/dev")
    hosts = [name for token, name in monitor.made if token.endswith(":Host")]
    assert hosts == ["station"], "one station for the whole program"
    assert known["urn:hello"].endswith("ekiben:local:Function::hello")
    assert {token.rpartition(":")[2] for token, _ in monitor.made} >= {"Bucket", "Object", "Training", "Record"}


def test_specs_keep_the_types_of_their_numbers(run: Callable[..., Any]) -> None:
    monitor, _ = run(whole)
    spec = json.loads(monitor.inputs("Training", "job")["spec"])
    assert repr(spec["params"]) == "{'depth': 4, 'rate': 1.0}"
    assert ek.TrainingSpec(**spec).params == {"depth": 4, "rate": 1.0}
    assert monitor.inputs("Training", "job")["input_uris"] == {"rows": "file:///state/lake/rows/"}


def test_d16_a_function_is_given_what_it_uses_and_no_more(run: Callable[..., Any]) -> None:
    monitor, _ = run(whole)
    given = monitor.inputs("Function", "hello")
    assert given["uses"] == ["box-api", "job", "models"]
    assert sorted(ek.Platform.from_json(given["platform"]).parts) == ["box-api", "job", "models"]
    assert given["bucket_uris"] == {"lake": "file:///state/lake"}
    assert monitor.inputs("Object", "hello-code")["bucket"] == "lake"
    assert monitor.inputs("Function", "alone")["uses"] == []
    assert monitor.inputs("Object", "alone-code")["bucket"] == "alone-bucket", "it has no storage: one of its own"


def test_no_input_holds_a_secret_or_an_absolute_source_but_of_archives(run: Callable[..., Any]) -> None:
    monitor, _ = run(whole)
    for (token, name), inputs in monitor.made.items():
        text = json.dumps(inputs)
        assert "token" not in text, (token, name)
        assert "4dabf18193072939515e22adb298388d" not in text, f"{name} has a secret value"


def test_the_exported_platform_is_written_as_a_record(run: Callable[..., Any]) -> None:
    monitor, _ = run(whole)
    record = ek.Platform.from_json(monitor.inputs("Record", "platform")["platform"])
    assert (record.project, record.stack) == ("small", "dev")
    assert sorted(record.parts) == ["alone", "box-api", "hello", "job", "lake", "models"]


def test_code_is_named_by_its_content(run: Callable[..., Any], bare: Project) -> None:
    first, _ = run(whole)
    (bare.root / "training_jobs" / "job" / "train.py").write_text("print(2)\n")
    second, _ = run(whole)
    before, after = (monitor.inputs("Object", "job-code") for monitor in (first, second))
    assert before["sha256"] != after["sha256"]
    assert after["key"] == f"code/{after['sha256']}.tar"
    assert before["name"] != after["name"]
    assert first.inputs("Object", "hello-code") == second.inputs("Object", "hello-code")


def refused(run: Callable[..., Any], program: Callable[[], Any]) -> str:
    def listed() -> list[Any]:
        program()
        return []

    with pytest.raises(SpecError) as told:
        run(listed)
    return str(told.value)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"source": "training_jobs/none"}, "there is no folder 'training_jobs/none' in"),
        ({"source": "training_jobs/job", "entry": "fit.py"}, "has no file 'fit.py'"),
        ({"source": "../elsewhere"}, "is not below the project's folder"),
        ({"source": "/etc"}, "is not below the project's folder"),
    ],
)
def test_a_source_that_is_not_there_is_refused(run: Callable[..., Any], spec: dict[str, Any], words: str) -> None:
    told = refused(run, lambda: Training("job", ek.TrainingSpec(**spec), storage=Storage("lake")))
    assert "The training 'job'" in told
    assert words in told


def test_a_function_without_a_handler_is_refused(run: Callable[..., Any], bare: Project) -> None:
    (bare.root / "functions" / "empty").mkdir()
    told = refused(run, lambda: Function("hello", ek.FunctionSpec(source="functions/empty")))
    assert "has no file 'main.py'" in told


def test_new_data_of_an_unknown_storage_is_refused(run: Callable[..., Any]) -> None:
    spec = ek.FunctionSpec(source="functions/hello", on=(ek.NewData("lage"),))
    told = refused(run, lambda: Function("hello", spec, uses=[Storage("lake")]))
    assert "on[0] names the storage 'lage'" in told
    assert "it has made: lake" in told


def test_a_grant_after_the_fact_is_refused(run: Callable[..., Any]) -> None:
    def program() -> None:
        lake = Storage("lake")
        lake.grant(Function("hello", ek.FunctionSpec(source="functions/hello")))

    assert "give it uses=[lake, ...]" in refused(run, program)


def test_a_cron_that_cannot_be_expressed_is_refused() -> None:
    with pytest.raises(SpecError, match="restricted"):
        ek.Schedule("0 3 1 * 1")


def test_d13_two_components_of_one_name_are_refused(run: Callable[..., Any]) -> None:
    def program() -> list[Any]:
        cloud = ek.provider("local")
        lake = cloud.Storage("lake")
        ek.export(lake, cloud.Registry("lake", storage=lake))
        return []

    with pytest.raises(SpecError, match="Two components are called 'lake'"):
        run(program)


def test_a_monitor_and_a_budget_make_nothing_where_the_provider_lacks_them(run: Callable[..., Any]) -> None:
    def program() -> list[Any]:
        hello = Function("hello", ek.FunctionSpec(source="functions/hello"))
        watch = Watch("watch", watches=[hello])
        limit = Budget("limit", ek.BudgetSpec(monthly_usd=20, notify=("ops@example.org",)))
        ek.export(hello, watch, limit)
        return [hello]

    monitor, known = run(program)
    assert {name for token, name in monitor.made if "hello" not in name and token.startswith("ekiben:station")} == {
        "station", "platform",
    }  # fmt: skip
    record = ek.Platform.from_json(monitor.inputs("Record", "platform")["platform"])
    assert sorted(record.parts) == ["hello"], "no runtime uses them"
    assert known["hello"].kind == "function"


def test_d8_a_monitor_and_a_budget_that_are_required_are_refused_together(run: Callable[..., Any]) -> None:
    def program() -> list[Any]:
        watch = Watch("watch", ek.MonitorSpec(provision="required"), watches=[])
        spec = ek.BudgetSpec(monthly_usd=20, notify=("ops@example.org",), provision="required")
        ek.export(watch, Budget("limit", spec))
        return []

    with pytest.raises(ek.Unsupported) as told:
        run(program)
    for words in ("MonitorSpec of 'watch'", "BudgetSpec of 'limit'", "provision='required'", "nobody bills"):
        assert words in str(told.value)


def test_a_monitor_watches_what_acts_only(run: Callable[..., Any]) -> None:
    told = refused(run, lambda: Watch("watch", watches=[Storage("lake")]))  # type: ignore[list-item]
    assert "'lake', a storage: it watches endpoints, functions and trainings" in told
