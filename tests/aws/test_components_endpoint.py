"""Endpoints of AWS under a recording monitor: which service, which image, who may call, and what each role may do."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pulumi
import pytest

import ekiben as ek
from ekiben import components
from ekiben.aws.backends import BACKENDS as SERVICES
from ekiben.aws.components import Endpoint, Registry, Storage
from ekiben.aws.components.endpoint import BACKENDS, function_statements, hosting_statements
from ekiben.aws.components.express import service_statements
from ekiben.aws.components.images import build_statements, functions_pull
from ekiben.aws.facts import EndpointFacts, ExpressFacts, ServerlessFacts, VariantsFacts, facts_of
from ekiben.errors import SpecError, Unsupported
from ekiben.local import SUPPORT as LOCAL

from .program import ACCOUNT, Recorded, run, statements

TINY = Path(__file__).parents[1] / "rigs" / "project" / "bentos" / "tiny"
KEY = "arn:aws:kms:eu-west-1:123456789012:key/k"
FUNCTION = f"arn:aws:lambda:eu-west-1:{ACCOUNT}:function:api-0123abc"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A project with two services of one lock, and a cache of its own."""
    root = tmp_path_factory.mktemp("project")
    for name in ("tiny", "other"):
        shutil.copytree(TINY, root / name)
    with (root / "other" / "service.py").open("a") as file:
        file.write("\n# Another one.\n")
    with pytest.MonkeyPatch.context() as env:
        env.setenv("XDG_CACHE_HOME", str(root / "cache"))
        yield root
    pulumi.runtime.set_all_config({})


@pytest.fixture(autouse=True)
def configured() -> Iterator[None]:
    """What a test has set in the stack's config is gone after it."""
    yield
    pulumi.runtime.set_all_config({})


def spec(bento: str = "tiny", **more: Any) -> ek.EndpointSpec:
    return ek.EndpointSpec(**{"model": "tiny@champion", "bento": bento, **more})


def made(project: Path, *specs: ek.EndpointSpec, kms_key: str = "") -> Recorded:
    def program() -> list[Any]:
        lake = Storage("lake", ek.StorageSpec(kms_key=kms_key))
        models = Registry("models", storage=lake)
        names = ["api", *(f"api-{number}" for number in range(1, len(specs)))]
        return [models, *(Endpoint(name, one, registry=models) for name, one in zip(names, specs, strict=True))]

    pulumi.runtime.set_all_config({})
    return run(program, project)


@pytest.fixture(scope="module")
def on_lambda(project: Path) -> Recorded:
    return made(project, spec(env={"A": "b"}, timeout_s=7.5, log_predictions=0.5), spec("other"))


@pytest.fixture(scope="module")
def on_instances(project: Path) -> Recorded:
    gpus = ek.Resources(vcpu=4, memory_mib=8192, gpus=1)
    return made(project, spec(resources=gpus, min_instances=1, max_instances=3, concurrency=4), kms_key=KEY)


def allowed(recorded: Recorded, name: str) -> list[Mapping[str, Any]]:
    return list(statements(recorded.one("RolePolicy", name)))


def test_a_function_runs_the_environment_s_image_by_its_digest(on_lambda: Recorded) -> None:
    function = on_lambda.one("lambda/function:Function", "api").inputs
    image = on_lambda.one("ekiben:aws:Image")
    assert function["imageUri"] == f"{image.inputs['repository_url']}@sha256:{image.inputs['tag']}"
    assert (function["packageType"], function["architectures"]) == ("Image", ["x86_64"])
    assert (function["memorySize"], function["timeout"]) == (1024, 8)
    assert function["environment"]["variables"] == {
        "A": "b", "EKIBEN_ENDPOINT": "api", "EKIBEN_LOG_PREDICTIONS": "s3://lake-0123abc", "EKIBEN_LOG_SHARE": "0.5",
        "EKIBEN_SERVER_DRAIN_TIMEOUT_S": "30", "EKIBEN_SERVER_MAX_BODY_BYTES": "4000000",
    }  # fmt: skip
    assert function["loggingConfig"]["logGroup"] == "api-0123abc"
    assert on_lambda.one("LogGroup", "api").inputs["retentionInDays"] == 30


def test_endpoints_with_one_lock_have_one_image_and_registries_one_builder(on_lambda: Recorded) -> None:
    assert len(on_lambda.all("lambda/function:Function")) == 2
    image = on_lambda.one("ekiben:aws:Image")
    for one in (
        image,
        on_lambda.one("Repository"),
        on_lambda.one("Project"),
        on_lambda.one("LogGroup", "models-builds"),
    ):
        assert one.parent.endswith("ekiben:aws:Registry::models"), one
        assert one.name.startswith("models-")
    held = {one.inputs["key"]: one for one in on_lambda.all("BucketObjectv2")}
    context = held[f"code/{image.inputs['tag']}.zip"].inputs
    assert image.inputs["source"] == f"lake-0123abc/code/{image.inputs['tag']}.zip"
    assert context["contentType"] == "application/zip"
    assert zipfile.is_zipfile(context["source"].path)


def test_images_are_built_where_nobody_else_reaches(on_lambda: Recorded) -> None:
    repository = on_lambda.one("Repository").inputs
    assert (repository["imageTagMutability"], repository["forceDelete"]) == ("IMMUTABLE", True)
    assert repository["imageScanningConfiguration"] == {"scanOnPush": True}
    project = on_lambda.one("Project").inputs
    assert project["source"] == {"type": "S3", "location": "lake-0123abc/code/"}
    assert project["environment"]["privilegedMode"] is True
    assert project["environment"]["type"] == "LINUX_CONTAINER"
    assert project["logsConfig"]["cloudwatchLogs"]["groupName"] == "models-builds-0123abc"
    assert {one["ekiben:component"] for one in (repository["tags"], project["tags"])} == {"models"}
    (role,) = [one for one in on_lambda.all("Role") if one.name == "models-builds"]
    assert "codebuild.amazonaws.com" in role.inputs["assumeRolePolicy"]
    reads = allowed(on_lambda, "models-builds")
    assert {resource for one in reads for resource in one["Resource"]} == {
        "arn:aws:s3:::lake-0123abc", "arn:aws:s3:::lake-0123abc/code/*", "*",
        f"arn:aws:ecr:eu-west-1:{ACCOUNT}:repository/models-images-0123abc",
        f"arn:aws:logs:eu-west-1:{ACCOUNT}:log-group:models-builds-0123abc:*",
    }  # fmt: skip


def test_the_url_is_of_the_alias_and_asks_iam(on_lambda: Recorded) -> None:
    url = on_lambda.one("FunctionUrl", "api").inputs
    assert (url["authorizationType"], url["qualifier"]) == ("AWS_IAM", "live")
    alias = on_lambda.one("Alias", "api").inputs
    assert (alias["name"], alias["functionVersion"]) == ("live", "$LATEST")
    assert not on_lambda.all("Permission")


def test_anybody_may_call_only_where_the_spec_says_so(project: Path) -> None:
    recorded = made(project, spec(auth="none"))
    assert recorded.one("FunctionUrl").inputs["authorizationType"] == "NONE"
    called = {one.inputs["action"]: one.inputs for one in recorded.all("Permission")}
    assert set(called) == {"lambda:InvokeFunctionUrl", "lambda:InvokeFunction"}
    assert {one["qualifier"] for one in called.values()} == {"live"}
    assert called["lambda:InvokeFunctionUrl"]["functionUrlAuthType"] == "NONE"
    assert called["lambda:InvokeFunction"]["invokedViaFunctionUrl"] is True


def test_a_server_reads_bentos_and_writes_its_own_predictions(on_lambda: Recorded) -> None:
    found = {tuple(one["Resource"]): one["Action"] for one in allowed(on_lambda, "api-may")}
    assert found["arn:aws:s3:::lake-0123abc/bentos/*",] == ["s3:GetObject"]
    assert "s3:PutObject" in found["arn:aws:s3:::lake-0123abc/predictions/api/*",]
    assert "logs:PutLogEvents" in found[f"arn:aws:logs:eu-west-1:{ACCOUNT}:log-group:api-0123abc:*",]
    assert [one for one in found if "s3:PutObject" in found[one]] == [("arn:aws:s3:::lake-0123abc/predictions/api/*",)]


def test_without_a_log_nothing_may_be_written(project: Path) -> None:
    recorded = made(project, spec(log_predictions=0))
    assert "predictions/" not in json.dumps(allowed(recorded, "api-may"))
    variables = recorded.one("lambda/function:Function").inputs["environment"]["variables"]
    assert "EKIBEN_LOG_PREDICTIONS" not in variables


def test_the_facts_of_a_function_are_what_the_run_face_reads(on_lambda: Recorded) -> None:
    facts = facts_of(on_lambda.parts["api"], EndpointFacts)
    assert (facts.function, facts.alias, facts.model) == ("api-0123abc", "live", "tiny@champion")
    assert facts.url == "https://api.lambda-url.eu-west-1.on.aws", "what a route is put behind"
    assert facts.template_uri == f"s3://lake-0123abc/code/{facts.template_sha256}.tar"
    assert facts.log_group == "api-0123abc"


def test_gpus_are_on_sagemaker_s_instances_and_the_first_deployment_makes_them(on_instances: Recorded) -> None:
    assert not on_instances.all("lambda/function:Function")
    facts = facts_of(on_instances.parts["api"], VariantsFacts)
    assert facts.endpoint.startswith("api-")
    assert len("n" * 24 + facts.endpoint.removeprefix("api")) <= 40
    assert facts.instance_type.startswith("ml.g")
    assert (facts.instances, facts.max_instances, facts.concurrency, facts.kms_key) == (1, 3, 4, KEY)
    assert facts.variables["EKIBEN_LOG_PREDICTIONS"] == "s3://lake-0123abc"
    assert on_instances.one("ekiben:aws:Variants").inputs["endpoint"] == facts.endpoint
    assert on_instances.one("LogGroup", "api").inputs["name"] == f"/aws/sagemaker/Endpoints/{facts.endpoint}"
    (role,) = [one for one in on_instances.all("Role") if one.name == "api"]
    (trusted,) = json.loads(role.inputs["assumeRolePolicy"])["Statement"]
    assert trusted["Principal"] == {"Service": "sagemaker.amazonaws.com"}
    repository = f"arn:aws:ecr:eu-west-1:{ACCOUNT}:repository/models-images-0123abc"
    assert [repository] in [one["Resource"] for one in allowed(on_instances, "api-may")]
    encryption = on_instances.one("Repository").inputs["encryptionConfigurations"]
    assert encryption == [{"encryptionType": "KMS", "kmsKey": KEY}]


def test_instances_of_a_function_are_those_that_were_asked_for(project: Path, on_lambda: Recorded) -> None:
    function = on_lambda.one("lambda/function:Function", "api").inputs
    assert "reservedConcurrentExecutions" not in function, "of what was not asked for nothing is taken from the account"
    assert facts_of(on_lambda.parts["api"], EndpointFacts).provisioned == 0
    recorded = made(project, spec(min_instances=2, max_instances=5, concurrency=3))
    assert recorded.one("lambda/function:Function").inputs["reservedConcurrentExecutions"] == 15
    assert facts_of(recorded.parts["api"], EndpointFacts).provisioned == 2
    tight = made(project, spec(min_instances=4, max_instances=4, concurrency=1))
    assert tight.one("lambda/function:Function").inputs["reservedConcurrentExecutions"] == 10, (
        "old and new while traffic moves"
    )


def test_an_endpoint_is_on_the_service_that_the_stack_s_config_names(project: Path) -> None:
    asked = spec(resources=ek.Resources(memory_mib=1500), min_instances=1, max_instances=4, concurrency=5)

    def program() -> list[Any]:
        return [Endpoint("api", asked, registry=Registry("models", storage=Storage("lake")))]

    pulumi.runtime.set_all_config({"ekiben:services": json.dumps({"api": "sagemaker-serverless", "other": "lambda"})})
    recorded = run(program, project)
    facts = facts_of(recorded.parts["api"], ServerlessFacts)
    assert (facts.memory_mib, facts.max_concurrency, facts.provisioned) == (2048, 20, 1)
    assert facts.variables["EKIBEN_ENDPOINT"] == "api"
    assert facts.variables["EKIBEN_LOG_FLUSH_S"] == "0", "it may be frozen between two requests"
    assert recorded.one("ekiben:aws:Variants").inputs["endpoint"] == facts.serverless
    assert not recorded.all("lambda/function:Function")
    own = [one for one in allowed(recorded, "api-may") if "logs:CreateLogGroup" in one["Action"]]
    group = f"arn:aws:logs:eu-west-1:{ACCOUNT}:log-group:/aws/sagemaker/Endpoints/{facts.serverless}"
    assert [one["Resource"] for one in own] == [[f"{group}-*"]]


def test_what_lambda_cannot_hold_is_on_ecs_in_a_cluster_of_its_own(project: Path) -> None:
    asked = spec(
        resources=ek.Resources(vcpu=3, memory_mib=20_000), timeout_s=1200, min_instances=1, max_instances=6, auth="none"
    )
    recorded = made(project, asked)
    facts = facts_of(recorded.parts["api"], ExpressFacts)
    assert (facts.vcpu, facts.memory_mib, facts.timeout_s) == (4, 20_480, 1200.0)
    assert (facts.min_instances, facts.max_instances, facts.subnet_ids) == (1, 6, [])
    assert facts.cluster_arn == f"arn:aws:ecs:eu-west-1:{ACCOUNT}:cluster/api-0123abc"
    assert recorded.one("ClusterCapacityProviders").inputs["capacityProviders"] == ["FARGATE"]
    gone = recorded.one("ekiben:aws:Services").inputs
    assert (gone["cluster_arn"], gone["service"]) == (facts.cluster_arn, facts.service)
    trusted = {
        one.name: json.loads(one.inputs["assumeRolePolicy"])["Statement"][0]["Principal"]["Service"]
        for one in recorded.all("Role")
        if one.name.startswith("api")
    }
    tasks = "ecs-tasks.amazonaws.com"
    assert trusted == {"api": tasks, "api-starts": tasks, "api-balances": "ecs.amazonaws.com"}
    assert {one.name for one in recorded.all("RolePolicy") if one.name.startswith("api")} == {
        "api-may", "api-starts",
    }  # fmt: skip
    pulls = {action for one in allowed(recorded, "api-starts") for action in one["Action"]}
    assert {"ecr:BatchGetImage", "logs:PutLogEvents"} <= pulls
    attached = recorded.one("RolePolicyAttachment").inputs["policyArn"]
    assert attached.endswith(":aws:policy/service-role/AmazonECSInfrastructureRoleforExpressGatewayServices")


def test_who_uses_services_reaches_those_of_its_cluster_and_hands_on_its_roles() -> None:
    cluster = f"arn:aws:ecs:eu-west-1:{ACCOUNT}:cluster/api-1"
    found = service_statements(cluster, "api-family", "arn:log", "arn:starts", "arn:runs", "arn:balances")
    ours = (f"arn:aws:ecs:eu-west-1:{ACCOUNT}:", "arn:log", "arn:starts", "arn:runs", "arn:balances")
    for one in found:
        for resource in one["Resource"]:
            assert resource == "*" or "Condition" in one or resource.startswith(ours), one
            assert ":ecs:" not in resource or "/api-1/" in resource or "/api-family:" in resource, one
    passed = {
        one["Condition"]["StringEquals"]["iam:PassedToService"]: one["Resource"]
        for one in found
        if "iam:PassRole" in one["Action"]
    }
    assert passed == {"ecs-tasks.amazonaws.com": ["arn:starts", "arn:runs"], "ecs.amazonaws.com": ["arn:balances"]}


@pytest.mark.parametrize(
    ("told", "error", "match"),
    [
        ({"api": "fargate"}, SpecError, "there is no service 'fargate'"),
        ({"api": 1}, SpecError, "ekiben:services is"),
        ([], SpecError, "ekiben:services is"),
    ],
)
def test_a_service_that_there_is_not_is_refused(project: Path, told: Any, error: type[Exception], match: str) -> None:
    def program() -> list[Any]:
        with pytest.raises(error, match=match):
            Endpoint("api", spec(), registry=Registry("models", storage=Storage("lake")))
        return []

    pulumi.runtime.set_all_config({"ekiben:services": json.dumps(told)})
    run(program, project)


def test_a_service_that_does_not_hold_the_spec_fails_the_preview(project: Path) -> None:
    def program() -> list[Any]:
        models = Registry("models", storage=Storage("lake"))
        Endpoint("api", spec(timeout_s=61), registry=models)
        with pytest.raises(Unsupported, match="SageMaker serverless does not hold it.*timeout_s=61: 60 at most"):
            ek.export(models)
        return []

    pulumi.runtime.set_all_config({"ekiben:services": json.dumps({"api": "sagemaker-serverless"})})
    run(program, project)


def test_a_network_of_the_stack_s_own_is_where_endpoints_run(project: Path) -> None:
    def program() -> list[Any]:
        return [Endpoint("api", spec(), registry=Registry("models", storage=Storage("lake")))]

    told = {"subnet_ids": ["subnet-1"], "security_group_ids": ["sg-1"]}
    pulumi.runtime.set_all_config({"ekiben:network": json.dumps(told)})
    recorded = run(program, project)
    vpc = recorded.one("lambda/function:Function").inputs["vpcConfig"]
    assert vpc == {"subnetIds": ["subnet-1"], "securityGroupIds": ["sg-1"]}
    actions = {action for one in allowed(recorded, "api-may") for action in one["Action"]}
    assert "ec2:CreateNetworkInterface" in actions


def test_everything_is_tagged(on_lambda: Recorded, on_instances: Recorded) -> None:
    elsewhere = {"aws:s3/bucketObjectv2:BucketObjectv2": "lake", "aws:cloudwatch/eventBus:EventBus": ""}
    for one in (*on_lambda.made, *on_instances.made):
        if "tags" in one.inputs:
            whose = elsewhere.get(one.type, one.parent.rpartition("::")[2])
            assert one.inputs["tags"]["ekiben:component"] == whose, one


def test_what_no_service_holds_fails_the_preview(project: Path) -> None:
    def program() -> list[Any]:
        models = Registry("models", storage=Storage("lake"))
        Endpoint("api", spec(resources=ek.Resources(gpus=1)), registry=models)
        with pytest.raises(Unsupported, match="'api'.*min_instances"):
            ek.export(models)
        return []

    recorded = run(program, project)
    assert not recorded.all("Repository")


class Shelf(components.Registry):
    """One of another provider."""

    support = LOCAL

    def create(self) -> None:
        self.ref, self.facts = pulumi.Output.from_input(""), pulumi.Output.from_input({})


def test_a_registry_elsewhere_is_refused(project: Path) -> None:
    def program() -> list[Any]:
        with pytest.raises(SpecError, match="is on aws and its registry 'shelf' is on local"):
            Endpoint("api", spec(), registry=Shelf("shelf", storage=Storage("lake")))
        return []

    run(program, project)


def test_every_row_is_a_service_that_there_is() -> None:
    assert set(BACKENDS) == {one.name for one in SERVICES}


def test_who_uses_a_function_deploys_on_it_and_cannot_delete_it() -> None:
    deploys, deletes, calls = function_statements(FUNCTION)
    for one in (deploys, calls):
        assert one["Resource"] == [FUNCTION, f"{FUNCTION}:*"]
    assert deletes["Resource"] == [f"{FUNCTION}:*"]
    assert deletes["Action"] == [
        "lambda:DeleteFunction", "lambda:DeleteProvisionedConcurrencyConfig", "lambda:GetProvisionedConcurrencyConfig",
        "lambda:PutProvisionedConcurrencyConfig",
    ]  # fmt: skip
    assert not [
        action for one in (deploys, calls) for action in one["Action"] if "Permission" in action or "*" in action
    ]


def test_who_uses_variants_reaches_those_of_its_endpoint_and_hands_on_its_role() -> None:
    found = hosting_statements("aws", "eu-west-1", ACCOUNT, "api-1", "arn:role", "arn:log")
    sagemaker = f"arn:aws:sagemaker:eu-west-1:{ACCOUNT}"
    assert found[0]["Resource"] == [
        f"{sagemaker}:endpoint/api-1", f"{sagemaker}:endpoint/api-1-*", f"{sagemaker}:endpoint-config/api-1-*",
        f"{sagemaker}:model/api-1-*",
    ]  # fmt: skip
    passed = [one for one in found if one["Action"] == ["iam:PassRole"]]
    assert passed == [
        {
            "Effect": "Allow", "Action": ["iam:PassRole"], "Resource": ["arn:role"],
            "Condition": {"StringEquals": {"iam:PassedToService": "sagemaker.amazonaws.com"}},
        }
    ]  # fmt: skip
    assert [one["Action"] for one in found if one["Resource"] == ["*"]] == [["sagemaker:ListEndpoints"]]


def test_a_builder_pushes_into_its_repository_and_lambda_pulls_for_this_account() -> None:
    versions, push, login, logs = build_statements("arn:b", "arn:r", "arn:l")
    assert (push["Resource"], logs["Resource"], login["Resource"]) == (["arn:r"], ["arn:l:*"], ["*"])
    assert login["Action"] == ["ecr:GetAuthorizationToken"]
    assert versions["Resource"] == ["arn:b/code/*"]
    pull = functions_pull("aws", "eu-west-1", ACCOUNT)
    assert pull["Principal"] == {"Service": "lambda.amazonaws.com"}
    assert pull["Condition"] == {"StringLike": {"aws:sourceArn": f"arn:aws:lambda:eu-west-1:{ACCOUNT}:function:*"}}
