"""ECS Express, of which moto has the clusters and the task definitions: services whose tasks run, and their one address.

A deployment starts the new tasks beside the old ones and gives them all traffic when they answer the health check; AWS takes
some ten minutes, and begins with a few per cent. Tasks that end are started again, until the deployment is stopped or so many
have ended that ECS gives up. A service has as many tasks as its least number; it does not grow.
"""

from __future__ import annotations

import shutil
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from moto.ecs.models import ecs_backends

from ekiben.emulators.aws import balancers, roles
from ekiben.emulators.aws.call import Answer, Call, Refused
from ekiben.emulators.aws.images import Images
from ekiben.emulators.aws.services import Service, group_of

__all__ = ["PREFIX", "Express"]

PREFIX = "/_express/"
KEPT = (
    "executionRoleArn", "taskRoleArn", "taskDefinitionArn", "cpu", "memory", "networkConfiguration", "healthCheckPath",
    "primaryContainer", "scalingTarget",
)  # fmt: skip


class Express:
    """All services. `folder` is its own; `url` is the emulator's."""

    def __init__(self, folder: Path, url: str, images: Images) -> None:
        shutil.rmtree(folder, ignore_errors=True)  # of one that was killed
        self._folder, self._url, self._images = folder, url, images
        self._running: dict[str, Service] = {}
        self._lock = threading.Lock()
        self.actions: dict[str, Callable[[Call], Answer | None]] = {
            "CreateExpressGatewayService": self._create,
            "UpdateExpressGatewayService": self._update,
            "DescribeExpressGatewayService": self._describe,
            "DeleteExpressGatewayService": self._delete,
            "ListServices": self._list,
            "ListServiceDeployments": self._list_deployments,
            "StopServiceDeployment": self._stop_deployment,
            "DescribeServiceRevisions": self._describe_revisions,
            "ListTasks": self._list_tasks,
            "DescribeTasks": self._describe_tasks,
        }

    def answer(self, call: Call) -> Answer:
        """A request to the address of a service."""
        id, _, path = call.path.removeprefix(PREFIX).partition("/")
        for account, regions in list(ecs_backends.items()):
            for backend in list(regions.values()):
                for record in list(_table(account, backend.region_name).values()):
                    if record["id"] == id and record["status"]["statusCode"] == "ACTIVE":
                        return self._running[record["serviceArn"]].answer(call, "/" + path)
        return Answer(status=503, headers={"Content-Type": "text/plain"}, body=b"Service Temporarily Unavailable")

    def reset(self) -> None:
        """End all that runs."""
        for service in list(self._running.values()):
            service.end()
        self._running.clear()

    def _create(self, call: Call) -> Answer:
        asked, table = call.json, _table(call.account, call.region)
        cluster = str(asked.get("cluster") or "default").rpartition("/")[2]
        if cluster not in ecs_backends[call.account][call.region].clusters:
            raise Refused("ClusterNotFoundException", "Cluster not found.")
        roles.credentials(call.account, call.region, str(asked.get("infrastructureRoleArn")), "ecs")
        name = str(asked.get("serviceName") or f"express-{uuid.uuid4().hex[:8]}")
        arn = f"arn:aws:ecs:{call.region}:{call.account}:service/{cluster}/{name}"
        with self._lock:
            if arn in table and table[arn]["status"]["statusCode"] != "INACTIVE":
                raise Refused("InvalidParameterException", "Creation of service was not idempotent.")
            id = uuid.uuid4().hex[:16]
            record: dict[str, Any] = {
                "id": id, "serviceName": name, "serviceArn": arn, "cluster": cluster, "tags": asked.get("tags") or [],
                "infrastructureRoleArn": asked["infrastructureRoleArn"], "status": {"statusCode": "ACTIVE"},
                "activeConfigurations": [], "createdAt": time.time(), "updatedAt": time.time(), "deployments": [], "stopped": [],
            }  # fmt: skip
            configuration = _configuration(record, {}, asked, self._url)
            record["attached"] = balancers.attach(call.account, call.region, id, asked)
            self._running[arn] = Service(record, self._folder / id, self._url, self._images)
            first = self._running[arn].begin(configuration)
            table[arn] = record
        return Answer.of({"service": {**_shown(record), "activeConfigurations": [first]}})

    def _update(self, call: Call) -> Answer:
        record = self._known(call, call.json.get("serviceArn"))
        with self._lock:
            before = record["activeConfigurations"][-1] if record["activeConfigurations"] else {}
            made = self._running[record["serviceArn"]].begin(_configuration(record, before, call.json, self._url))
            record["updatedAt"] = time.time()
        return Answer.of({"service": {**_shown(record), "targetConfiguration": made}})

    def _describe(self, call: Call) -> Answer:
        arn = str(call.json.get("serviceArn"))
        record = _table(call.account, call.region).get(arn)
        if record is None:
            raise Refused("ResourceNotFoundException", f"Service {arn} not found.")
        return Answer.of({"service": _shown(record)})

    def _delete(self, call: Call) -> Answer:
        record = self._known(call, call.json.get("serviceArn"))
        record["status"] = {"statusCode": "DRAINING"}
        service = self._running.pop(record["serviceArn"], None)

        def drain() -> None:
            if service is not None:
                service.end(drained=True)
            balancers.detach(call.account, call.region, record["attached"])
            record.update(activeConfigurations=[], status={"statusCode": "INACTIVE"})

        threading.Thread(target=drain, daemon=True, name=f"service {record['serviceName']}").start()
        return Answer.of({"service": _shown(record)})

    def _list(self, call: Call) -> Answer | None:
        """Those of a cluster that has any, also while they are being deleted."""
        cluster = str(call.json.get("cluster") or "default").rpartition("/")[2]
        records = [one for one in _table(call.account, call.region).values() if one["cluster"] == cluster]
        there = [one["serviceArn"] for one in records if one["status"]["statusCode"] != "INACTIVE"]
        return Answer.of({"serviceArns": there}) if records else None

    def _list_deployments(self, call: Call) -> Answer | None:
        record = self._mine(call, str(call.json.get("service")))
        return None if record is None else Answer.of({"serviceDeployments": list(reversed(record["deployments"]))})

    def _stop_deployment(self, call: Call) -> Answer | None:
        arn = str(call.json.get("serviceDeploymentArn"))
        for record in _table(call.account, call.region).values():
            for deployment in record["deployments"]:
                if deployment["serviceDeploymentArn"] == arn:
                    self._running[record["serviceArn"]].stop(deployment, str(call.json.get("stopType") or "ROLLBACK"))
                    return Answer.of({"serviceDeploymentArn": arn})
        raise Refused("ServiceDeploymentNotFoundException", f"Service deployment {arn} not found.")

    def _describe_revisions(self, call: Call) -> Answer:
        wanted, found = call.json.get("serviceRevisionArns") or [], []
        for record in _table(call.account, call.region).values():
            balancer = {"arn": record["attached"]["balancer"], "status": "ACTIVE"}
            for one in record["activeConfigurations"]:
                if one["serviceRevisionArn"] not in wanted:
                    continue
                group = {"arn": group_of(record, one["serviceRevisionArn"]), "status": "ACTIVE"}
                path = {**_path(record, self._url), "loadBalancer": balancer, "targetGroups": [group]}
                found.append(
                    {
                        "serviceRevisionArn": one["serviceRevisionArn"], "serviceArn": record["serviceArn"],
                        "taskDefinition": one.get("taskDefinitionArn"), "launchType": "FARGATE", "createdAt": one["createdAt"],
                        "ecsManagedResources": {"ingressPaths": [path]},
                    }
                )  # fmt: skip
        return Answer.of({"serviceRevisions": found, "failures": []})

    def _list_tasks(self, call: Call) -> Answer | None:
        record = self._mine(call, str(call.json.get("serviceName")))
        if record is None:
            return None
        if call.json.get("desiredStatus") == "STOPPED":
            return Answer.of({"taskArns": [one["taskArn"] for one in record["stopped"]]})
        return Answer.of({"taskArns": [one["taskArn"] for one in self._running[record["serviceArn"]].tasks()]})

    def _describe_tasks(self, call: Call) -> Answer | None:
        known: dict[str, dict[str, Any]] = {}
        for record in _table(call.account, call.region).values():
            running = self._running[record["serviceArn"]].tasks() if record["status"]["statusCode"] == "ACTIVE" else []
            known |= {one["taskArn"]: one for one in (*record["stopped"], *running)}
        wanted = call.json.get("tasks") or []
        found = [known[arn] for arn in wanted if arn in known]
        return Answer.of({"tasks": found, "failures": []}) if len(found) == len(wanted) else None

    def _mine(self, call: Call, name: str) -> dict[str, Any] | None:
        """The service of this name or ARN, where it is one of Express."""
        records = _table(call.account, call.region).values()
        found = next((one for one in records if name in (one["serviceArn"], one["serviceName"])), None)
        if found is not None and found["status"]["statusCode"] != "ACTIVE":
            raise Refused("ServiceNotFoundException", "Service not found.")
        return found

    def _known(self, call: Call, arn: Any) -> dict[str, Any]:
        record = _table(call.account, call.region).get(str(arn))
        if record is None or record["status"]["statusCode"] != "ACTIVE":
            raise Refused("ServiceNotFoundException", f"Service {arn} not found.")
        return record


def _table(account: str, region: str) -> dict[str, dict[str, Any]]:
    """The services by their ARNs, beside what moto keeps of ECS, so that they come and go with it."""
    found: dict[str, dict[str, Any]] = vars(ecs_backends[account][region]).setdefault("express_services", {})
    return found


def _configuration(
    record: Mapping[str, Any], before: Mapping[str, Any], asked: Mapping[str, Any], url: str
) -> dict[str, Any]:
    """A new one: what is asked for, over what there was before. Raises Refused."""
    made = {
        **{name: before[name] for name in KEPT if name in before},
        **{name: asked[name] for name in KEPT if name in asked},
    }
    if "taskDefinitionArn" in asked:
        made.pop("primaryContainer", None)
    if not made.get("taskDefinitionArn") and not (made.get("primaryContainer") or {}).get("image"):
        raise Refused("InvalidParameterException", "Either taskDefinitionArn or primaryContainer has to be given.")
    arn = str(record["serviceArn"]).replace(":service/", ":service-revision/")
    return {
        "healthCheckPath": "/ping", "scalingTarget": {"minTaskCount": 1, "maxTaskCount": 20}, **made, "createdAt": time.time(),
        "serviceRevisionArn": f"{arn}/{uuid.uuid4().int % 10**19}", "ingressPaths": [_path(record, url)],
    }  # fmt: skip


def _path(record: Mapping[str, Any], url: str) -> dict[str, str]:
    return {"accessType": "PUBLIC", "endpoint": f"{url}{PREFIX}{record['id']}"}


def _shown(record: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key not in ("id", "deployments", "stopped", "attached")}
