"""Endpoint: the shell of a Knative Service, or a Service before Deployments; its revisions and its traffic are made at run time."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pulumi
import pulumi_kubernetes as k8s

from ekiben import components
from ekiben.errors import SpecError, Unsupported
from ekiben.kubernetes import SUPPORT, placeholder
from ekiben.kubernetes.backends import Backend, choose
from ekiben.kubernetes.components.images import image_of
from ekiben.kubernetes.components.namespace import network_policy, port, to_store
from ekiben.kubernetes.components.program import Kubernetes, Rule, current, rule
from ekiben.kubernetes.components.registry import Registry
from ekiben.kubernetes.components.resources import Made
from ekiben.kubernetes.components.serving import has_knative
from ekiben.kubernetes.components.storage import Storage, storage_of
from ekiben.kubernetes.deployments import route
from ekiben.kubernetes.facts import COMPONENT, PORT, S3, TOKEN, TRAFFIC
from ekiben.kubernetes.nodes import placement
from ekiben.kubernetes.pods import pod, s3_variables, secret_variable, variable
from ekiben.programs import facts, once

__all__ = ["BACKENDS", "Endpoint"]

# Of Knative's queue-proxy, which is before the server in its pod: requests, health, what the autoscaler reads.
# https://github.com/knative/serving/blob/main/pkg/networking/constants.go
QUEUE_PORTS = (8012, 8013, 8022, 8112, 9090, 9091)
# Room below /tmp for a bento, its archive, and predictions that wait for their storage.
TMP_MIB = 2048
# Knative's own bounds: https://knative.dev/docs/serving/autoscaling/kpa-specific/
LEAST_WINDOW_S, MOST_WINDOW_S = 6, 3600
SKIP_AWAIT = {"pulumi.com/skipAwait": "true"}


class Endpoint(Kubernetes, components.Endpoint):
    """backend: what it is on; the row of `BACKENDS` by that name makes its shell. token: the Secret that callers have to know."""

    support = SUPPORT
    backend: Backend
    token: str = ""

    def create(self) -> None:
        from ekiben import packing

        spec, program = self.spec, current()
        if not isinstance(self.registry, Registry):
            raise SpecError(
                f"The endpoint {self.name!r} is on kubernetes and its registry {self.registry.name!r} is on "
                f"{self.registry.provider}: its pods read the stack's store only. Give it a registry of kubernetes."
            )
        storage = storage_of(self, self.registry.storage)
        self.backend = choose(
            self.name, spec, knative=has_knative(), named=program.settings.services.get(self.name, "")
        )
        pulumi.log.info(f"The endpoint {self.name!r} is on {self.backend.title}.", self)
        template = once(packing.template, components.source_folder(self, spec.bento))
        image = image_of(self.registry, self, once(packing.flat_image, template, program.settings.python_image))
        self.runs()
        policy = network_policy(
            self,
            ingress=[{"ports": [port(number) for number in self._ports()]}],
            egress=[to_store(program.settings)],
        )
        left = self.leaves("revisions", policy, storage.bucket)
        if spec.auth == "platform":
            self.token, _ = self.token_secret()
        shell = BACKENDS[self.backend.name](self, left)
        self.ref = pulumi.Output.concat(self.namespace, "/", self.name)
        self.facts = facts(
            namespace=self.namespace,
            backend=self.backend.name,
            service=self.name,
            pod=self._pod(storage, image),
            s3=storage.s3,
            storage_uri=storage.uri,
            model=spec.model,
            template_uri=self.upload(template, storage, "-template"),
            template_sha256=template.sha256,
            min_instances=spec.min_instances,
            max_instances=spec.max_instances,
            concurrency=spec.concurrency,
            timeout_s=spec.timeout_s,
            hold_s=spec.hold_s,
            drain_s=spec.drain_s,
            token_secret=self.token,
            context=program.settings.context,
            **shell,
        )

    def needs(self) -> Sequence[Rule]:
        """Deploy, shift, retire and call. What a deployment makes cannot be named before it is."""
        token = [rule("", "secrets", "get", self.token)] if self.token else []
        seen = [rule("", "pods", "list"), rule("", "pods/log pods/proxy", "get")]
        if self.backend.name == "knative":
            return (
                rule("serving.knative.dev", "services", "get patch", self.name),
                rule("serving.knative.dev", "revisions", "delete get list"),
                *seen,
                *token,
            )
        routes = [rule("gateway.networking.k8s.io", "httproutes", "get patch", self.name)]
        return (
            rule("apps", "deployments", "create delete get list patch"),
            rule("autoscaling", "horizontalpodautoscalers", "create delete"),
            rule("", "services", "create delete"),
            *(routes if current().settings.gateway else []),
            *seen,
            *token,
        )

    def _ports(self) -> Sequence[int]:
        return (PORT, *QUEUE_PORTS) if self.backend.name == "knative" else (PORT,)

    def _pod(self, storage: Storage, image: pulumi.Output[str]) -> pulumi.Output[dict[str, Any]]:
        """A server's, without its bento. Knative looks at the port itself, oftener than a kubelet does."""
        spec, resources = self.spec, self.spec.resources
        told = {
            # A pod may go with what it holds: a prediction is in the store before its answer leaves, unless the program says less.
            "EKIBEN_LOG_FLUSH_S": "0",
            **components.server_variables(self, storage.uri),
            # Of those that are answered and those that wait, in one server: the next one is refused, and told when to come again.
            "EKIBEN_SERVER_MAX_QUEUE": str(spec.concurrency + spec.max_queue),
        }
        try:
            placed = placement(gpus=resources.gpus, gpu=resources.gpu)
        except Unsupported as error:
            raise Unsupported(f"EndpointSpec of {self.name!r}: {error}") from error
        if self.backend.name == "knative":
            placed.pop("tolerations", None)

        share = current().settings.cpu_share

        def made(known: Mapping[str, Any]) -> dict[str, Any]:
            variables = [
                *s3_variables(S3.from_dict(known["s3"])),
                *(variable(*one) for one in sorted(known["told"].items())),
            ]
            if self.token:
                variables.append(secret_variable("EKIBEN_SERVER_TOKEN", self.token, TOKEN))
            shape = pod(
                "server", known["image"], vcpu=resources.vcpu, idle_vcpu=resources.vcpu * share,
                memory_mib=resources.memory_mib, gpus=resources.gpus,
                variables=variables, ports=[{"containerPort": PORT}], writable_mib=TMP_MIB, serviceAccountName=self.name,
                **placed,
            )  # fmt: skip
            if self.backend.name != "knative":
                shape["terminationGracePeriodSeconds"] = math.ceil(spec.drain_s) + 1
                # A port that can be connected to is a ready server.
                shape["containers"][0]["readinessProbe"] = {"tcpSocket": {"port": PORT}, "periodSeconds": 1}
            return shape

        return pulumi.Output.all(s3=storage.s3, told=told, image=image).apply(made)


def on_knative(endpoint: Endpoint, left: Made) -> dict[str, Any]:
    """A Knative Service whose only revision says that there is no model yet. A deployment makes the others."""
    spec, program = endpoint.spec, current()
    window_s = min(max(spec.idle_s, LEAST_WINDOW_S), MOST_WINDOW_S)
    scale = {
        "autoscaling.knative.dev/min-scale": str(spec.min_instances),
        "autoscaling.knative.dev/max-scale": str(spec.max_instances),
        "autoscaling.knative.dev/metric": "concurrency",
        "autoscaling.knative.dev/target": str(spec.concurrency),
        "autoscaling.knative.dev/target-utilization-percentage": "100",
        "autoscaling.knative.dev/window": f"{window_s}s",
    }
    empty = pod(
        "server", program.settings.python_image, vcpu=1.0, idle_vcpu=0.05, memory_mib=64,
        command=["python3", "-c", placeholder.SOURCE],
        ports=[{"containerPort": PORT}], writable_mib=1, serviceAccountName=endpoint.name,
    )  # fmt: skip
    k8s.apiextensions.CustomResource(
        endpoint.name,
        api_version="serving.knative.dev/v1",
        kind="Service",
        # A user who has it sees at once that the image of the placeholder cannot be pulled.
        metadata=endpoint.meta("", **{"pulumi.com/waitFor": "condition=Ready"}),
        spec={
            "template": {
                "metadata": {
                    "labels": endpoint.labels,
                    "annotations": {**scale, "autoscaling.knative.dev/min-scale": "0"},
                },
                "spec": {"containerConcurrency": 0, **empty},
            },
            "traffic": [{"latestRevision": True, "percent": 100}],
        },
        # Both are a deployment's to change.
        opts=pulumi.ResourceOptions.merge(
            endpoint.opts(depends_on=[left]), pulumi.ResourceOptions(ignore_changes=["spec"])
        ),
    )
    domain = program.settings.domain or "svc.cluster.local"
    return {
        "url": endpoint.namespace.apply(lambda name: f"http://{endpoint.name}.{name}.{domain}"),
        "ingress_url": program.settings.ingress_url,
        "annotations": scale,
    }


def on_deployments(endpoint: Endpoint, left: Made) -> dict[str, Any]:
    """A Service of all pods that take part in the traffic, and where the config names a Gateway a route with weights."""
    program = current()
    service = k8s.core.v1.Service(
        endpoint.name,
        # It has no pods before the first deployment.
        metadata=endpoint.meta("", **SKIP_AWAIT),
        spec={"selector": {COMPONENT: endpoint.name, TRAFFIC: "yes"}, "ports": [{**port(PORT), "name": "http"}]},
        opts=endpoint.opts(depends_on=[left]),
    )
    inside = endpoint.namespace.apply(lambda name: f"{endpoint.name}.{name}.svc")
    if not program.settings.gateway:
        return {"url": pulumi.Output.concat("http://", inside, f":{PORT}")}
    domain = program.settings.domain or "svc.cluster.local"
    host = endpoint.namespace.apply(lambda name: f"{endpoint.name}.{name}.{domain}")
    k8s.apiextensions.CustomResource(
        f"{endpoint.name}-route",
        api_version="gateway.networking.k8s.io/v1",
        kind="HTTPRoute",
        metadata=endpoint.meta(),
        spec=host.apply(lambda name: route(program.settings.gateway, name, endpoint.name)),
        opts=pulumi.ResourceOptions.merge(
            endpoint.opts(depends_on=[service]), pulumi.ResourceOptions(ignore_changes=["spec.rules"])
        ),
    )
    return {
        "url": pulumi.Output.concat("http://", host),
        "ingress_url": program.settings.ingress_url,
        "route": endpoint.name,
    }


# A row of `ekiben.kubernetes.backends` -> what makes its shell: facts beside those that all have.
BACKENDS: Mapping[str, Callable[[Endpoint, Made], dict[str, Any]]] = {
    "knative": on_knative,
    "deployments": on_deployments,
}
