"""The components of Kubernetes under a recording monitor: whose everything is, what it may, and facts that the run face reads."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import ekiben as ek
from ekiben import components
from ekiben.errors import SpecError, Unsupported
from ekiben.kubernetes.components import Endpoint, Function, Registry, Storage, Training
from ekiben.kubernetes.components.function import crontab
from ekiben.kubernetes.facts import (
    COMPONENT,
    MANAGED_BY,
    OWNER,
    PROJECT,
    STACK,
    EndpointFacts,
    FunctionFacts,
    RegistryFacts,
    StorageFacts,
    TrainingFacts,
    facts_of,
)
from ekiben.packing import archive

from .program import NAMESPACE, Recorded, not_restricted, pods, rules, run

TINY = Path(__file__).parents[1] / "rigs" / "project" / "bentos" / "tiny"
ON = (ek.NewData("lake", "in/", suffix=".csv"), ek.Schedule("0 3 * * 7", "Europe/Paris"), ek.Http())


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A project with a service, a training and a function, and a cache of its own."""
    root = tmp_path_factory.mktemp("project")
    shutil.copytree(TINY, root / "tiny")
    for folder, name in (("job", "train.py"), ("function", "main.py")):
        (root / folder).mkdir()
        (root / folder / name).write_text("def handler(event, runtime):\n    return None\n", encoding="utf-8")
    with pytest.MonkeyPatch.context() as env:
        env.setenv("XDG_CACHE_HOME", str(root / "cache"))
        yield root


def training(lake: Storage, **spec: Any) -> Training:
    return Training("income", ek.TrainingSpec(source="job", inputs={"census": "lake/people/"}, **spec), storage=lake)


def endpoint(models: Registry, **spec: Any) -> Endpoint:
    return Endpoint("api", ek.EndpointSpec(model="tiny@champion", bento="tiny", **spec), registry=models)


@pytest.fixture(scope="module")
def whole(project: Path) -> Recorded:
    """One of each."""

    def program() -> list[Any]:
        lake = Storage("lake")
        models = Registry("models", storage=lake)
        income = training(lake, spot=True, nodes=2, resources=ek.Resources(gpus=1, gpu="A100"))
        api = endpoint(models)
        again = Function(
            "again", ek.FunctionSpec(source="function", on=ON, env={"A": "b"}), uses=[lake, income, models, api]
        )
        return [lake, models, income, api, again]

    return run(program, project)


def test_what_is_made_for_a_component_is_under_it_and_says_whose_it_is(whole: Recorded) -> None:
    names = {"lake", "models", "income", "api", "again"}
    for one in whole.made:
        if one.name in names and one.type.startswith("ekiben:kubernetes:") and not one.parent.count("::ekiben:"):
            continue  # the component itself
        labels = (one.inputs.get("metadata") or one.inputs).get("labels")
        if labels is None:
            continue
        parent = one.parent.rpartition("::")[2]
        assert labels[MANAGED_BY] == "ekiben"
        assert (labels[PROJECT], labels[STACK]) == ("small", "dev")
        assert labels[COMPONENT] == (parent if parent in names else ""), one
        assert one.name.startswith(labels[COMPONENT] or NAMESPACE), one


def test_everything_but_what_a_cluster_has_one_of_is_in_the_stack_s_namespace(whole: Recorded) -> None:
    for one in whole.objects():
        if not one.type.endswith((":Namespace", ":PriorityClass")):
            assert one.inputs["metadata"]["namespace"] == NAMESPACE, one
    (namespace,) = whole.all("Namespace")
    assert namespace.inputs["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    assert namespace.inputs["metadata"]["name"] == NAMESPACE
    assert namespace.inputs["metadata"]["annotations"] == {OWNER: "ann@laptop-1"}


def test_every_pod_passes_pod_security_restricted_and_says_what_it_takes(whole: Recorded) -> None:
    found = dict(pods(whole))
    assert len(found) == 6, list(found)  # the store, the placeholder, a handler, a schedule; runs and revisions
    for name, spec in found.items():
        assert not_restricted(spec) == [], name
        assert spec["enableServiceLinks"] is False
        for container in spec["containers"]:
            assert container["securityContext"]["readOnlyRootFilesystem"], name
            for amounts in container["resources"].values():
                assert {"cpu", "memory"} <= amounts.keys(), name


def test_a_pod_that_is_not_restricted_is_found_out(whole: Recorded) -> None:
    """The check itself."""
    (spec,) = [spec for name, spec in pods(whole) if name == "facts of api"]
    (container,) = spec["containers"]
    for broken in (
        {"runAsNonRoot": False},
        {"allowPrivilegeEscalation": True},
        {"capabilities": {}},
        {"privileged": True},
    ):
        wrong = {**spec, "containers": [{**container, "securityContext": {**container["securityContext"], **broken}}]}
        assert not_restricted(wrong), broken
    assert not_restricted({**spec, "volumes": [{"name": "root", "hostPath": {"path": "/"}}]})
    assert not_restricted({**spec, "hostNetwork": True})


def test_only_what_acts_has_a_token(whole: Recorded) -> None:
    for name, spec in pods(whole):
        assert spec["automountServiceAccountToken"] is (name == "kubernetes:apps/v1:Deployment again"), name
    for account in whole.all("ServiceAccount"):
        assert account.inputs["automountServiceAccountToken"] is False


def test_roles_name_verbs_and_where_they_can_what_they_are_for(whole: Recorded) -> None:
    found = {one.name: rules(whole, one.name) for one in whole.all("Role")}
    assert set(found) == {"again-uses-income", "again-uses-api"}, "what is in the store alone needs no role"
    for name, told in found.items():
        for one in told:
            assert "*" not in (*one["verbs"], *one["resources"], *one["apiGroups"]), name
            if "secrets" in one["resources"]:
                assert one["resourceNames"] == ["api-token"]
                assert one["verbs"] == ["get"]
    (service,) = [
        one
        for one in found["again-uses-api"]
        if one["apiGroups"] == ["serving.knative.dev"] and "services" in one["resources"]
    ]
    assert (service["resourceNames"], sorted(service["verbs"])) == (["api"], ["get", "patch"])
    for bound in whole.all("RoleBinding"):
        assert bound.inputs["roleRef"] == {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": bound.name}
        assert bound.inputs["subjects"] == [{"kind": "ServiceAccount", "name": "again", "namespace": NAMESPACE}]


def test_nobody_is_let_in_or_out_unless_it_is_said(whole: Recorded) -> None:
    found = {one.inputs["metadata"]["name"]: one.inputs["spec"] for one in whole.all("NetworkPolicy")}
    default = found["ekiben-default"]
    assert (default["podSelector"], default["policyTypes"]) == ({}, ["Ingress", "Egress"])
    assert "ingress" not in default
    assert {one["port"] for rule in default["egress"] for one in rule["ports"]} == {53, 5353}
    # A model reaches its store, and nothing else.
    (out,) = found["api"]["egress"]
    assert out["to"] == [{"podSelector": {"matchLabels": {"app.kubernetes.io/name": "ekiben-store"}}}]
    assert found["ekiben-store"]["ingress"][0]["from"] == [{"podSelector": {}}]
    for name in ("income", "again"):
        out = found[name]["egress"][0]["to"]
        assert "169.254.169.254/32" in [but for to in out if "ipBlock" in to for but in to["ipBlock"]["except"]]
        assert {"namespaceSelector": {}} in out, "where a pod is no address"
    # Who has a token reaches the API server, also where it is on a node, and a node is no address.
    assert [{one["port"] for one in rule["ports"]} for rule in found["again"]["egress"] if "to" not in rule] == [
        {443, 6443, 8443}
    ]
    assert len(found["income"]["egress"]) == 1


def test_no_secret_is_anywhere_but_in_the_cluster(whole: Recorded) -> None:
    assert not whole.all("Secret")
    keys = {one.inputs["secret"]: one.inputs["fields"] for one in whole.all("Keys")}
    assert keys == {
        "ekiben-store": ["access_key_id", "secret_access_key"], "api-token": ["token"], "again-token": ["token"],
    }  # fmt: skip
    for name, spec in pods(whole):
        for container in spec["containers"]:
            told = {one["name"]: one for one in container.get("env", ())}
            for variable in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "EKIBEN_SERVER_TOKEN", "ROOT_SECRET_KEY"):
                assert variable not in told or set(told[variable]["valueFrom"]) == {"secretKeyRef"}, name


def test_the_facts_are_what_the_run_face_reads(whole: Recorded) -> None:
    lake = facts_of(whole.parts["lake"], StorageFacts)
    assert (lake.uri, lake.s3.service) == ("s3://lake", "ekiben-store:7070")
    models = facts_of(whole.parts["models"], RegistryFacts)
    assert (models.uri, models.bus) == ("s3://lake/registry/models", "s3://lake/deliveries/_events")
    income = facts_of(whole.parts["income"], TrainingFacts)
    assert income.input_uris == {"census": "s3://lake/people/"}
    assert income.spec["nodes"] == 2
    api = facts_of(whole.parts["api"], EndpointFacts)
    assert (api.backend, api.token_secret, api.url) == (
        "knative",
        "api-token",
        f"http://api.{NAMESPACE}.svc.cluster.local",
    )
    again = facts_of(whole.parts["again"], FunctionFacts)
    assert again.deliveries_uri == "s3://lake/deliveries/again"
    assert [one["type"] for one in again.on] == ["NewData", "Schedule", "Http"]
    assert again.on[0]["uri"] == "s3://lake"


def test_archives_lie_under_their_digests_and_stay(whole: Recorded) -> None:
    facts = whole.parts["income"].facts
    held = {one.inputs["key"]: one for one in whole.all("Object")}
    for what in ("code", "library"):
        one = held[f"code/{facts[f'{what}_sha256']}.tar"]
        assert archive.sha256(Path(one.inputs["source_path"])) == one.inputs["sha256"] == facts[f"{what}_sha256"]
        assert one.retained


def test_a_run_is_put_where_its_gpu_is_and_spot_capacity_before_other(whole: Recorded) -> None:
    spec = whole.parts["income"].facts["pod"]
    affinity = spec["affinity"]["nodeAffinity"]
    terms = affinity["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    wanted = {one["key"]: one["values"] for term in terms for one in term["matchExpressions"]}
    assert wanted["cloud.google.com/gke-accelerator"] == ["nvidia-tesla-a100", "nvidia-a100-80gb"]
    assert len(affinity["preferredDuringSchedulingIgnoredDuringExecution"]) == 4
    assert {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"} in spec["tolerations"]
    assert spec["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    priority = whole.one("PriorityClass").inputs
    assert spec["priorityClassName"] == priority["metadata"]["name"]
    assert (priority["value"], priority["preemptionPolicy"]) == (-100, "Never")


def test_what_deployments_change_is_not_the_program_s(whole: Recorded) -> None:
    (service,) = [one for one in whole.all("Service") if one.type.startswith("kubernetes:serving.knative.dev")]
    assert service.ignored == ["spec"]
    template = service.inputs["spec"]["template"]
    assert template["metadata"]["annotations"]["autoscaling.knative.dev/max-scale"] == "4"
    compile(template["spec"]["containers"][0]["command"][2], "placeholder", "exec")


def test_a_schedule_is_a_cron_job_whose_pods_are_not_called(whole: Recorded) -> None:
    spec = whole.one("CronJob", "again-0").inputs["spec"]
    assert (spec["schedule"], spec["timeZone"]) == ("0 3 * * 0", "Europe/Paris")
    template = spec["jobTemplate"]["spec"]["template"]
    chosen = whole.one("core/v1:Service", "again").inputs["spec"]["selector"]
    assert not chosen.items() <= template["metadata"]["labels"].items()
    handler = whole.one("Deployment", "again").inputs["spec"]
    assert chosen.items() <= handler["template"]["metadata"]["labels"].items()
    assert (handler["replicas"], handler["strategy"]) == (1, {"type": "Recreate"})
    told = {one["name"]: one.get("value") for one in handler["template"]["spec"]["containers"][0]["env"]}
    assert told["A"] == "b"
    assert FunctionFacts.from_json(told["EKIBEN_FUNCTION"] or "").service == "again"
    assert set(ek.Platform.from_json(told["EKIBEN_PLATFORM"] or "").parts) == {"lake", "income", "models", "api"}


@pytest.mark.parametrize(
    ("asked", "told"),
    [("*/20 6-8 * * mon-fri", "0,20,40 6-8 * * 1-5"), ("5 4 1,15 */6 *", "5 4 1,15 1,7 *"), ("0 0 * * 7", "0 0 * * 0")],
)
def test_a_cron_expression_is_spelled_out(asked: str, told: str) -> None:
    assert crontab(asked) == told


def test_without_knative_it_is_a_service_of_what_has_the_traffic(project: Path) -> None:
    def program() -> list[Any]:
        models = Registry("models", storage=Storage("lake"))
        return [models, endpoint(models, min_instances=1, auth="none")]

    config = {"ekiben:knative": "false", "ekiben:gateway": "infra/public", "ekiben:domain": "example.org"}
    recorded = run(program, project, config)
    spec = recorded.one("core/v1:Service", "api").inputs["spec"]
    assert spec["selector"] == {COMPONENT: "api", "ekiben.dev/traffic": "yes"}
    route = recorded.one("HTTPRoute")
    assert route.ignored == ["spec.rules"]
    assert route.inputs["spec"]["parentRefs"] == [{"name": "public", "namespace": "infra"}]
    facts = facts_of(recorded.parts["api"], EndpointFacts)
    assert (facts.backend, facts.route, facts.token_secret) == ("deployments", "api", "")
    assert facts.url == f"http://api.{NAMESPACE}.example.org"
    assert facts.pod["containers"][0]["readinessProbe"]["tcpSocket"] == {"port": 8080}
    assert [one.inputs["secret"] for one in recorded.all("Keys")] == ["ekiben-store"]


def test_a_store_of_one_s_own_is_used_as_it_is(project: Path) -> None:
    config = {
        "ekiben:s3Endpoint": "https://minio.example:9000", "ekiben:s3Secret": "minio", "ekiben:buckets": '{"old": "data"}',
    }  # fmt: skip
    recorded = run(lambda: [Storage("lake", ek.StorageSpec(retain=True)), Storage("old")], project, config)
    assert not recorded.all("StatefulSet")
    assert not recorded.all("Keys")
    assert recorded.parts["lake"].facts["uri"] == f"s3://{NAMESPACE}-lake"
    kept = {one.inputs["bucket"]: (one.inputs["keep"], one.retained) for one in recorded.all("Bucket") if one.inputs}
    assert kept == {f"{NAMESPACE}-lake": (True, True), "data": (True, False)}
    assert recorded.parts["old"].facts["s3"] == {
        "url": "https://minio.example:9000", "secret": "minio", "region": "us-east-1", "outside_url": "", "service": "",
    }  # fmt: skip


def test_a_quota_bounds_what_the_platform_takes(project: Path) -> None:
    plain = run(lambda: [Storage("lake")], project).one("ResourceQuota").inputs["spec"]["hard"]
    assert plain == {"services.loadbalancers": "0", "services.nodeports": "0"}
    bound = run(lambda: [Storage("lake")], project, {"ekiben:quota": json.dumps({"requests.cpu": 8})})
    assert bound.one("ResourceQuota").inputs["spec"]["hard"]["requests.cpu"] == "8"
    assert bound.one("LimitRange").inputs["spec"]["limits"][0]["type"] == "Container"


def test_all_that_a_cluster_lacks_fails_the_preview_at_once(project: Path) -> None:
    def program() -> list[Any]:
        lake = Storage("lake", ek.StorageSpec(versioning="required", retain=True))
        stays = Storage("stays", ek.StorageSpec(retain=True))
        models = Registry("models", ek.RegistrySpec(mirror="required"), storage=Storage("other"))
        api = endpoint(models, timeout_s=900)
        components.export(lake, stays, models, api)
        return []

    with pytest.raises(Unsupported) as error:
        run(program, project, {"ekiben:knative": "false"})
    told = str(error.value)
    for part in (
        "versioning='required'",
        "'stays': retain=True",
        "mirror='required'",
        "min_instances=0",
        "no Knative Serving",
    ):
        assert part in told


def test_a_name_that_no_node_has_is_told_with_those_that_there_are(project: Path) -> None:
    def program() -> list[Any]:
        components.export(training(Storage("lake"), resources=ek.Resources(gpus=1, gpu="Z9")))
        return []

    with pytest.raises(Unsupported, match=r"TrainingSpec of 'income': resources.gpu='Z9'.*H100"):
        run(program, project)


def test_an_endpoint_without_a_registry_for_its_image_says_what_to_set(project: Path) -> None:
    def program() -> list[Any]:
        return [endpoint(Registry("models", storage=Storage("lake")))]

    with pytest.raises(SpecError, match="pulumi config set ekiben:registry"):
        run(program, project, {"ekiben:registry": ""})


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ({"ekiben:s3Endpoint": "minio:9000"}, "s3Endpoint"),
        ({"ekiben:s3Endpoint": "http://minio:9000"}, "s3Secret"),
        ({"ekiben:gateway": "public"}, "NAMESPACE/NAME"),
        ({"ekiben:quota": "[1]"}, "quota"),
        ({"ekiben:knative": "perhaps"}, "knative"),
        ({"ekiben:storeGib": "0"}, "storeGib"),
        ({"ekiben:cpuShare": "1.5"}, "cpuShare"),
        ({"ekiben:cpuShare": "much"}, "cpuShare"),
    ],
)
def test_a_config_that_cannot_be_is_named(project: Path, config: dict[str, str], why: str) -> None:
    with pytest.raises(SpecError, match=why):
        run(lambda: [Storage("lake")], project, config)


def test_two_plugins_never_work_on_two_clusters(project: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def program() -> list[Any]:
        return [Storage("lake")]

    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "mine"))
    assert run(program, project, {"kubernetes:kubeconfig": str(tmp_path / "." / "mine")}).all("Namespace")
    secret = "apiVersion: v1\nusers: [{user: {token: top-secret}}]\n"
    for other in (str(tmp_path / "other"), "~/.kube/config", secret, json.dumps({"users": "top-secret"})):
        with pytest.raises(SpecError, match="Name the file in KUBECONFIG") as error:
            run(program, project, {"kubernetes:kubeconfig": other})
        assert "top-secret" not in str(error.value)


def test_a_cluster_that_cannot_be_asked_says_what_to_set(
    project: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "nowhere"))

    def program() -> list[Any]:
        return [endpoint(Registry("models", storage=Storage("lake")))]

    with pytest.raises(SpecError, match="ekiben:knative true"):
        run(program, project, {"ekiben:knative": ""})


def test_components_of_other_providers_are_refused(project: Path) -> None:
    from ekiben.local.components import Storage as Local

    with pytest.raises(SpecError, match="'models' is on kubernetes and its storage 'lake' is on local"):
        run(lambda: [Registry("models", storage=Local("lake"))], project)
