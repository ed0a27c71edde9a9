"""Each role of a stack can do all that the loop needs, and cannot do what it has no business with: IAM is asked for every request.

One stack under the real engine, on an emulated AWS that judges requests by the policies of the role that makes them.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from botocore.exceptions import ClientError

import ekiben as ek
from ekiben import release
from ekiben.emulators import stacks
from ekiben.emulators.aws import ensure, stop
from ekiben.errors import AccessDenied
from tests.waiting import until

from .acting import ACCOUNT, Acting, let_through, mine

pytestmark = pytest.mark.engine

REGION = "eu-west-1"
RIG = Path(__file__).parents[1] / "rigs" / "project"
PROGRAM = """
import ekiben as ek

cloud = ek.provider()
lake = cloud.Storage("lake")
other = cloud.Storage("other")
models = cloud.Registry("models", storage=lake)
spec = ek.TrainingSpec(source="training_jobs/tiny", inputs={"points": "lake/points/"}, params={"scale": 1.0}, timeout_s=60)
tiny = cloud.Training("tiny", spec, storage=lake)
api = cloud.Endpoint("tiny-api", ek.EndpointSpec(model="tiny@champion", bento="bentos/tiny"), registry=models)
all_ = [lake, models, tiny, api]
on = (ek.Http(), ek.On("TrainingEnded", "tiny"))
agent = cloud.Function("agent", ek.FunctionSpec(source="functions/agent", on=on), uses=all_)
reader = cloud.Function(
    "reader", ek.FunctionSpec(source="functions/reader", retries=0, on=(ek.NewData("lake", "drop/"),)), uses=[lake]
)
watch = cloud.Monitor("watch", ek.MonitorSpec(window_s=300), watches=[tiny, api, agent, reader])
ek.export(lake, other, models, tiny, api, agent, reader, watch)
"""
AGENT = """
import ekiben as ek

def handler(event: ek.Event, runtime: ek.Runtime) -> object:
    if event.type == "TrainingEnded":
        runtime.storage("lake").put(f"seen/{event.type}-{event.subject}", b"")
        return event.subject
    run = runtime.training("tiny").submit(ek.Job(id=event.data["run"]))
    return {"run": run.id, "versions": len(runtime.registry("models").versions())}
"""
READER = """
import boto3
import ekiben as ek

def handler(event: ek.Event, runtime: ek.Runtime) -> str:
    if event.subject == "drop/theirs":
        boto3.session.Session().client("iam").create_user(UserName="mine")
    lake = runtime.storage("lake")
    lake.put(f"seen/{event.type}-{event.id[-8:]}", event.subject.encode())
    return event.subject
"""


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Acting]:
    root = tmp_path_factory.mktemp("roles").resolve()
    for name in ("bentos", "training_jobs"):
        shutil.copytree(RIG / name, root / name)
    (root / "Pulumi.yaml").write_text("name: small\nruntime: python\nmain: infra/\n")
    told = {"ekiben:provider": "aws", "ekiben:emulate": "true", "aws:region": REGION}
    (root / "Pulumi.dev.yaml").write_text("config:\n" + "".join(f"  {key}: {value}\n" for key, value in told.items()))
    for path, text in {
        "infra/__main__.py": PROGRAM, "functions/agent/main.py": AGENT, "functions/reader/main.py": READER,
    }.items():  # fmt: skip
        (root / path).parent.mkdir(parents=True)
        (root / path).write_text(text)
    with pytest.MonkeyPatch.context() as env:
        for name in os.environ:
            if name.startswith(("PULUMI_", "EKIBEN_", "AWS_")) and name != "PULUMI_SKIP_UPDATE_CHECK":
                env.delenv(name)
        server = ensure(stacks.state_dir(root), iam=True)
        up(root)
        for name, value in {**server.environment, "AWS_REGION": REGION, "AWS_DEFAULT_REGION": REGION}.items():
            env.setenv(name, value)
        record = (root / ".ekiben" / "dev" / "platform.json").read_text("utf-8")
        made = Acting(ek.Platform.from_json(record), REGION)
        made.client("s3").put_object(Bucket=made.bucket("lake"), Key="points/a.jsonl", Body=b'{"x": 1, "y": 3}\n')
        made.client("s3").put_object(Bucket=made.bucket("other"), Key="secret.txt", Body=b"theirs")
        yield made
    stop(stacks.state_dir(root))


def up(root: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ekiben.cli", "up"], cwd=root, text=True, capture_output=True, timeout=400,
        stdin=subprocess.DEVNULL, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_function_s_role_can_do_the_whole_loop(stack: Acting, monkeypatch: pytest.MonkeyPatch) -> None:
    """Train, register, decide, release, call, look at what is there, roll back: as the role of `agent`."""
    stack.be("agent", monkeypatch)
    runtime = stack.runtime("lake", "models", "tiny", "tiny-api")
    training = runtime.training("tiny")
    training.submit(ek.Job(id="first"))
    run = until(lambda: found if (found := training.run("first")).ended else None, "the run has no end")
    assert run.state == "succeeded", run.reason
    assert any("read 1 points" in line for line in training.logs("first"))
    assert [one.id for one in training.runs()] == ["first"]
    training.cancel("first")

    registry = runtime.registry("models")
    version = release.register(runtime, run, endpoint="tiny-api", registry="models")
    registry.decide(version.id, "approved", who="agent", why="good")
    asked = {"endpoint": "tiny-api", "registry": "models", "who": "agent", "why": "approved"}
    release.release(runtime, version.id, **asked)
    endpoint = runtime.endpoint("tiny-api")
    (revision,) = endpoint.revisions()
    assert (revision.version, revision.weight) == (version.id, 100)
    assert endpoint.invoke({"x": 2}).body == version.sample["response"]
    assert endpoint.metrics()
    assert endpoint.predictions() is not None
    lake = runtime.storage("lake")
    lake.put("mine/a", b"1")
    lake.copy("mine/a", "mine/b")
    assert sorted(one.key for one in lake.list("mine/")) == ["mine/a", "mine/b"]
    lake.delete("mine/a")


def test_functions_and_jobs_run_as_their_roles(stack: Acting) -> None:
    runtime = stack.runtime()
    assert runtime.function("agent").call({"run": "second"})["run"] == "second"
    lake = runtime.storage("lake")
    lake.put("drop/a.csv", b"1")
    seen = until(lambda: list(lake.list("seen/NewData-")), "new data started nothing")
    assert lake.get(seen[0].key) == b"drop/a.csv"
    until(lambda: list(lake.list("seen/TrainingEnded-")), "the end of the run was told to nobody")
    assert any("drop/a.csv" in str(one) for one in runtime.function("reader").deliveries("done"))


@pytest.mark.parametrize("component", ["agent", "reader", "tiny", "tiny-api"])
def test_no_role_can_do_what_it_has_no_business_with(
    stack: Acting, monkeypatch: pytest.MonkeyPatch, component: str
) -> None:
    stack.be(component, monkeypatch)
    assert let_through(stack) == []


def test_a_function_reaches_only_what_it_uses(stack: Acting, monkeypatch: pytest.MonkeyPatch) -> None:
    stack.be("reader", monkeypatch)
    runtime = stack.runtime()
    runtime.storage("lake").put("seen/mine", b"1")
    with pytest.raises(AccessDenied):
        runtime.storage("other").get("secret.txt")
    with pytest.raises(AccessDenied):
        runtime.training("tiny").submit(ek.Job(id="mine"))
    with pytest.raises(AccessDenied):
        runtime.endpoint("tiny-api").revisions()


def test_a_job_reads_its_inputs_and_writes_its_own_runs(stack: Acting, monkeypatch: pytest.MonkeyPatch) -> None:
    stack.be("tiny", monkeypatch)
    s3, lake = mine("s3"), stack.bucket("lake")
    assert s3.get_object(Bucket=lake, Key="points/a.jsonl")["Body"].read()
    s3.put_object(Bucket=lake, Key="runs/tiny/x/a", Body=b"1")
    for wrong in (
        lambda: s3.put_object(Bucket=lake, Key="points/a.jsonl", Body=b"poison"),
        lambda: s3.get_object(Bucket=lake, Key="registry/models/index.json"),
        lambda: s3.put_object(Bucket=lake, Key="bentos/x.tar", Body=b"1"),
        lambda: s3.put_object(Bucket=lake, Key="runs/other/x/a", Body=b"1"),
    ):
        with pytest.raises(ClientError, match="AccessDenied"):
            wrong()


def test_what_fails_is_told_to_who_listens_to_the_monitor(stack: Acting) -> None:
    """A function that does what it may not is a dead letter and two alarms; a run that fails is told with its reason."""
    sns, sqs = stack.client("sns"), stack.client("sqs")
    (topic,) = [one["TopicArn"] for one in sns.list_topics()["Topics"] if ":watch-" in one["TopicArn"]]
    queue = sqs.create_queue(QueueName="listener")["QueueUrl"]
    sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=f"arn:aws:sqs:{REGION}:{ACCOUNT}:listener")
    runtime = stack.runtime()
    runtime.training("tiny").submit(ek.Job(id="third", params={"fail": "the points are bad"}))
    runtime.storage("lake").put("drop/theirs", b"1")
    (dead,) = until(lambda: runtime.function("reader").deliveries("dead"), "there is no dead letter")
    assert "iam:CreateUser" in dead["error"]
    heard = ""

    def all_heard() -> bool:
        nonlocal heard
        for one in sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10).get("Messages", []):
            heard += json.loads(one["Body"])["Message"] + "\n"
        wanted = "watch-reader-errors", "watch-reader-dead", "small/dev: a run of the training tiny has failed"
        return all(words in heard for words in wanted)

    until(all_heard, f"nobody heard of it: {heard}")
    assert "the points are bad" in heard
