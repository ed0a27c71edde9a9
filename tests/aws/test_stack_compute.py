"""Training and endpoints of AWS under the real engine, on the emulator: made, used, changed, and gone with what use has left."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from botocore.exceptions import ClientError

import ekiben as ek
from ekiben import packing
from ekiben.aws.facts import EndpointFacts, TrainingFacts, VariantsFacts, facts_of
from ekiben.emulators import aws as emulator, stacks
from tests.rigs.aws import REGION, lead_there
from tests.rigs.stack import Stack
from tests.waiting import until

from .acting import Acting, let_through, mine

pytestmark = [pytest.mark.engine, pytest.mark.timeout(900)]

PROGRAM = """
import ekiben as ek
import pulumi

cloud = ek.provider()
memory_mib = int(pulumi.Config().get("memory") or 512)
lake = cloud.Storage("lake")
other = cloud.Storage("other")
models = cloud.Registry("models", storage=lake)
tiny = cloud.Training("tiny", ek.TrainingSpec(
    source="training_jobs/tiny", inputs={"points": "lake/points/"}, params={"scale": 1.0}, timeout_s=60, grace_s=1), storage=lake)
api = cloud.Endpoint("tiny-api", ek.EndpointSpec(
    model="tiny@champion", bento="bentos/tiny", resources=ek.Resources(memory_mib=memory_mib)), registry=models)
big = cloud.Endpoint("big-api", ek.EndpointSpec(
    model="tiny@champion", bento="bentos/tiny", min_instances=1, resources=ek.Resources(vcpu=4, memory_mib=8192, gpus=1)),
    registry=models)
slow = cloud.Endpoint("slow-api", ek.EndpointSpec(
    model="tiny@champion", bento="bentos/tiny", min_instances=1, timeout_s=1200, auth="none"), registry=models)
thin = cloud.Endpoint("thin-api", ek.EndpointSpec(model="tiny@champion", bento="bentos/tiny"), registry=models)
agent = cloud.Function(
    "agent", ek.FunctionSpec(source="functions/agent"), uses=[lake, models, tiny, api, big, slow, thin])
ek.export(lake, other, models, tiny, api, big, slow, thin, agent)
"""
AGENT = """
import ekiben as ek

def handler(event: ek.Event, runtime: ek.Runtime) -> object:
    return sorted(runtime.platform.parts)
"""
# Endpoints, each on another service, and the roles that act for it beside the one that is called as it is.
SERVICES = {"tiny-api": [], "thin-api": [], "big-api": [], "slow-api": ["slow-api-starts"]}


class Made(Acting):
    """The stack beside its record."""

    def __init__(self, stack: Stack, platform: ek.Platform) -> None:
        super().__init__(platform, REGION)
        self.stack = stack


@pytest.fixture(scope="module")
def made() -> Iterator[Made]:
    config = {"ekiben:provider": "aws", "ekiben:emulate": True, "aws:region": REGION}
    config["ekiben:services"] = {"thin-api": "sagemaker-serverless"}
    stack = Stack(config, theirs=("EKIBEN_", "PULUMI_", "AWS_"))
    (stack.folder / "infra" / "__main__.py").write_text(PROGRAM)
    (stack.folder / "functions" / "agent").mkdir(parents=True)
    (stack.folder / "functions" / "agent" / "main.py").write_text(AGENT)
    with pytest.MonkeyPatch.context() as env:
        try:
            # Builds, jobs and servers may do what their roles say, and nothing else.
            emulator.ensure(stacks.state_dir(stack.folder), iam=True)
            platform = stack.up()
            lead_there(env, stack)
            env.setenv("AWS_DEFAULT_REGION", REGION)
            yield Made(stack, platform)
        finally:
            emulator.stop(stacks.state_dir(stack.folder))
            shutil.rmtree(stack.folder)


def version(made: Made, folder: Path, number: int, slope: float) -> ek.ModelVersion:
    """A bento on the endpoint's own template, with a model of that slope, in the lake."""
    lake = made.runtime().storage("lake")
    facts = facts_of(made.platform.parts["tiny-api"], EndpointFacts)
    template = folder / "template.tar"
    lake.download(lake.key(facts.template_uri), template)
    (folder / "model").mkdir(exist_ok=True)
    (folder / "model" / "model.json").write_text(json.dumps({"slope": slope}))
    bento = packing.pack(template, folder / "model", {}, sha256=facts.template_sha256)
    key = f"bentos/{bento.sha256}.tar"
    lake.put(key, bento.path.read_bytes())
    return ek.ModelVersion(
        model="tiny", version=number, key=f"run-{number}", digest=bento.sha256, bento_uri=lake.uri(key), state="approved",
        created_at="2026-01-01T00:00:00Z", created_by="ann",
    )  # fmt: skip


def test_one_image_was_built_for_both_endpoints(made: Made) -> None:
    (repository,) = made.client("ecr").describe_repositories()["repositories"]
    (image,) = made.client("ecr").describe_images(repositoryName=repository["repositoryName"])["imageDetails"]
    assert repository["imageTagMutability"] == "IMMUTABLE"
    uri = f"{repository['repositoryUri']}@{image['imageDigest']}"
    assert facts_of(made.platform.parts["big-api"], VariantsFacts).image_uri == uri
    function = facts_of(made.platform.parts["tiny-api"], EndpointFacts).function
    assert made.client("lambda").get_function(FunctionName=function)["Code"]["ImageUri"] == uri
    (project,) = made.client("codebuild").list_projects()["projects"]
    assert len(made.client("codebuild").list_builds_for_project(projectName=project)["ids"]) == 1


def test_a_model_is_deployed_and_answers_and_up_leaves_it_as_it_is(made: Made, tmp_path: Path) -> None:
    api = made.runtime().endpoint("tiny-api")
    with pytest.raises(ek.Unavailable, match="release"):
        api.invoke({"x": 1.0})
    first = api.deploy(version(made, tmp_path, 1, 2.0))
    api.shift({first.id: 100.0})
    assert api.invoke({"x": 1.5}).body == {"y": 3.0}
    config = made.stack.folder / "Pulumi.rig.yaml"
    told = yaml.safe_load(config.read_text())
    config.write_text(yaml.safe_dump({**told, "config": {**told["config"], "rig:memory": 640}}))
    second = api.deploy(version(made, tmp_path, 2, 4.0))
    api.shift({first.id: 50.0, second.id: 50.0})
    made.stack.command("refresh")
    changed = json.loads(made.stack.command("up", "--json").stdout)["changes"]
    assert {key: count for key, count in changes(changed)} == {"update": 1}
    assert {one.id: one.weight for one in api.revisions()} == {first.id: 50.0, second.id: 50.0}
    assert {api.invoke({"x": 1.0}).body["y"] for _ in range(20)} == {2.0, 4.0}


@pytest.mark.parametrize("name", SERVICES)
def test_a_function_s_role_can_do_all_with_an_endpoint_on_each_service(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Deploy, call, shift, go back, retire, measure: as the role of `agent`, and the containers as the role of the endpoint."""
    one, two = version(made, tmp_path, 1, 2.0), version(made, tmp_path, 2, 4.0)
    made.be("agent", monkeypatch)
    api = made.runtime(name).endpoint(name)
    if not api.revisions():
        with pytest.raises(ek.Unavailable, match="release"):
            api.invoke({"x": 1.0})
    first = api.deploy(one)
    assert api.invoke({"x": 1.5}, revision=first.id).body == {"y": 3.0}
    api.shift({first.id: 100.0})
    answer = api.invoke({"x": 1.5})
    assert (answer.body, answer.revision) == ({"y": 3.0}, first.id)
    second = api.deploy(two)
    api.shift({second.id: 100.0})
    assert api.invoke({"x": 1.0}).body == {"y": 4.0}
    api.retire(first.id)
    assert {each.id: each.weight for each in api.revisions()} == {second.id: 100.0}
    assert [each.revision for each in api.metrics()] == [second.id]
    # What the containers have logged they bring to storage, as the role of the endpoint.
    logged = until(lambda: api.predictions(), "the log of predictions")
    assert {each.endpoint for each in logged} == {name}


@pytest.mark.parametrize("role", ["agent", *SERVICES, *(role for roles in SERVICES.values() for role in roles)])
def test_no_role_can_do_what_it_has_no_business_with(made: Made, monkeypatch: pytest.MonkeyPatch, role: str) -> None:
    made.be(role, monkeypatch)
    assert let_through(made) == []


@pytest.mark.parametrize("name", SERVICES)
def test_a_container_s_role_reads_bentos_and_writes_its_own_log(
    made: Made, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    lake = made.bucket("lake")
    made.be(name, monkeypatch)
    s3 = mine("s3")
    s3.put_object(Bucket=lake, Key=f"predictions/{name}/a", Body=b"1")
    (bento, *_) = s3.list_objects_v2(Bucket=lake, Prefix="bentos/")["Contents"]
    assert s3.get_object(Bucket=lake, Key=bento["Key"])["Body"].read()
    for wrong in (
        lambda: s3.put_object(Bucket=lake, Key=bento["Key"], Body=b"poison"),
        lambda: s3.get_object(Bucket=lake, Key="registry/models/index.json"),
        lambda: s3.put_object(Bucket=lake, Key="predictions/other-api/a", Body=b"1"),
        lambda: s3.list_objects_v2(Bucket=lake, Prefix="code/"),
        lambda: mine("sagemaker").list_endpoints(),
        lambda: mine("ecs").list_clusters(),
        lambda: mine("lambda").list_functions(),
    ):
        with pytest.raises(ClientError, match="AccessDenied"):
            wrong()


def changes(told: dict[str, int]) -> Iterator[tuple[str, int]]:
    yield from ((operation, count) for operation, count in told.items() if operation != "same")


def test_a_run_trains_in_its_role_and_another_is_under_way(made: Made) -> None:
    lake = made.runtime().storage("lake")
    lake.put("points/a.jsonl", b'{"x": 1, "y": 2}\n{"x": 2, "y": 4}\n')
    training = made.runtime().training("tiny")
    training.submit(ek.Job(id="one"))
    run = until(lambda: found if (found := training.run("one")).ended else None, "the run ends")
    assert (run.state, run.reason) == ("succeeded", "")
    assert list(made.runtime().training("tiny").logs("one"))


def test_destroy_takes_all_that_use_has_left(made: Made, tmp_path: Path) -> None:
    made.runtime().training("tiny").submit(ek.Job(id="endless", params={"steps": 1000, "step_s": 1}))
    scope = facts_of(made.platform.parts["tiny"], TrainingFacts)
    assert scope.role_arn
    made.stack.command("destroy", "--yes")
    jobs = made.client("sagemaker").list_training_jobs()["TrainingJobSummaries"]
    assert {one["TrainingJobStatus"] for one in jobs} <= {"Completed", "Stopped", "Failed"}
    assert made.client("logs").describe_log_groups()["logGroups"] == []
    assert made.client("lambda").list_functions()["Functions"] == []
    clusters = made.client("ecs").describe_clusters(clusters=made.client("ecs").list_clusters()["clusterArns"])[
        "clusters"
    ]
    assert [one["clusterName"] for one in clusters if one["status"] == "ACTIVE"] == []
    assert made.client("ecs").list_task_definitions()["taskDefinitionArns"] == []
    assert made.client("ecr").describe_repositories()["repositories"] == []
    assert made.client("codebuild").list_projects()["projects"] == []
    assert [one["RoleName"] for one in made.client("iam").list_roles()["Roles"]] == []
    for call, key in (
        ("list_models", "Models"),
        ("list_endpoint_configs", "EndpointConfigs"),
        ("list_endpoints", "Endpoints"),
    ):
        assert getattr(made.client("sagemaker"), call)()[key] == []
