"""One service of ECS Express: its deployments, and the tasks that its requests go to."""

from __future__ import annotations

import http.client
import shutil
import threading
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from moto.core.exceptions import JsonRESTError
from moto.ecs.models import ecs_backends

from ekiben.emulators.aws import metrics, roles
from ekiben.emulators.aws.call import Answer, Call, Refused
from ekiben.emulators.aws.fleets import Fleet, Gone, Start, StartFailed
from ekiben.emulators.aws.images import Images, NoImage

__all__ = ["Service", "group_of"]

# ECS gives up a deployment after so many tasks that did not start, at the least (its circuit breaker).
ATTEMPTS = 10
PAUSE_S = 0.5
# A load balancer's own, if nothing else is said.
IDLE_S = 60.0
HOP_BY_HOP = frozenset(
    (
        "connection",
        "content-length",
        "host",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    )
)


class Service:
    """One service. record: what is told of it."""

    def __init__(self, record: dict[str, Any], folder: Path, url: str, images: Images) -> None:
        self._record, self._folder, self._url, self._images = record, folder, url, images
        _, _, _, self._region, self._account, _ = str(record["serviceArn"]).split(":", 5)
        self._fleets: dict[str, Fleet] = {}
        self._stops: dict[str, threading.Event] = {}
        self._closing, self._lock = threading.Event(), threading.Lock()

    def begin(self, configuration: dict[str, Any]) -> dict[str, Any]:
        """Begin a deployment, in the background; it takes the place of one that is under way."""
        deployment = {
            "serviceDeploymentArn": f"{self._record['serviceArn'].replace(':service/', ':service-deployment/')}/{uuid.uuid4().hex}",
            "serviceArn": self._record["serviceArn"], "clusterArn": self._record["cluster"], "createdAt": time.time(),
            "startedAt": time.time(), "status": "IN_PROGRESS", "targetServiceRevisionArn": configuration["serviceRevisionArn"],
        }  # fmt: skip
        for other in self._record["deployments"]:
            if other["status"] == "IN_PROGRESS":
                self.stop(other, "ABORT")
        self._record["activeConfigurations"].append(configuration)
        self._record["deployments"].append(deployment)
        self._record["currentDeployment"] = deployment["serviceDeploymentArn"]
        self._stops[deployment["serviceDeploymentArn"]] = threading.Event()
        threading.Thread(target=self._deploy, args=(configuration, deployment), daemon=True, name="deployment").start()
        return configuration

    def stop(self, deployment: dict[str, Any], kind: str) -> None:
        if deployment["status"] != "IN_PROGRESS":
            raise Refused("ConflictException", f"The deployment is {deployment['status']}.")
        deployment["status"] = "ROLLBACK_IN_PROGRESS" if kind == "ROLLBACK" else "STOP_REQUESTED"
        self._stops[deployment["serviceDeploymentArn"]].set()

    def tasks(self) -> list[dict[str, Any]]:
        """Those that run."""
        with self._lock:
            return [
                self._task(one, id)
                for one in self._record["activeConfigurations"]
                if one["serviceRevisionArn"] in self._fleets
                for id in self._fleets[one["serviceRevisionArn"]].ids
            ]

    def answer(self, call: Call, path: str) -> Answer:
        """A request, as its load balancer passes it on."""
        headers = {
            name.removeprefix("HTTP_").replace("_", "-").title(): str(value)
            for name, value in call.environ.items()
            if name.startswith("HTTP_") or name == "CONTENT_TYPE" and value
        }
        headers = {name: value for name, value in headers.items() if name.lower() not in HOP_BY_HOP}
        query = call.environ.get("QUERY_STRING", "")
        target = quote(path, safe="/%:@!$&'()*+,;=~-._")
        began = time.monotonic()
        status, given, body = self._asked(call.method, target + (f"?{query}" if query else ""), headers, call.body)
        revision = next((one["serviceRevisionArn"] for one in self._record["activeConfigurations"]), "")
        where = {
            "LoadBalancer": self._record["attached"]["balancer"].partition(":loadbalancer/")[2],
            "TargetGroup": group_of(self._record, revision).rpartition(":")[2],
        }
        values = {"RequestCount": (1.0, "Count"), "TargetResponseTime": (time.monotonic() - began, "Seconds")}
        values["HTTPCode_Target_5XX_Count"] = (float(status >= 500), "Count")
        metrics.count(self._account, self._region, "AWS/ApplicationELB", [where], values)
        return Answer(status=status, headers=given, body=body)

    def end(self, *, drained: bool = False) -> None:
        """End what runs; `drained`: when its requests are answered."""
        self._closing.set()
        for event in self._stops.values():
            event.set()
        with self._lock:
            fleets, self._fleets = list(self._fleets.values()), {}
        for fleet in fleets:
            fleet.drain() if drained else fleet.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _asked(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes
    ) -> tuple[int, dict[str, str], bytes]:
        plain = {"Content-Type": "text/plain"}
        while not self._closing.is_set():
            with self._lock:
                fleet = next(iter(self._fleets.values()), None)
            if fleet is None:
                break
            try:
                status, given, said = fleet.ask(method, target, headers, body, self._closing)
            except Gone:  # changed this very moment: what is there now answers
                continue
            except StartFailed:
                break
            except TimeoutError:
                return 504, plain, b"Gateway Time-out"
            except (OSError, http.client.HTTPException):
                return 502, plain, b"Bad Gateway"
            return status, {name: value for name, value in given if name.lower() not in HOP_BY_HOP}, said
        return 503, plain, b"Service Temporarily Unavailable"

    def _deploy(self, configuration: dict[str, Any], deployment: dict[str, Any]) -> None:
        stopped, arn = self._stops[deployment["serviceDeploymentArn"]], configuration["serviceRevisionArn"]
        why = "ECS deployment circuit breaker: tasks failed to start."
        for _ in range(ATTEMPTS):
            if stopped.is_set():
                break
            fleet = None
            try:
                fleet = self._fleet(configuration)
                fleet.fill(stopped)
            except (StartFailed, NoImage, Refused) as error:
                if not stopped.is_set():
                    self._lost(configuration, fleet is None, str(error))
                stopped.wait(PAUSE_S)
                continue
            with self._lock:
                gone = stopped.is_set() or deployment["status"] != "IN_PROGRESS"
                before = [fleet] if gone else list(self._fleets.values())
                if not gone:
                    self._fleets = {arn: fleet}
                    self._record["activeConfigurations"] = [configuration]
                    deployment |= {"status": "SUCCESSFUL", "finishedAt": time.time()}
            for one in before:
                one.drain()
            if not gone:
                return
        with self._lock:
            left = [one for one in self._record["activeConfigurations"] if one["serviceRevisionArn"] != arn]
            self._record["activeConfigurations"] = left
        asked = {"ROLLBACK_IN_PROGRESS": "It was stopped.", "STOP_REQUESTED": "It was stopped."}.get(
            deployment["status"], why
        )
        ended = "STOPPED" if deployment["status"] == "STOP_REQUESTED" else "ROLLBACK_SUCCESSFUL"
        deployment |= {"statusReason": asked, "finishedAt": time.time(), "status": ended}

    def _fleet(self, configuration: Mapping[str, Any]) -> Fleet:
        """Raises NoImage, Refused."""
        container, role, executes = self._container(configuration)
        options = (container.get("logConfiguration") or {}).get("options") or {}
        group = options.get("awslogs-group") or f"/aws/ecs/{self._record['cluster']}/{self._record['serviceName']}"
        start = Start(
            name=f"{options.get('awslogs-stream-prefix') or 'ecs'}/{container['name']}",
            image=self._images.pull(str(container["image"]), executes), log_group=str(group), role=executes,
            environment={one["name"]: one["value"] for one in container.get("environment") or ()},
            keys=roles.credentials(self._account, self._region, role, "ecs-tasks") if role else {}, url=self._url,
            region=self._region, account=self._account, folder=self._folder, ready=str(configuration["healthCheckPath"]),
            entrypoint=tuple(container.get("entryPoint") or ()), words=tuple(container.get("command") or ()), timeout_s=IDLE_S,
        )  # fmt: skip
        return Fleet(start, int((configuration.get("scalingTarget") or {}).get("minTaskCount") or 1))

    def _container(self, configuration: Mapping[str, Any]) -> tuple[Mapping[str, Any], str, str]:
        """What a configuration starts, as a task definition says it, the role that it runs as, and the one that starts it.

        Raises Refused.
        """
        if arn := configuration.get("taskDefinitionArn"):
            try:
                definition = ecs_backends[self._account][self._region].describe_task_definition(arn)
            except JsonRESTError as error:
                raise Refused("ClientException", f"Unable to describe task definition {arn}.") from error
            one, execution = definition.container_definitions[0], definition.execution_role_arn
            return one, str(definition.task_role_arn or ""), str(execution or "")
        own = configuration["primaryContainer"]
        told = own.get("awsLogsConfiguration") or {}
        options = {"awslogs-group": told.get("logGroup"), "awslogs-stream-prefix": told.get("logStreamPrefix")}
        one = {**own, "name": "Main", "logConfiguration": {"options": options}}
        return one, str(configuration.get("taskRoleArn") or ""), str(configuration.get("executionRoleArn") or "")

    def _lost(self, configuration: Mapping[str, Any], unstarted: bool, why: str) -> None:
        code = "TaskFailedToStart" if unstarted else "EssentialContainerExited"
        told = f"CannotPullContainerError: {why}" if unstarted else "Essential container in task exited"
        lost = {"lastStatus": "STOPPED", "desiredStatus": "STOPPED", "stopCode": code, "stoppedReason": told}
        self._record["stopped"].append({**self._task(configuration, uuid.uuid4().hex), **lost})

    def _task(self, configuration: Mapping[str, Any], id: str) -> dict[str, Any]:
        return {
            "taskArn": f"arn:aws:ecs:{self._region}:{self._account}:task/{self._record['cluster']}/{id}",
            "taskDefinitionArn": configuration.get("taskDefinitionArn"), "group": f"service:{self._record['serviceName']}",
            "lastStatus": "RUNNING", "desiredStatus": "RUNNING", "launchType": "FARGATE",
        }  # fmt: skip


def group_of(record: Mapping[str, Any], revision: str) -> str:
    """The ARN of the target group that a service's revision is behind."""
    revisions = [one["targetServiceRevisionArn"] for one in record["deployments"]]
    number = revisions.index(revision) if revision in revisions else 0
    return str(record["attached"]["groups"][number % 2])
