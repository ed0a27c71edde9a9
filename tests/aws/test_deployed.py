"""A stack of AWS components under the real engine, on an emulated AWS: one stack from `up` to `destroy`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest

import ekiben as ek
from ekiben.emulators import stacks
from ekiben.emulators.aws import stop
from tests.waiting import until

pytestmark = pytest.mark.engine

PROGRAM = """
import ekiben as ek

cloud = ek.provider()
lake = cloud.Storage("lake", ek.StorageSpec(expire_days={"seen/": 30}))
models = cloud.Registry("models", storage=lake)
watch = cloud.Function(
    "watch",
    ek.FunctionSpec(
        source="functions/watch", retries=0, env={"WORD": "Grüße"},
        on=(ek.NewData("lake", "in/", suffix=".csv"), ek.Schedule("* * * * *", "Europe/Paris"), ek.On("ModelDecided", "models")),
    ),
    uses=[lake, models],
)
alone = cloud.Function("alone", ek.FunctionSpec(source="functions/alone", on=(ek.Http(),)))
ek.export(lake, models, watch, alone)
"""
WATCH = """
import json, os
import ekiben as ek

def handler(event: ek.Event, runtime: ek.Runtime) -> str:
    lake = runtime.storage("lake")
    if event.subject == "in/bad.csv":
        raise ValueError("this one cannot be read")
    told = {"type": event.type, "subject": event.subject, "word": os.environ["WORD"], **event.data}
    lake.put(f"seen/{event.type}-{event.id[-12:]}.json", json.dumps(told, ensure_ascii=False).encode())
    return event.type
"""
ALONE = "def handler(event, runtime):\n    return {'twice': 2 * event.data['x']}\n"
REGION = "eu-west-1"


class Stack:
    """The project, its runtime, and what stands outside and looks."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def ekiben(self, *words: str) -> Any:
        done = subprocess.run(
            [sys.executable, "-m", "ekiben.cli", *words, "--json"], cwd=self.root, text=True, capture_output=True,
            timeout=280, stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout)

    def client(self, service: str) -> Any:
        return boto3.session.Session().client(service, region_name=REGION)

    @property
    def record(self) -> Path:
        return self.root / ".ekiben" / "dev" / "platform.json"

    @property
    def runtime(self) -> ek.Runtime:
        return ek.connect(self.record)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Made by `up`; what is left of it at the end goes with the emulator."""
    root = tmp_path_factory.mktemp("deployed").resolve()
    (root / "Pulumi.yaml").write_text("name: small\nruntime: python\nmain: infra/\n")
    (root / "Pulumi.dev.yaml").write_text(
        f"config:\n  ekiben:provider: aws\n  ekiben:emulate: true\n  aws:region: {REGION}\n"
    )
    for path, text in {
        "infra/__main__.py": PROGRAM, "functions/watch/main.py": WATCH, "functions/alone/main.py": ALONE,
    }.items():  # fmt: skip
        (root / path).parent.mkdir(parents=True)
        (root / path).write_text(text)
    with pytest.MonkeyPatch.context() as env:
        for name in os.environ:
            if name.startswith(("PULUMI_", "EKIBEN_", "AWS_")) and name != "PULUMI_SKIP_UPDATE_CHECK":
                env.delenv(name)
        made = Stack(root)
        made.ekiben("up")
        server = stacks.found(root)
        assert server is not None
        for name, value in server.environment.items():
            env.setenv(name, value)
        yield made
    stop(stacks.state_dir(root))


def seen(stack: Stack, type_: str) -> list[dict[str, Any]]:
    lake = stack.runtime.storage("lake")
    return [json.loads(lake.get(one.key)) for one in lake.list(f"seen/{type_}-")]


def test_another_up_changes_nothing(stack: Stack) -> None:
    assert stack.ekiben("up")["changes"] == {}


def test_the_record_is_where_the_command_line_looks(stack: Stack) -> None:
    told = {part["name"]: part["kind"] for part in stack.ekiben("status")["parts"]}
    assert told == {"lake": "storage", "models": "registry", "watch": "function", "alone": "function"}


def test_data_starts_the_function_that_waits_for_it(stack: Stack) -> None:
    lake = stack.runtime.storage("lake")
    lake.put("in/a.txt", b"not this one")
    lake.put("in/駅.csv", b"x\n1\n")
    until(lambda: seen(stack, "NewData"), "the new object started nothing")
    (told,) = seen(stack, "NewData")
    assert (told["subject"], told["word"], told["uri"]) == ("in/駅.csv", "Grüße", lake.uri("in/駅.csv"))


def test_a_decision_is_an_event_wherever_it_is_made(stack: Stack) -> None:
    models = stack.runtime.registry("models")
    versions = [
        models.register(
            ek.ModelVersion(
                model="tiny", version=0, key=f"r{number}", digest=str(number) * 64, bento_uri="s3://x/y.tar", created_at="",
                created_by="me",
            )
        )
        for number in (1, 2)
    ]  # fmt: skip
    models.decide(versions[0].id, "approved", who="me", why="good")
    until(lambda: seen(stack, "ModelDecided"), "the decision was not told")
    sagemaker = stack.client("sagemaker")
    (group,) = sagemaker.list_model_package_groups()["ModelPackageGroupSummaryList"]
    packages = sagemaker.list_model_packages(ModelPackageGroupName=group["ModelPackageGroupName"])
    waiting = next(
        one for one in packages["ModelPackageSummaryList"] if one["ModelApprovalStatus"] == "PendingManualApproval"
    )
    sagemaker.update_model_package(
        ModelPackageArn=waiting["ModelPackageArn"], ModelApprovalStatus="Rejected", ApprovalDescription="biased"
    )
    until(lambda: len(seen(stack, "ModelDecided")) == 2, "SageMaker's decision was not told")
    assert models.version(versions[1].id).state == "rejected"
    assert [one.why for one in models.audit("tiny") if one.after == "rejected"] == ["biased"]


def test_the_schedule_fires_and_says_when_it_was_due(stack: Stack) -> None:
    until(lambda: seen(stack, "Schedule"), "the schedule did not fire")
    told = seen(stack, "Schedule")[0]
    assert (told["subject"], told["zone"]) == ("* * * * *", "Europe/Paris")
    assert told["due"].endswith(":00Z")


def test_what_fails_for_good_is_a_dead_letter(stack: Stack) -> None:
    stack.runtime.storage("lake").put("in/bad.csv", b"")
    (dead,) = until(lambda: stack.runtime.function("watch").deliveries("dead"), "there is no dead letter")
    assert dead["event"]["subject"] == "in/bad.csv"
    (queue,) = stack.client("sqs").list_queues(QueueNamePrefix="watch-dead-")["QueueUrls"]
    until(
        lambda: int(
            stack.client("sqs").get_queue_attributes(QueueUrl=queue, AttributeNames=["All"])["Attributes"][
                "ApproximateNumberOfMessages"
            ]
        ),
        "the queue is empty",
    )


def test_a_function_is_called_by_its_name(stack: Stack) -> None:
    assert stack.runtime.function("alone").call({"x": 21}) == {"twice": 42}
    assert stack.runtime.platform.parts["alone"].facts["url"]


def test_destroy_leaves_nothing(stack: Stack) -> None:
    stack.ekiben("destroy", "--yes")
    ask = stack.client
    left = {
        "buckets": ask("s3").list_buckets()["Buckets"],
        "roles": ask("iam").list_roles()["Roles"],
        "functions": ask("lambda").list_functions()["Functions"],
        "queues": ask("sqs").list_queues().get("QueueUrls", []),
        "rules": ask("events").list_rules()["Rules"],
        "buses": [bus["Name"] for bus in ask("events").list_event_buses()["EventBuses"] if bus["Name"] != "default"],
        "schedules": ask("scheduler").list_schedules()["Schedules"],
        "groups": [one["Name"] for one in ask("scheduler").list_schedule_groups()["ScheduleGroups"] if one["Name"] != "default"],
        "logs": ask("logs").describe_log_groups()["logGroups"],
        "alarms": ask("cloudwatch").describe_alarms()["MetricAlarms"],
    }  # fmt: skip
    assert {kind: found for kind, found in left.items() if found} == {}
