"""ECS Express as moto does not have it: services, their deployments and tasks, in the words of AWS; task definitions are moto's."""

from __future__ import annotations

import itertools
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

BALANCER = "arn:aws:elasticloadbalancing:eu-west-1:123456789012:loadbalancer/app/express/50dc6c495c0c9188"
GROUP = "arn:aws:elasticloadbalancing:eu-west-1:123456789012:targetgroup/{}/73e2d6bc24d8a067"


class Refused(Exception):
    """An error, as ECS answers it."""

    def __init__(self, code: str, message: str = "as ECS says it") -> None:
        super().__init__(message)
        self.code = code


class Express:
    """services: by name. `changing`: looks at a deployment before it ends; failing: how the deployments of a task definition end;
    ending: the stop code of the tasks of one that never start; scaled_in: how many ended as there were too many. answers: of the
    next calls of a service, by its name.
    """

    def __init__(self) -> None:
        self.clear()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def clear(self) -> None:
        self.services: dict[str, dict[str, Any]] = {}
        self.changing = 0
        self.failing: dict[str, str] = {}
        self.ending: dict[str, str] = {}
        self.scaled_in = 0
        self.answers: dict[str, tuple[int, bytes]] = {}
        self.asked: list[tuple[str, bytes]] = []
        self._times = itertools.count(1_795_000_000)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def __call__(self, action: str, asked: dict[str, Any]) -> dict[str, Any] | None:
        """None for what moto knows."""
        known = getattr(self, f"_{action}", None)
        return known(asked) if known else None

    def _CreateExpressGatewayService(self, asked: dict[str, Any]) -> dict[str, Any]:
        name = asked["serviceName"]
        if self.services.get(name, {}).get("status") in ("ACTIVE", "DRAINING"):
            raise Refused("InvalidParameterException", "Creation of service was not idempotent.")
        arn = f"{asked['cluster'].replace(':cluster/', ':service/')}/{name}"
        empty: dict[str, Any] = {"configurations": [], "deployments": [], "left": 0}
        self.services[name] = {"arn": arn, "status": "ACTIVE", "asked": asked, **empty}
        return {"service": self._shown(name, self.begin(name, asked))}

    def _UpdateExpressGatewayService(self, asked: dict[str, Any]) -> dict[str, Any]:
        name = self._name(asked["serviceArn"])
        made = self.begin(name, asked)
        return {"service": {"serviceName": name, "targetConfiguration": made, "status": {"statusCode": "ACTIVE"}}}

    def _DescribeExpressGatewayService(self, asked: dict[str, Any]) -> dict[str, Any]:
        name = asked["serviceArn"].rpartition("/")[2]
        if name not in self.services:
            raise Refused("ResourceNotFoundException", f"Service {name} not found.")
        service = self.services[name]
        if service["status"] == "DRAINING":
            service["left"] -= 1
            if service["left"] < 0:
                service["status"] = "INACTIVE"
        return {"service": self._shown(name)}

    def _DeleteExpressGatewayService(self, asked: dict[str, Any]) -> dict[str, Any]:
        name = self._name(asked["serviceArn"])
        self.services[name].update(status="DRAINING", left=self.changing)
        return {"service": self._shown(name)}

    def _ListServices(self, asked: dict[str, Any]) -> dict[str, Any]:
        for service in self.services.values():
            if service["status"] == "DRAINING":
                service["left"] -= 1
                if service["left"] < 0:
                    service["status"] = "INACTIVE"
        mine = asked["cluster"].replace(":cluster/", ":service/") + "/"
        there = [one["arn"] for one in self.services.values() if one["status"] != "INACTIVE"]
        return {"serviceArns": [arn for arn in there if arn.startswith(mine)]}

    def _ListServiceDeployments(self, asked: dict[str, Any]) -> dict[str, Any]:
        name = self._name(asked["service"])
        for one in self.services[name]["deployments"]:
            if one["status"] in ("IN_PROGRESS", "ROLLBACK_IN_PROGRESS"):
                self._go_on(self.services[name], one)
        shown = [{key: one[key] for key in one if key != "definition"} for one in self.services[name]["deployments"]]
        at = int(asked.get("nextToken", 0))
        more = {"nextToken": str(at + 1)} if at + 1 < len(shown) else {}
        return {"serviceDeployments": shown[at : at + 1], **more}

    def _StopServiceDeployment(self, asked: dict[str, Any]) -> dict[str, Any]:
        for service in self.services.values():
            for one in service["deployments"]:
                if one["serviceDeploymentArn"] == asked["serviceDeploymentArn"]:
                    assert asked["stopType"] == "ROLLBACK"
                    one["status"] = "ROLLBACK_IN_PROGRESS"
        return {"serviceDeploymentArn": asked["serviceDeploymentArn"]}

    def _DescribeServiceRevisions(self, asked: dict[str, Any]) -> dict[str, Any]:
        (arn,) = asked["serviceRevisionArns"]
        name = arn.split("/")[-2]
        path = {
            "accessType": "PUBLIC",
            "endpoint": "x",
            "loadBalancer": {"arn": BALANCER},
            "targetGroups": [{"arn": GROUP.format(name)}],
        }
        return {"serviceRevisions": [{"serviceRevisionArn": arn, "ecsManagedResources": {"ingressPaths": [path]}}]}

    def _ListTasks(self, asked: dict[str, Any]) -> dict[str, Any]:
        name = asked["serviceName"]
        service = self.services.get(name)
        if service is None or service["status"] != "ACTIVE":
            raise Refused("ServiceNotFoundException")
        if asked["desiredStatus"] == "STOPPED":
            definition = service["deployments"][-1]["definition"]
            return {
                "taskArns": [f"{definition}/{n}" for n in range(3 if definition in self.ending else self.scaled_in)]
            }
        tasks = service["asked"]["scalingTarget"]["minTaskCount"]
        return {"taskArns": [f"arn:aws:ecs:eu-west-1:123456789012:task/c/{number}" for number in range(tasks)]}

    def _DescribeTasks(self, asked: dict[str, Any]) -> dict[str, Any]:
        tasks = []
        for arn in asked["tasks"]:
            definition = arn.rpartition("/")[0]
            code = self.ending.get(definition, "ServiceSchedulerInitiated")
            why = "Essential container in task exited" if definition in self.ending else "Scaling activity"
            tasks.append({"taskDefinitionArn": definition, "stopCode": code, "stoppedReason": why})
        return {"tasks": tasks}

    def begin(self, name: str, asked: dict[str, Any]) -> dict[str, Any]:
        service, at = self.services[name], next(self._times)
        service["asked"] = {**service["asked"], **asked}
        configuration = {
            "serviceRevisionArn": f"{service['arn'].replace(':service/', ':service-revision/')}/{at}",
            "taskDefinitionArn": asked["taskDefinitionArn"],
            "scalingTarget": asked["scalingTarget"],
            "ingressPaths": [{"accessType": "PUBLIC", "endpoint": f"{self.url}/{name}"}],
            "createdAt": at,
        }
        service["configurations"].append(configuration)
        service["left"] = self.changing
        deployment = {
            "serviceDeploymentArn": f"arn:deployment/{at}",
            "serviceArn": service["arn"],
            "createdAt": at,
            "status": "IN_PROGRESS",
            "targetServiceRevisionArn": configuration["serviceRevisionArn"],
            "definition": asked["taskDefinitionArn"],
        }
        service["deployments"].append(deployment)
        return configuration

    def _go_on(self, service: dict[str, Any], deployment: dict[str, Any]) -> None:
        """A look nearer to its end; with it the configurations are one again."""
        definition, back = deployment["definition"], deployment["status"] == "ROLLBACK_IN_PROGRESS"
        if service["left"] > 0 or (definition in self.ending and not back):
            service["left"] -= 1
            return
        if back or definition in self.failing:
            deployment["status"] = "ROLLBACK_SUCCESSFUL"
            deployment["statusReason"] = self.failing.get(definition, "It was stopped.")
            service["configurations"] = service["configurations"][:1]
        else:
            deployment["status"] = "SUCCESSFUL"
            service["configurations"] = service["configurations"][-1:]

    def _shown(self, name: str, configuration: dict[str, Any] | None = None) -> dict[str, Any]:
        service = self.services[name]
        found = [configuration] if configuration else service["configurations"]
        status = {"statusCode": service["status"]}
        return {"serviceName": name, "serviceArn": service["arn"], "status": status, "activeConfigurations": found}

    def _name(self, arn: str) -> str:
        name = arn.rpartition("/")[2]
        if self.services.get(name, {}).get("status") != "ACTIVE":
            raise Refused("ServiceNotFoundException", f"Service {name} not found.")
        return name

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        express = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                name = self.path.split("/")[1]
                body = self.rfile.read(int(self.headers["Content-Length"]))
                express.asked.append((self.path, body))
                serving = express.services[name]["configurations"][0]["taskDefinitionArn"]
                status, said = express.answers.get(name, (200, f'"{serving}"'.encode()))
                self.send_response(status)
                self.send_header("Content-Length", str(len(said)))
                self.send_header("X-Request-ID", "r1")
                self.end_headers()
                self.wfile.write(said)

            def log_message(self, *_: Any) -> None:
                pass

        return Handler
