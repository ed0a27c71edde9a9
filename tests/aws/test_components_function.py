"""Functions of AWS under a recording monitor: what is made, who may do what, and what is refused."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pulumi
import pytest
from cronsim import CronSim
from moto.events.models import EventPattern

import ekiben as ek
from ekiben import packing
from ekiben.aws.components import Function, Registry, Storage, triggers
from ekiben.aws.components.policies import Asked, together
from ekiben.aws.components.program import Aws
from ekiben.aws.facts import FunctionFacts, facts_of
from ekiben.emulators.aws.clock import next_time
from ekiben.errors import SpecError, Unsupported
from ekiben.local.components import Storage as LocalStorage

from .program import ACCOUNT, Recorded, run, statements

ON = (
    ek.NewData("lake", "in/"),
    ek.Schedule("0 3 * * *", "Europe/Paris"),
    ek.On("ModelDecided", "models"),
    ek.On("DriftFound"),
    ek.Http(),
)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def root(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "main.py").write_text("def handler(event, runtime): ...\n")
    return tmp_path


def program() -> list[Any]:
    lake = Storage("lake")
    other = Storage("other")
    models = Registry("models", storage=lake)
    work = Function("work", ek.FunctionSpec(source="work", on=ON, env={"A": "b"}), uses=[lake, models])
    return [lake, other, models, work]


def allowed(made: Recorded, role: str) -> list[Mapping[str, Any]]:
    """All that the inline policies of a role say."""
    found = []
    for one in made.all("RolePolicy"):
        if one.inputs["role"] == f"{role}-0123abc":
            found.extend(statements(one))
    return found


def test_the_function_is_a_zip_with_the_library_and_the_record_of_what_it_uses(root: Path) -> None:
    made = run(program, root)
    function = made.one("lambda/function:Function")
    assert (function.inputs["handler"], function.inputs["runtime"]) == ("ekiben.aws.handler.handle", "python3.13")
    variables = function.inputs["environment"]["variables"]
    assert variables == {
        "A": "b", "PYTHONPATH": "/var/task/_ekiben", "EKIBEN_PLATFORM": "/var/task/_ekiben/platform.json",
        "EKIBEN_DELIVERIES": "s3://lake-0123abc/deliveries/work",
    }  # fmt: skip
    with zipfile.ZipFile(function.inputs["code"].path) as archive:
        names = set(archive.namelist())
        record = ek.Platform.from_json(archive.read("_ekiben/platform.json").decode())
    assert names >= {"main.py", "_ekiben/ekiben/aws/handler.py", "_ekiben/obstore/__init__.py"}
    assert sorted(record.parts) == ["lake", "models"], "what it does not use it does not see"
    assert facts_of(made.parts["work"], FunctionFacts).function == "work-0123abc"


def test_an_event_is_tried_again_then_kept(root: Path) -> None:
    made = run(program, root)
    queue = f"arn:aws:sqs:eu-west-1:{ACCOUNT}:work-dead-0123abc"
    assert made.one("FunctionEventInvokeConfig").inputs["maximumRetryAttempts"] == 2
    assert made.one("lambda/function:Function").inputs["deadLetterConfig"] == {"targetArn": queue}
    for one in made.all("EventTarget"):
        assert one.inputs["deadLetterConfig"] == {"arn": queue}, one
    tls, rules = statements(made.one("QueuePolicy"))
    assert (tls["Effect"], rules["Principal"]) == ("Deny", {"Service": "events.amazonaws.com"})
    assert len(rules["Condition"]["ArnEquals"]["aws:SourceArn"]) == len(made.all("EventRule")) == 4
    group = made.one("LogGroup")
    assert group.inputs["retentionInDays"] == 30
    assert made.one("lambda/function:Function").inputs["loggingConfig"]["logGroup"] == "work-0123abc"


def test_what_starts_it_may_call_it_and_nobody_else(root: Path) -> None:
    made = run(program, root)
    patterns = {one.name: json.loads(one.inputs["eventPattern"]) for one in made.all("EventRule")}
    assert patterns["work-on-0"]["detail"]["bucket"] == {"name": ["lake-0123abc"]}
    assert patterns["work-on-2"]["detail"] == {"source": ["models"]}
    assert patterns["work-on-2-models"]["detail-type"] == ["SageMaker Model Package State Change"]
    assert patterns["work-on-3"] == {"source": ["ekiben"], "detail-type": ["DriftFound"]}
    buses = {one.name: one.inputs.get("eventBusName") for one in made.all("EventRule")}
    assert buses["work-on-2"] == buses["work-on-3"] == "small-dev-0123abc"
    assert buses["work-on-0"] is buses["work-on-2-models"] is None, "AWS's own events are on its own bus"
    rules = {f"arn:aws:events:eu-west-1:{ACCOUNT}:rule/{name}-0123abc" for name in patterns}
    assert {one.inputs["sourceArn"] for one in made.all("Permission")} == rules
    assert made.one("FunctionUrl").inputs["authorizationType"] == "AWS_IAM"
    schedule = made.one("scheduler/schedule:Schedule").inputs
    assert schedule["scheduleExpression"] == "cron(0 3 * * ? *)"
    assert schedule["scheduleExpressionTimezone"] == "Europe/Paris"
    assert json.loads(schedule["target"]["input"]) == {
        "schedule": "0 3 * * *", "zone": "Europe/Paris", "due": "<aws.scheduler.scheduled-time>", "function": "work",
    }  # fmt: skip
    assert {one["Action"][0] for one in allowed(made, "work-schedule")} == {"lambda:InvokeFunction", "sqs:SendMessage"}


def test_its_role_reaches_what_it_uses_and_nothing_else(root: Path) -> None:
    made = run(program, root)
    found = allowed(made, "work")
    resources = [resource for one in found for resource in one["Resource"]]
    assert not any("*" in action for one in found for action in one["Action"])
    assert "*" not in resources
    assert not any("other-" in resource for resource in resources)
    assert not any(action.startswith("iam:") for one in found for action in one["Action"])
    trusted = json.loads(made.one("Role", "work").inputs["assumeRolePolicy"])["Statement"][0]
    assert trusted["Condition"] == {"StringEquals": {"aws:SourceAccount": ACCOUNT}}


def test_everything_is_under_its_component_named_and_tagged(root: Path) -> None:
    made = run(program, root)
    ours = [one for one in made.made if one.type.startswith("aws:") and one.name.startswith("work")]
    assert len(ours) > 20
    for one in ours:
        assert one.parent.endswith("ekiben:aws:Function::work"), one
        if "tags" in one.inputs:
            assert one.inputs["tags"]["ekiben:component"] == "work", one
    tagged = {one.type.rpartition(":")[2] for one in ours if "tags" in one.inputs}
    assert tagged == {"Role", "Queue", "LogGroup", "Function", "EventRule", "ScheduleGroup"}


def test_no_name_is_too_long_for_aws(root: Path) -> None:
    longest = "w" + "x" * 23

    def long() -> list[Any]:
        lake = Storage("l" + "x" * 23)
        models = Registry("m" + "x" * 23, storage=lake)
        on = (*(ek.On("ModelDecided") for _ in range(11)), ek.Schedule("0 3 * * *"))
        return [Function(longest, ek.FunctionSpec(source="work", on=on), uses=[lake, models])]

    for one in run(long, root).made:
        if one.type in ("aws:iam/role:Role", "aws:lambda/function:Function", "aws:scheduler/schedule:Schedule"):
            assert len(one.name) + 8 <= 64, one
        if one.type == "aws:cloudwatch/eventRule:EventRule":
            assert len(one.name) + 8 <= 64, one


def test_two_programs_in_one_process_know_nothing_of_each_other(root: Path) -> None:
    run(program, root)

    def second() -> list[Any]:
        with pytest.raises(SpecError, match=r"on\[0\] names the storage 'lake', which the program has not made"):
            Function("work", ek.FunctionSpec(source="work", on=(ek.NewData("lake"),)))
        return []

    run(second, root)


def test_what_cannot_be_is_said_before_anything_is_made(root: Path) -> None:
    def wrong() -> list[Any]:
        spec = ek.FunctionSpec(source="work", on=(ek.On("TrainingEnded", "fit"),))
        with pytest.raises(SpecError, match="give it uses"):
            Function("one", spec)
        with pytest.raises(SpecError, match="is on aws and uses 'here', which is on local"):
            Function("two", ek.FunctionSpec(source="work"), uses=[LocalStorage("here")])
        with pytest.raises(SpecError, match="there is no folder 'nowhere'"):
            Function("three", ek.FunctionSpec(source="nowhere"))
        return []

    run(wrong, root)


def test_what_lambda_cannot_hold_is_told_all_at_once(root: Path) -> None:
    def wide() -> list[Any]:
        Function("first", ek.FunctionSpec(source="work", retries=5))
        Function("second", ek.FunctionSpec(source="work", env={f"V{number}": "x" * 500 for number in range(9)}))
        with pytest.raises(Unsupported) as caught:
            ek.export()
        text = str(caught.value)
        assert "retries=5: aws allows 2 retries at most" in text
        assert "'second': env: aws allows 4096 bytes" in text
        return []

    run(wide, root, preview=True)


def test_the_end_of_a_run_is_told_by_the_names_of_the_training_s_jobs(root: Path) -> None:
    class Fit(Aws, ek.components.Training):
        support = Storage.support

        def create(self) -> None:
            self.ref, self.facts = pulumi.Output.from_input("r"), pulumi.Output.from_input({"storage_uri": "s3://lake"})

        def needs(self) -> Asked:
            return together()

    (root / "train.py").write_text("")

    def trains() -> list[Any]:
        fit = Fit("fit", ek.TrainingSpec(source="."), storage=Storage("lake"))
        Function("work", ek.FunctionSpec(source="work", on=(ek.On("TrainingEnded", "fit"),)), uses=[fit])
        return []

    (rule,) = run(trains, root).all("EventRule")
    pattern = json.loads(rule.inputs["eventPattern"])
    (name,) = pattern["detail"]["TrainingJobName"]
    platform = ek.Platform(project="small", stack="dev")
    from ekiben.aws.jobs import scope_of

    assert name == {"suffix": f"-{scope_of(platform.project, platform.stack, 'fit', 's3://lake')}"}


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("0 3 * * *", "cron(0 3 * * ? *)"),
        ("*/15 9-17 * * 1-5", "cron(0,15,30,45 9-17 ? * MON,TUE,WED,THU,FRI *)"),
        ("5 0 1 jan,jul *", "cron(5 0 1 1,7 ? *)"),
        ("0 12 * * 7", "cron(0 12 ? * SUN *)"),
        ("0 12 * * sun,6", "cron(0 12 ? * SUN,SAT *)"),
        ("1-59/2 * * * *", f"cron({','.join(map(str, range(1, 60, 2)))} * * * ? *)"),
    ],
)
def test_cron_expressions_say_the_same_in_both_dialects(ours: str, theirs: str) -> None:
    assert triggers.cron(ours) == theirs
    assert len(theirs) <= 256
    at = datetime(2026, 2, 27, 23, 59, tzinfo=UTC)
    times = CronSim(ours, at.astimezone(ZoneInfo("Europe/Paris")))
    for _ in range(20):
        wanted = next(times)
        at = next_time(theirs, "Europe/Paris", at, at)  # type: ignore[assignment]
        assert at == wanted


@pytest.mark.parametrize(
    ("prefix", "suffix", "key", "wanted"),
    [
        ("", "", "x", True), ("in/", "", "in/x", True), ("in/", "", "out/x", False), ("", ".csv", "a/x.csv", True),
        ("in/", ".csv", "in/a/x.csv", True), ("in/", ".csv", "in/x.txt", False), ("a*b/", ".c", "a*b/x.c", True),
    ],
)  # fmt: skip
def test_new_objects_are_those_with_such_keys(prefix: str, suffix: str, key: str, wanted: bool) -> None:
    pattern = triggers.landed("lake", ek.NewData("lake", prefix, suffix=suffix))
    event = {
        "source": "aws.s3", "detail-type": "Object Created", "detail": {"bucket": {"name": "lake"}, "object": {"key": key}},
    }  # fmt: skip
    if "*" in prefix:
        assert pattern["detail"]["object"]["key"] == [{"wildcard": "a\\*b/*.c"}]
    else:
        assert EventPattern.load(json.dumps(pattern)).matches_event(event) == wanted


def test_the_same_contents_are_the_same_zip(root: Path) -> None:
    (root / "b").write_bytes(b"2")
    one = packing.zipped({"a": b"1", "b": root / "b"})
    first = one.path.read_bytes()
    one.path.unlink()
    again = packing.zipped({"b": b"2", "a": b"1"})
    assert (again, again.path.read_bytes()) == (one, first)
    assert packing.zipped({"a": b"2", "b": b"2"}) != one


@pytest.mark.parametrize(
    ("tag", "machine", "python", "wanted"),
    [
        ("cp311-abi3-manylinux_2_17_x86_64", "x86_64", "3.13", True),
        ("cp311-abi3-manylinux_2_17_aarch64", "x86_64", "3.13", False),
        ("cp311-abi3-macosx_11_0_arm64", "arm64", "3.13", False),
        ("cp314-abi3-manylinux2014_x86_64", "x86_64", "3.13", False),
        ("cp312-cp312-manylinux2014_x86_64", "x86_64", "3.13", False),
        ("cp313-cp313-manylinux2014_x86_64", "x86_64", "3.13", True),
        ("py3-none-any", "aarch64", "3.13", True),
    ],
)
def test_a_wheel_fits_or_is_fetched(tag: str, machine: str, python: str, wanted: bool) -> None:
    from ekiben.packing.wheels import fits

    assert fits(tag, machine, python) == wanted
