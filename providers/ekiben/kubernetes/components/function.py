"""Function: one pod that looks for its events and handles them, a Service before it, and a CronJob for each of its schedules."""

from __future__ import annotations

import tarfile
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import pulumi
import pulumi_kubernetes as k8s

from ekiben import components, cron, packing
from ekiben.errors import SpecError
from ekiben.kubernetes import SUPPORT, bootstrap, due
from ekiben.kubernetes.components.namespace import anywhere, network_policy, port, to_api
from ekiben.kubernetes.components.program import Kubernetes, Rule, current, rule
from ekiben.kubernetes.components.registry import bus
from ekiben.kubernetes.components.storage import Storage
from ekiben.kubernetes.facts import COMPONENT, PORT, S3, TOKEN, FunctionFacts
from ekiben.kubernetes.pods import pod, s3_variables, secret_variable, variable
from ekiben.packing import archive
from ekiben.packing.source import FUNCTION_LIBRARY, cache_dir
from ekiben.programs import facts
from ekiben.records import Platform
from ekiben.specs import NewData, Schedule

__all__ = ["Function", "crontab"]

MARKS = "deliveries"
# The handler's own process, beside that of a call, which has what the spec says.
OWN_MIB, VCPU, IDLE_VCPU = 192, 1.0, 0.05
DUE_MIB, DUE_S, DUE_RETRIES = 128, 600, 6
TMP_MIB = 4096
MACHINE, PYTHON = "x86_64", "3.11"
JOB_LABEL = "batch.kubernetes.io/job-name"


class Function(Kubernetes, components.Function):
    """What it uses is in its pod's environment, as the platform's record; what it may, in its Roles."""

    support = SUPPORT
    acts = True
    token: str
    code_uri: pulumi.Output[str]
    code_sha256: str

    def create(self) -> None:
        spec, program = self.spec, current()
        bundle = _with_obstore(components.source_folder(self, spec.source, "main.py"))
        for used in self.uses:
            if not isinstance(used, Kubernetes):
                raise SpecError(
                    f"The function {self.name!r} is on kubernetes and uses {used.name!r}, which is on {used.provider}: its pod "
                    "reaches nothing there. Use components of kubernetes."
                )
        home = self._home()
        account = self.runs()
        for used in self.uses:
            used.grant(self)
        policy = network_policy(self, ingress=[{"ports": [port(PORT)]}], egress=[anywhere(), to_api()])
        self.token, keys = self.token_secret()
        self.code_uri, self.code_sha256 = self.upload(bundle, home, "-code"), bundle.sha256
        self.facts = facts(
            namespace=self.namespace,
            service=self.name,
            s3=home.s3,
            deliveries_uri=pulumi.Output.concat(home.uri, f"/{MARKS}/{self.name}"),
            bus=bus(),
            token_secret=self.token,
            on=self._triggers(),
            timeout_s=spec.timeout_s,
            memory_mib=spec.memory_mib,
            retries=spec.retries,
            backoff_s=spec.backoff_s,
            url=pulumi.Output.concat("http://", self.name, ".", self.namespace, f".svc:{PORT}"),
            context=program.settings.context,
        )
        self.ref = pulumi.Output.concat(self.namespace, "/", self.name)
        service = k8s.core.v1.Service(
            self.name,
            metadata=self.meta("", **{"pulumi.com/skipAwait": "true"}),
            spec={"selector": self._handles, "ports": [{**port(PORT), "name": "http"}]},
            opts=self.opts(),
        )
        deployed = k8s.apps.v1.Deployment(
            self.name,
            metadata=self.meta(),
            spec={
                "replicas": 1,
                # One pod alone writes its deliveries.
                "strategy": {"type": "Recreate"},
                "selector": {"matchLabels": self._handles},
                "template": {"metadata": {"labels": {**self.labels, **self._handles}}, "spec": self._pod(home)},
            },
            opts=self.opts(depends_on=[account, keys, policy, service, *self.permissions]),
        )
        self._schedules(home, [deployed])

    def needs(self) -> Sequence[Rule]:
        """Know its token, with which it is called; its log and its deliveries are in the store."""
        return (rule("", "secrets", "get", self.token),)

    @property
    def _handles(self) -> dict[str, str]:
        """What the pod that handles events is told by, from those of schedules."""
        return {COMPONENT: self.name, "app.kubernetes.io/name": "handler"}

    def _home(self) -> Storage:
        """Where its code and its deliveries are: the first storage that it uses, else the first of the program."""
        storages = [storage for used in self.uses for storage in _storages(used)] or list(current().storages.values())
        if not storages:
            raise SpecError(
                f"The function {self.name!r} is on kubernetes, where its code lies in a storage: make one before it in the program."
            )
        return storages[0]

    def _triggers(self) -> list[Any]:
        """What starts it, as in the spec; of new data with the URI of the storage beside it."""
        known = {**current().storages, **{used.name: used for used in self.uses if isinstance(used, Storage)}}
        found: list[Any] = []
        for number, trigger in enumerate(self.spec.on):
            told = trigger.model_dump(mode="json")
            if isinstance(trigger, NewData):
                if trigger.storage not in known:
                    raise SpecError(
                        f"FunctionSpec of {self.name!r}: on[{number}] names the storage {trigger.storage!r}, which the program has "
                        f"not made on kubernetes before this function; it has made: {', '.join(known) or 'none'}."
                    )
                told["uri"] = known[trigger.storage].uri
            found.append(told)
        return found

    def _platform(self) -> pulumi.Output[str]:
        """The record of what the function uses, and nothing else."""
        project, stack = pulumi.get_project(), pulumi.get_stack()
        return pulumi.Output.all(*(used.part for used in self.uses)).apply(
            lambda parts: Platform(project=project, stack=stack, parts={part.name: part for part in parts}).to_json()
        )

    def _pod(self, home: Storage) -> pulumi.Output[dict[str, Any]]:
        spec = self.spec

        def made(told: Mapping[str, Any]) -> dict[str, Any]:
            variables = [
                *(variable(*one) for one in sorted(spec.env.items())),
                *self._begins(told),
                variable("EKIBEN_PLATFORM", told["platform"]),
                variable("EKIBEN_FUNCTION", FunctionFacts.from_dict(told["facts"]).to_json()),
                variable("EKIBEN_FUNCTION_NAME", self.name),
                secret_variable("EKIBEN_SERVER_TOKEN", self.token, TOKEN),
            ]
            shape = pod(
                "function", current().settings.python_image, vcpu=VCPU, idle_vcpu=IDLE_VCPU, memory_mib=spec.memory_mib + OWN_MIB,
                command=bootstrap.command("ekiben.kubernetes.handler"), variables=variables,
                ports=[{"name": "http", "containerPort": PORT}], writable_mib=TMP_MIB, serviceAccountName=self.name,
                automountServiceAccountToken=True,
            )  # fmt: skip
            shape["containers"][0]["readinessProbe"] = {"tcpSocket": {"port": PORT}, "periodSeconds": 2}
            return shape

        return pulumi.Output.all(s3=home.s3, code_uri=self.code_uri, platform=self._platform(), facts=self.facts).apply(
            made
        )

    def _begins(self, told: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The variables with which a pod fetches the function's bundle."""
        return [
            *s3_variables(S3.from_dict(told["s3"])),
            *bootstrap.variables(told["code_uri"], self.code_sha256, FUNCTION_LIBRARY.rstrip("/")),
        ]

    def _schedules(self, home: Storage, ready: list[pulumi.Resource]) -> None:
        """A CronJob each, whose pod does no more than to write that it is due."""
        wanted = [one for one in self.spec.on if isinstance(one, Schedule)]
        for number, trigger in enumerate(wanted):
            name = f"{self.name}-{number}"
            meta = {"labels": self.labels}

            def made(told: Mapping[str, Any], one: Schedule = trigger) -> dict[str, Any]:
                variables = [
                    *self._begins(told),
                    variable(due.FUNCTION, self.name),
                    variable(due.CRON, one.cron),
                    variable(due.ZONE, one.zone),
                    variable(due.BUS, told["bus"]),
                    {"name": due.JOB, "valueFrom": {"fieldRef": {"fieldPath": f"metadata.labels['{JOB_LABEL}']"}}},
                ]
                return pod(
                    "due", current().settings.python_image, vcpu=VCPU, idle_vcpu=IDLE_VCPU, memory_mib=DUE_MIB,
                    command=bootstrap.command("ekiben.kubernetes.due"), variables=variables, restartPolicy="OnFailure",
                    serviceAccountName=self.name,
                )  # fmt: skip

            shape = pulumi.Output.all(s3=home.s3, code_uri=self.code_uri, bus=bus()).apply(made)
            k8s.batch.v1.CronJob(
                name,
                metadata=self.meta(name),
                spec={
                    "schedule": crontab(trigger.cron),
                    "timeZone": trigger.zone,
                    "concurrencyPolicy": "Allow",
                    "successfulJobsHistoryLimit": 1,
                    "failedJobsHistoryLimit": 1,
                    "jobTemplate": {
                        "metadata": meta,
                        "spec": {
                            "backoffLimit": DUE_RETRIES,
                            "activeDeadlineSeconds": DUE_S,
                            "template": {"metadata": meta, "spec": shape},
                        },
                    },
                },
                opts=self.opts(depends_on=ready),
            )


def crontab(expression: str) -> str:
    """A cron expression as CronJobs take it, spelled out: to them a day of the week is 0 to 6, and 7 none."""
    found = cron.fields(expression)
    return " ".join(
        [
            cron.spelled(found.minutes, 0, 59),
            cron.spelled(found.hours, 0, 23),
            cron.spelled(found.days or range(1, 32), 1, 31),
            cron.spelled(found.months, 1, 12),
            cron.spelled(found.weekdays or range(7), 0, 6),
        ]
    )


def _storages(component: components.Component[Any]) -> list[Storage]:
    """The storages of Kubernetes that a component lives in."""
    if isinstance(component, components.Registry | components.Training):
        return _storages(component.storage)
    if isinstance(component, components.Endpoint):
        return _storages(component.registry)
    return [component] if isinstance(component, Storage) else []


@cache
def _with_obstore_of(sha256: str, path: str) -> packing.Bundle:
    with tarfile.open(path) as tar:
        members: dict[str, Any] = {
            member.name: file.read() for member in tar if (file := tar.extractfile(member)) is not None
        }
    for name, found in packing.vendored("obstore", machine=MACHINE, python=PYTHON).items():
        members[FUNCTION_LIBRARY + name] = found
    return archive.write(members, cache_dir() / "bundles")


def _with_obstore(folder: Any) -> packing.Bundle:
    """The bundle of a function, and obstore for the pods' machine: a stock Python image has neither."""
    bundle = packing.function_bundle(folder, "kubernetes")
    return _with_obstore_of(bundle.sha256, str(bundle.path))
