"""Endpoints on Lambda: versions as revisions, an alias for the traffic, calls through the format of the web adapter."""

from __future__ import annotations

import io
import json
import uuid
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import pytest

import ekiben as ek
from ekiben.aws.endpoint import Endpoint
from ekiben.release import release
from ekiben.release.rollout import KEPT_REVISIONS
from tests.fakes.aws import Edge, Ran

from .conftest import REGION, platform


class Models:
    """What the function's versions do: the model that their environment names, by its digest, or what the test says."""

    def __init__(self, client: Any, function: str) -> None:
        self._client, self._function = client, function
        self.broken: dict[str, Ran] = {}
        self.answers: dict[str, Callable[[dict[str, Any]], Ran]] = {}
        self.environments: dict[str, dict[str, str]] = {}
        self.asked: list[tuple[str, str, str]] = []

    def __call__(self, name: str, version: str, event: dict[str, Any]) -> Ran:
        from moto.awslambda.models import lambda_backends

        found = lambda_backends["123456789012"][REGION].get_function(name, version)
        digest = found.environment_vars.get("EKIBEN_DIGEST", "")
        http = event["requestContext"]["http"]
        self.asked.append((version, http["method"], event["rawPath"]))
        if digest in self.broken:
            return self.broken[digest]
        if http["path"] == "/readyz":
            return reply(200, b"ready")
        return self.answers.get(digest, lambda body: reply(200, json.dumps({"digest": digest, **body}).encode()))(
            json.loads(event["body"])
        )


def reply(status: int, body: bytes, **headers: str) -> Ran:
    return Ran(payload={"statusCode": status, "headers": headers, "body": body.decode(), "isBase64Encoded": False})


@pytest.fixture
def function(client: Callable[[str], Any]) -> str:
    role = client("iam").create_role(RoleName=f"role-{uuid.uuid4().hex[:8]}", AssumeRolePolicyDocument="{}")["Role"][
        "Arn"
    ]
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as packed:
        packed.writestr("main.py", "def handler(event, context): pass")
    name = f"api-{uuid.uuid4().hex[:8]}"
    client("lambda").create_function(
        FunctionName=name, Role=role, Runtime="python3.12", Handler="main.handler", Code={"ZipFile": file.getvalue()},
        Environment={"Variables": {"PORT": "8080"}},
    )  # fmt: skip
    return name


@pytest.fixture
def models(client: Callable[[str], Any], function: str, edge: Edge) -> Models:
    edge.runs = Models(client("lambda"), function)
    return edge.runs


@pytest.fixture
def endpoint(bucket: str, function: str, models: Models) -> Endpoint:
    facts = {
        "region": REGION, "function": function, "alias": "live", "model": "tiny@champion", "storage_uri": f"s3://{bucket}",
        "template_uri": f"s3://{bucket}/code/t.tar", "template_sha256": "0" * 64, "log_group": f"/aws/lambda/{function}",
    }  # fmt: skip
    part = ek.Part(name="tiny-api", kind="endpoint", provider="aws", ref="", facts=facts)
    return Endpoint(part, platform(part))


def test_a_new_endpoint_says_to_release_a_model(endpoint: Endpoint) -> None:
    assert endpoint.revisions() == []
    with pytest.raises(ek.Unavailable, match="release"):
        endpoint.invoke({"x": 1})


def test_an_alias_that_the_deployment_made_is_no_release(
    endpoint: Endpoint, client: Callable[[str], Any], function: str
) -> None:
    client("lambda").publish_version(FunctionName=function)
    client("lambda").create_alias(FunctionName=function, Name="live", FunctionVersion="1")
    assert endpoint.revisions() == []
    with pytest.raises(ek.Unavailable, match="release"):
        endpoint.invoke({"x": 1})


def test_a_candidate_gets_no_traffic_but_by_its_name(
    endpoint: Endpoint,
    make: Callable[[int], ek.ModelVersion],
    models: Models,
    client: Callable[[str], Any],
    function: str,
) -> None:
    one, two = make(1), make(2)
    first = endpoint.deploy(one)
    assert (first.state, first.weight, first.version, first.digest) == ("ready", 0.0, "tiny:1", one.digest)
    assert first.created_at.endswith("Z")
    endpoint.shift({first.id: 100.0})
    second = endpoint.deploy(two, tag="candidate")
    assert (second.weight, second.tag) == (0.0, "candidate")
    assert endpoint.deploy(two).id == second.id
    assert [found.id for found in endpoint.revisions()] == [second.id, first.id]
    assert {endpoint.invoke({"x": 2}).body["digest"] for _ in range(5)} == {one.digest}
    for name in (second.id, "candidate"):
        answer = endpoint.invoke({"x": 2}, revision=name)
        assert (answer.body, answer.revision) == ({"digest": two.digest, "x": 2}, second.id)
    with pytest.raises(ek.NotFound, match="nobody"):
        endpoint.invoke({"x": 2}, revision="nobody")
    variables = client("lambda").get_function_configuration(FunctionName=function, Qualifier="1")["Environment"][
        "Variables"
    ]
    assert (variables["PORT"], variables["EKIBEN_BENTO"]) == ("8080", one.bento_uri)
    assert (models.asked[0][1], models.asked[0][2]) == ("GET", "/readyz")
    assert models.asked[-1][2] == "/predict"


def test_two_at_once_make_one_revision(endpoint: Endpoint, make: Callable[[int], ek.ModelVersion]) -> None:
    version = make(1)
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda _: Endpoint(endpoint.part, endpoint.platform).deploy(version), range(4)))
    assert {found.id for found in made} == {made[0].id}
    assert [found.id for found in endpoint.revisions()] == [made[0].id]


def test_somebody_who_changes_the_function_meanwhile_is_noticed(
    endpoint: Endpoint, make: Callable[[int], ek.ModelVersion], edge: Edge, function: str
) -> None:
    at = f"2015-03-31/functions/{function}"
    edge.fail(f"POST /{at}/versions", "PreconditionFailedException", "The RevisionId does not match", status=412)
    edge.fail(f"PUT /{at}/configuration", "ResourceConflictException", "An update is in progress", status=409)
    assert endpoint.deploy(make(1)).state == "ready"
    assert edge.count(f"POST /{at}/versions") == 2


def test_a_bento_with_other_bytes_is_never_deployed(
    endpoint: Endpoint, make: Callable[[int], ek.ModelVersion], client: Callable[[str], Any], bucket: str, edge: Edge
) -> None:
    version = make(1)
    client("s3").put_object(Bucket=bucket, Key=f"bentos/{version.digest}.tar", Body=b"other")
    edge.seen.clear()
    with pytest.raises(ek.IntegrityError, match=version.digest):
        endpoint.deploy(version)
    assert endpoint.revisions() == []
    assert edge.count("/configuration") == 0


def test_a_bento_that_does_not_start_changes_nothing(
    endpoint: Endpoint, make: Callable[[int], ek.ModelVersion], models: Models
) -> None:
    good, bad, unready = make(1), make(2), make(3)
    endpoint.shift({endpoint.deploy(good).id: 100.0})
    models.broken[bad.digest] = Ran(error="Runtime exited", log="KeyError: 'slope'\nREPORT")
    with pytest.raises(ek.ModelFailed, match="Runtime exited") as caught:
        endpoint.deploy(bad)
    assert "slope" in caught.value.tail
    models.broken[unready.digest] = reply(503, b"still loading")
    with pytest.raises(ek.ModelFailed, match="still loading"):
        endpoint.deploy(unready)
    assert [found.version for found in endpoint.revisions()] == ["tiny:1"]
    assert endpoint.invoke({"x": 1}).body["digest"] == good.digest
    del models.broken[bad.digest]
    assert endpoint.deploy(bad).state == "ready", "it may be tried again"


def test_traffic_follows_the_weights(
    endpoint: Endpoint, make: Callable[[int], ek.ModelVersion], client: Callable[[str], Any], function: str
) -> None:
    old, new, third = (endpoint.deploy(make(number)) for number in (1, 2, 3))
    endpoint.shift({old.id: 100.0})
    for weights, error in (
        ({old.id: 50.0, new.id: 40.0}, ek.SpecError),
        ({old.id: 110.0, new.id: -10.0}, ek.SpecError),
        ({"nobody": 100.0}, ek.NotFound),
        ({old.id: 40.0, new.id: 30.0, third.id: 30.0}, ek.Unsupported),
    ):
        with pytest.raises(error):
            endpoint.shift(weights)
    assert {found.id: found.weight for found in endpoint.revisions()} == {old.id: 100.0, new.id: 0.0, third.id: 0.0}
    shifted = endpoint.shift({old.id: 70.0, new.id: 30.0})
    assert endpoint.shift({old.id: 70.0, new.id: 30.0}) == shifted
    assert {found.id: found.weight for found in shifted} == {old.id: 70.0, new.id: 30.0, third.id: 0.0}
    alias = client("lambda").get_alias(FunctionName=function, Name="live")
    assert alias["RoutingConfig"]["AdditionalVersionWeights"] == {"2": 0.3}
    with pytest.raises(ek.SpecError, match="30 % of the traffic"):
        endpoint.retire(new.id)
    endpoint.shift({new.id: 100.0})
    alias = client("lambda").get_alias(FunctionName=function, Name="live")
    assert (alias["FunctionVersion"], (alias.get("RoutingConfig") or {}).get("AdditionalVersionWeights") or {}) == (
        "2",
        {},
    )
    assert endpoint.invoke({"x": 1}).revision == new.id


def test_instances_are_started_before_they_get_traffic_and_not_kept_after(
    endpoint: Endpoint, make: Callable[[int], ek.ModelVersion], client: Callable[[str], Any], function: str, edge: Edge
) -> None:
    def started() -> dict[str, int]:
        told = client("lambda").list_provisioned_concurrency_configs(FunctionName=function)
        return {
            one["FunctionArn"].rpartition(":")[2]: one["RequestedProvisionedConcurrentExecutions"]
            for one in told["ProvisionedConcurrencyConfigs"]
        }

    client("lambda").put_function_concurrency(FunctionName=function, ReservedConcurrentExecutions=12)
    endpoint.part.facts["provisioned"] = 5
    warm = Endpoint(endpoint.part, endpoint.platform)
    old, new = (warm.deploy(make(number)) for number in (1, 2))
    assert started() == {}
    warm.shift({old.id: 100.0})
    assert started() == {"1": 5}
    warm.shift({old.id: 70.0, new.id: 30.0})
    assert started() == {"1": 4, "2": 2}, "together no fewer than were asked for"
    at = "/provisioned-concurrency"
    edge.say(f"GET /2019-09-30/functions/{function}{at}", 200, {"Status": "FAILED", "StatusReason": "No room."})
    with pytest.raises(ek.NoCapacity, match="its instances are not started: No room"):
        warm.shift({new.id: 100.0})
    assert {one.id: one.weight for one in warm.revisions()} == {old.id: 70.0, new.id: 30.0}
    edge.seen.clear()
    warm.shift({new.id: 100.0})
    assert started() == {"2": 5}
    order = [name.partition(" ")[0] for name, _ in edge.seen if at in name or "/aliases/" in name]
    assert order.index("GET") < order.index("DELETE")
    endpoint.part.facts["provisioned"] = 0
    Endpoint(endpoint.part, endpoint.platform).shift({new.id: 100.0})
    assert started() == {}


def test_retire_takes_the_version_and_its_tag(
    endpoint: Endpoint, make: Callable[[int], ek.ModelVersion], client: Callable[[str], Any], function: str
) -> None:
    kept, gone = endpoint.deploy(make(1)), endpoint.deploy(make(2), tag="candidate")
    endpoint.retire(gone.id)
    endpoint.retire(gone.id)
    endpoint.retire("nobody")
    assert [found.id for found in endpoint.revisions()] == [kept.id]
    assert client("lambda").list_aliases(FunctionName=function)["Aliases"] == []
    again = endpoint.deploy(make(2))
    assert (again.id, again.tag) == (gone.id, "")


def test_revisions_over_more_than_one_page(
    endpoint: Endpoint, client: Callable[[str], Any], function: str, edge: Edge
) -> None:
    there = client("lambda")
    for number in range(12):
        there.update_function_configuration(FunctionName=function, Environment={"Variables": {"N": str(number)}})
        there.publish_version(FunctionName=function, Description=f"v{number}-{'0' * 8} tiny:{number} {'0' * 64}")
    edge.page = 5
    assert [found.version for found in endpoint.revisions()] == [f"tiny:{number}" for number in reversed(range(12))]
    assert edge.count("/versions") - 12 == 3


@pytest.mark.parametrize(
    ("ran", "kind", "match"),
    [
        (
            reply(400, b'{"detail": [{"loc": ["body", "x"], "msg": "Field required"}]}'),
            ek.SpecError,
            "body.x: Field required",
        ),
        (reply(422, b'{"error": "no y"}'), ek.SpecError, "no y"),
        (reply(500, b'{"error": "it broke"}'), ek.ModelFailed, "it broke"),
        (reply(504, b"too slow"), ek.ModelFailed, "too slow"),
        (reply(503, b"busy"), ek.Unavailable, "busy"),
        (reply(200, b"no json"), ek.ModelFailed, "not JSON"),
        (Ran(error="Task timed out after 3.00 seconds"), ek.ModelFailed, "timed out"),
        (Ran(payload="what is this"), ek.ModelFailed, "what is this"),
    ],
)
def test_what_a_model_says_is_told_to_whom_it_concerns(
    endpoint: Endpoint,
    make: Callable[[int], ek.ModelVersion],
    models: Models,
    ran: Ran,
    kind: type[Exception],
    match: str,
) -> None:
    version = make(1)
    endpoint.shift({endpoint.deploy(version).id: 100.0})
    models.answers[version.digest] = lambda body: ran
    with pytest.raises(kind, match=match):
        endpoint.invoke({"x": 1})
    del models.answers[version.digest]
    assert endpoint.invoke({"x": 1}).body["x"] == 1, "it goes on"


def test_an_answer_with_its_id_its_time_and_whether_it_was_cold(
    endpoint: Endpoint, make: Callable[[int], ek.ModelVersion], models: Models
) -> None:
    version = make(1)
    endpoint.shift({endpoint.deploy(version).id: 100.0})
    body = json.dumps({"y": "駅弁"}).encode()
    ran = reply(200, body, **{"X-Request-ID": "mine"})
    models.answers[version.digest] = lambda _: Ran(payload=ran.payload, log="REPORT Init Duration: 900 ms")
    answer = endpoint.invoke({"x": 1}, route="/explain")
    assert (answer.body, answer.id, answer.cold, answer.endpoint) == ({"y": "駅弁"}, "mine", True, "tiny-api")
    assert answer.latency_ms > 0
    assert models.asked[-1][2] == "/explain"


def test_a_call_is_sent_once_and_throttling_is_unavailable(
    endpoint: Endpoint, make: Callable[[int], ek.ModelVersion], edge: Edge, function: str
) -> None:
    endpoint.shift({endpoint.deploy(make(1)).id: 100.0})
    edge.seen.clear()
    edge.fail("/invocations", "TooManyRequestsException", "Rate Exceeded.", status=429)
    with pytest.raises(ek.Unavailable, match="Rate Exceeded"):
        endpoint.invoke({"x": 1})
    assert edge.count("/invocations") == 1
    with pytest.raises(ek.SpecError, match="6291456"):
        endpoint.invoke({"x": "y" * (6 * 2**20)})
    with pytest.raises(ek.SpecError, match="JSON"):
        endpoint.invoke({"x": float("nan")})
    assert edge.count("/invocations") == 1


def test_metrics_are_of_each_revision(
    endpoint: Endpoint, make: Callable[[int], ek.ModelVersion], client: Callable[[str], Any], function: str
) -> None:
    one = endpoint.deploy(make(1))
    endpoint.shift({one.id: 100.0})
    assert [found.revision for found in endpoint.metrics()] == [one.id]
    now = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    live = {"FunctionName": function, "ExecutedVersion": "1", "Resource": f"{function}:live"}
    counts = [("Invocations", 7, live), ("Invocations", 2, {"FunctionName": function, "Resource": f"{function}:1"})]
    for name, value, where in [*counts, ("Errors", 1, live)]:
        dimensions = [{"Name": key, "Value": said} for key, said in where.items()]
        point = {"MetricName": name, "Value": value, "Timestamp": now, "Dimensions": dimensions}
        client("cloudwatch").put_metric_data(Namespace="AWS/Lambda", MetricData=[point])
    (found,) = endpoint.metrics()
    assert (found.requests, found.errors) == (9, 1)


def test_a_release_and_its_rollback(
    endpoint: Endpoint, make: Callable[[int], ek.ModelVersion], bucket: str, client: Callable[[str], Any]
) -> None:
    from ekiben.aws.registry import Registry
    from ekiben.release import rollback

    bus = f"bus-{uuid.uuid4().hex[:8]}"
    client("events").create_event_bus(Name=bus)
    facts = {"region": REGION, "uri": f"s3://{bucket}/registry/models", "bus": bus}
    part = ek.Part(name="models", kind="registry", provider="aws", ref="", facts=facts)
    registry = Registry(part, platform(part, endpoint.part))

    class Bound(ek.Runtime):
        def endpoint(self, name: str = "") -> Endpoint:
            return endpoint

        def registry(self, name: str = "") -> Registry:
            return registry

    runtime = Bound(registry.platform)
    for number in (1, 2):
        registry.register(make(number))
        registry.decide(f"tiny:{number}", "approved", who="ann", why="")
        assert release(runtime, f"tiny:{number}", who="ann", why="").version == f"tiny:{number}"
    assert registry.version("tiny@champion").version == 2
    assert rollback(runtime, who="ann", why="complaints").version == "tiny:1"
    assert endpoint.invoke({"x": 1}).body["digest"] == make(1).digest
    assert len(endpoint.revisions()) <= KEPT_REVISIONS
