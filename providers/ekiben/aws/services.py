"""Task definitions and services of ECS Express: made, changed and deleted so that it can be repeated, changes waited for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple, TypeVar

from ekiben.aws.client import Cloud
from ekiben.aws.errors import RoleNotReady, code_of
from ekiben.aws.facts import ExpressFacts
from ekiben.aws.hosting import moment
from ekiben.aws.waiting import looks, when_assumable
from ekiben.bentos import environment
from ekiben.errors import NotFound, ProviderError, Unavailable
from ekiben.records import ModelVersion

__all__ = ["Definition", "Services", "address"]

# Where the environment image listens, and what it answers when it is ready.
PORT, READY = 8080, "/readyz"
# What ECS calls the container that takes the calls.
MAIN = "Main"
CHANGE_TIMEOUT_S = 3600.0
FIRST_PAUSE_S, LAST_PAUSE_S = 0.5, 15.0
DONE = "SUCCESSFUL"
FAILED = frozenset({"STOPPED", "ROLLBACK_SUCCESSFUL", "ROLLBACK_FAILED"})
# A service whose tasks end starts others for ever: after so many it has failed.
LOST_TASKS = 3
TASKS = 100  # the most that DescribeTasks takes
LOST = frozenset({"EssentialContainerExited", "TaskFailedToStart"})
# A load balancer closes a connection that is idle for so long unless it is told otherwise, and waits for 4000 s at most.
BALANCER_WAITS_S = 60
IDLE = "idle_timeout.timeout_seconds"

T = TypeVar("T")


class Definition(NamedTuple):
    """A task definition that is a revision."""

    arn: str
    version: str
    digest: str
    created_at: str


class Services:
    """The task definitions of a family, and services that run them."""

    def __init__(self, cloud: Cloud, facts: ExpressFacts, tags: Sequence[Mapping[str, str]]) -> None:
        self._cloud, self._facts = cloud, facts
        self._tags = [{"key": one["Key"], "value": one["Value"]} for one in tags]

    def register(self, operation: str, version: ModelVersion) -> str:
        """A task definition that serves the version; its ARN. Each call makes another one."""
        facts, told = self._facts, environment(version)
        container = {
            "name": MAIN, "image": facts.image_uri, "essential": True,
            "portMappings": [{"containerPort": PORT, "name": "http", "protocol": "tcp"}],
            "environment": [{"name": name, "value": value} for name, value in sorted({**facts.variables, **told}.items())],
            "logConfiguration": {
                "logDriver": "awslogs",
                "options": {
                    "awslogs-group": facts.log_group, "awslogs-region": facts.region,
                    "awslogs-stream-prefix": told["EKIBEN_REVISION"],
                },
            },
        }  # fmt: skip
        made = self._cloud.call(
            "ecs", "register_task_definition", operation, family=facts.service, containerDefinitions=[container],
            requiresCompatibilities=["FARGATE"], networkMode="awsvpc", cpu=str(int(1024 * facts.vcpu)),
            memory=str(facts.memory_mib), taskRoleArn=facts.task_role_arn, executionRoleArn=facts.execution_role_arn,
            runtimePlatform={"cpuArchitecture": "X86_64", "operatingSystemFamily": "LINUX"}, tags=self._tags,
        )  # fmt: skip
        return str(made["taskDefinition"]["taskDefinitionArn"])

    def definitions(self, operation: str) -> dict[str, Definition]:
        """Revision id -> its task definition; of several the first that was made."""
        found: dict[str, Definition] = {}
        for one, told in self._described(operation):
            made = Definition(
                one["taskDefinitionArn"], told["EKIBEN_MODEL_VERSION"], told["EKIBEN_DIGEST"], _moment(one.get("registeredAt"))
            )  # fmt: skip
            found.setdefault(told["EKIBEN_REVISION"], made)
        return found

    def arns(self, operation: str, revision: str) -> list[str]:
        """All task definitions of a revision."""
        return [
            one["taskDefinitionArn"] for one, told in self._described(operation) if told["EKIBEN_REVISION"] == revision
        ]

    def deregister(self, operation: str, arns: Sequence[str]) -> None:
        """Delete task definitions; silent where there are none."""
        for arn in arns:
            self._cloud.call("ecs", "deregister_task_definition", operation, taskDefinition=arn)
            self._cloud.call("ecs", "delete_task_definitions", operation, taskDefinitions=[arn])

    def service(self, operation: str, name: str) -> dict[str, Any] | None:
        """The service as it is; None where there is none, or one that is being deleted."""
        found = self._any(operation, name)
        return found if found is not None and found["status"]["statusCode"] == "ACTIVE" else None

    def serving(self, service: Mapping[str, Any] | None) -> str:
        """The ARN of the task definition that takes the traffic: of two that run, the one that was there before."""
        return str(_oldest(service).get("taskDefinitionArn", ""))

    def since(self, service: Mapping[str, Any]) -> str:
        """When that which takes the traffic began to."""
        return _moment(_oldest(service).get("createdAt"))

    def put(self, operation: str, name: str, definition: str, least: int, most: int) -> str:
        """Have the service run this task definition, in so many tasks, and wait; why that failed, empty where it did not."""
        there = self._free(operation, name)
        tally = {"minTaskCount": least, "maxTaskCount": most}
        if there is None:
            change = self._create(operation, name, definition, tally)
        else:
            now = _oldest(there)
            has = {key: (now.get("scalingTarget") or {}).get(key) for key in tally}
            if now.get("taskDefinitionArn") == definition and has == tally:
                return ""
            made = self._cloud.call(
                "ecs", "update_express_gateway_service", operation, serviceArn=self._arn(name), taskDefinitionArn=definition,
                scalingTarget=tally, healthCheckPath=READY,
            )["service"]  # fmt: skip
            change = str(made["targetConfiguration"]["serviceRevisionArn"])
        failed = self._settled(operation, name, definition, change, fresh=there is None)
        if not failed and self._facts.timeout_s > BALANCER_WAITS_S:
            self._wait_longer(operation, name)
        return failed

    def delete(self, operation: str, name: str) -> None:
        """Delete a service with all that ECS made for it, and wait until it is gone; silent where there is none."""
        if self.service(operation, name) is not None:
            with suppress(NotFound):
                self._cloud.call("ecs", "delete_express_gateway_service", operation, serviceArn=self._arn(name))
        self._free(operation, name, gone=True)

    def tasks(self, operation: str, name: str) -> int:
        """How many tasks of a service run; 0 where there is none."""
        try:
            return sum(1 for _ in self._tasks(operation, name, "RUNNING"))
        except NotFound:
            return 0

    def groups(self, operation: str, service: Mapping[str, Any]) -> list[dict[str, str]]:
        """How CloudWatch names what the load balancer counts of a service."""
        return [
            {"LoadBalancer": balancer.partition(":loadbalancer/")[2], "TargetGroup": group.rpartition(":")[2]}
            for balancer, groups in self._paths(operation, service)
            for group in groups
        ]

    def _create(self, operation: str, name: str, definition: str, tally: Mapping[str, int]) -> str:
        facts = self._facts
        request: dict[str, Any] = {
            "serviceName": name, "cluster": facts.cluster_arn, "taskDefinitionArn": definition, "healthCheckPath": READY,
            "infrastructureRoleArn": facts.infrastructure_role_arn, "scalingTarget": tally, "tags": self._tags,
        }  # fmt: skip
        if facts.subnet_ids:
            request["networkConfiguration"] = {
                "subnets": facts.subnet_ids,
                "securityGroups": facts.security_group_ids,
            }

        def create() -> str:
            made = self._cloud.call("ecs", "create_express_gateway_service", operation, **request)["service"]
            return str(_oldest(made).get("serviceRevisionArn", ""))

        try:
            return when_assumable(create, FIRST_PAUSE_S, FIRST_PAUSE_S)
        except RoleNotReady:
            raise
        except ProviderError as error:
            # Somebody makes it at the same time; which of the two did, makes no difference.
            if code_of(error.__cause__) != "InvalidParameterException" or self.service(operation, name) is None:
                raise
            return ""

    def _free(self, operation: str, name: str, *, gone: bool = False) -> dict[str, Any] | None:
        """The service once nothing changes it and nothing deletes it; with `gone` once it is deleted. None where there is none."""

        def look() -> tuple[bool, dict[str, Any] | None]:
            found = self._any(operation, name)
            if found is None or found["status"]["statusCode"] == "INACTIVE":
                return True, None
            if gone or found["status"]["statusCode"] != "ACTIVE":
                return False, None
            last = self._deployment(operation, name, "")
            return last is None or last["status"] == DONE or last["status"] in FAILED, found

        return _waited(look, operation, "the service is being changed")

    def _settled(self, operation: str, name: str, definition: str, change: str, *, fresh: bool) -> str:
        """Wait until a change of the service has ended; why it failed, empty where it did not. change: its service revision.

        ECS undoes a change by itself when calls fail, but not when no task starts: that is asked for here, unless there was
        nothing before.
        """
        lost = ""

        def look() -> tuple[bool, str]:
            nonlocal lost
            last = self._deployment(operation, name, change)
            if last is None or last["status"] == DONE:
                return last is not None, ""
            if last["status"] in FAILED:
                return True, lost or str(last.get("statusReason") or "ECS does not say why").rstrip(".")
            if not lost and (lost := self._lost(operation, name, definition)) and not fresh:
                # It may have ended in between, which the next look tells.
                with suppress(ProviderError):
                    self._cloud.call(
                        "ecs", "stop_service_deployment", operation,
                        serviceDeploymentArn=last["serviceDeploymentArn"], stopType="ROLLBACK",
                    )  # fmt: skip
            return bool(lost) and fresh, lost

        return _waited(look, operation, "the service has not settled")

    def _deployment(self, operation: str, name: str, change: str) -> dict[str, Any] | None:
        """The newest deployment of a service, or that of one change; None where there is none (yet)."""
        found: list[dict[str, Any]] = []
        asked = {"service": self._arn(name), "cluster": self._facts.cluster_arn}
        while True:
            page = self._cloud.call("ecs", "list_service_deployments", operation, **asked)
            found += [one for one in page["serviceDeployments"] if change in ("", one.get("targetServiceRevisionArn"))]
            if not page.get("nextToken"):
                return max(found, key=lambda one: one["createdAt"], default=None)
            asked["nextToken"] = page["nextToken"]

    def _lost(self, operation: str, name: str, definition: str) -> str:
        """Why the tasks of a service that run this definition end; empty while not enough have."""
        stopped = list(self._tasks(operation, name, "STOPPED"))[:TASKS]
        if len(stopped) < LOST_TASKS:
            return ""
        found = self._cloud.call(
            "ecs", "describe_tasks", operation, cluster=self._facts.cluster_arn, tasks=stopped
        )["tasks"]  # fmt: skip
        reasons = [
            str(one.get("stoppedReason") or one["stopCode"])
            for one in found
            if one.get("taskDefinitionArn") == definition and one.get("stopCode") in LOST
        ]
        return f"its tasks end: {reasons[-1]}".rstrip(".") if len(reasons) >= LOST_TASKS else ""

    def _tasks(self, operation: str, name: str, status: str) -> Iterator[str]:
        return self._cloud.pages(
            "ecs", "list_tasks", operation, cluster=self._facts.cluster_arn, serviceName=name, desiredStatus=status
        )

    def _wait_longer(self, operation: str, name: str) -> None:
        """Have the load balancer wait for as long as a call may take. It is shared, so it is never told to wait for less."""
        service = self.service(operation, name)
        for balancer, _ in self._paths(operation, service) if service else []:
            found = self._cloud.call(
                "elbv2", "describe_load_balancer_attributes", operation, LoadBalancerArn=balancer
            )["Attributes"]  # fmt: skip
            waits_s = next((int(one["Value"]) for one in found if one["Key"] == IDLE), BALANCER_WAITS_S)
            wanted_s = -(-self._facts.timeout_s // 1) + 5
            if waits_s < wanted_s:
                self._cloud.call(
                    "elbv2", "modify_load_balancer_attributes", operation, LoadBalancerArn=balancer,
                    Attributes=[{"Key": IDLE, "Value": f"{wanted_s:.0f}"}],
                )  # fmt: skip

    def _paths(self, operation: str, service: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
        """The load balancers of a service, each with its target groups, by their ARNs."""
        revision = _oldest(service).get("serviceRevisionArn")
        if not revision:
            return []
        (found, *_) = self._cloud.call(
            "ecs", "describe_service_revisions", operation, serviceRevisionArns=[revision]
        )["serviceRevisions"] or [{}]  # fmt: skip
        paths = (found.get("ecsManagedResources") or {}).get("ingressPaths") or []
        return [
            (str(path["loadBalancer"]["arn"]), [str(one["arn"]) for one in path.get("targetGroups") or []])
            for path in paths
            if path.get("loadBalancer")
        ]

    def _any(self, operation: str, name: str) -> dict[str, Any] | None:
        with suppress(NotFound):
            asked = {"serviceArn": self._arn(name)}
            return dict(self._cloud.call("ecs", "describe_express_gateway_service", operation, **asked)["service"])
        return None

    def _described(self, operation: str) -> Iterator[tuple[dict[str, Any], dict[str, str]]]:
        """The family's task definitions, the first made first, with what their environments say."""
        arns = self._cloud.pages(
            "ecs", "list_task_definitions", operation, familyPrefix=self._facts.service, status="ACTIVE", sort="ASC"
        )
        for arn in list(arns):
            one = self._cloud.call("ecs", "describe_task_definition", operation, taskDefinition=arn)["taskDefinition"]
            told = {
                pair["name"]: pair["value"]
                for container in one["containerDefinitions"]
                if container["name"] == MAIN
                for pair in container["environment"]
            }
            if one["family"] == self._facts.service and "EKIBEN_REVISION" in told:
                yield one, told

    def _arn(self, name: str) -> str:
        return f"{self._facts.cluster_arn.replace(':cluster/', ':service/', 1)}/{name}"


def address(service: Mapping[str, Any]) -> str:
    """Where a service is called; empty where it has no address yet. The public one, where there are several."""
    paths = sorted(_oldest(service).get("ingressPaths") or [], key=lambda path: str(path["accessType"]) != "PUBLIC")
    found = str(paths[0]["endpoint"]) if paths else ""
    return found if "://" in found or not found else f"https://{found}"


def _oldest(service: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """What a service ran first of all that it runs: while it changes it runs two."""
    found: Sequence[Mapping[str, Any]] = (service or {}).get("activeConfigurations") or []
    return min(found, key=lambda one: one["createdAt"], default={})


def _waited(look: Callable[[], tuple[bool, T]], operation: str, why: str) -> T:
    """What `look` says, once it says that this is the end."""
    for _ in looks(CHANGE_TIMEOUT_S, FIRST_PAUSE_S, LAST_PAUSE_S):
        done, found = look()
        if done:
            return found
    raise Unavailable("aws", operation, f"{why} after {CHANGE_TIMEOUT_S:g} s", "It goes on; repeat it later")


def _moment(value: Any) -> str:
    return moment(value) if value else ""
