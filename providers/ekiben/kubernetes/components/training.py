"""Training: what the pods of its runs are, and its code in storage. A run is an Indexed Job, made at run time."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pulumi
import pulumi_kubernetes as k8s

from ekiben import components
from ekiben.errors import SpecError, Unsupported
from ekiben.kubernetes import SUPPORT, trainjobs, wheels
from ekiben.kubernetes.components.namespace import anywhere, namespace_of, network_policy
from ekiben.kubernetes.components.program import Kubernetes, Rule, current, labels_of, rule
from ekiben.kubernetes.components.registry import bus
from ekiben.kubernetes.components.resources import Wheels
from ekiben.kubernetes.components.serving import serves
from ekiben.kubernetes.components.storage import Storage, storage_of
from ekiben.kubernetes.facts import COMPONENT, OWN_MIB, namespace_name
from ekiben.kubernetes.nodes import placement
from ekiben.kubernetes.pods import pod
from ekiben.programs import facts, once

__all__ = ["LIBRARY", "Training", "kind_of_run"]

# What of this provider runs inside a training's pod.
LIBRARY = ("kubernetes/container.py",)
LOCK = "requirements.txt"
# Room below /tmp: the packages of its lock, inputs, checkpoints, results.
DISK_MIB = 50 * 1024
# What `ekiben:services` calls them -> what a run is.
SERVICES: Mapping[str, Literal["Job", "TrainJob"]] = {"jobs": "Job", "trainjobs": "TrainJob"}
# Below that of pods that say nothing, which is 0: what serves, and what may not be interrupted, comes first.
SPOT_PRIORITY = -100


class Training(Kubernetes, components.Training):
    """Nothing runs before a run does."""

    support = SUPPORT
    kind_of_run: Literal["Job", "TrainJob"] = "Job"

    def create(self) -> None:
        from ekiben import lineage, packing

        spec, name, program = self.spec, self.name, current()
        self.kind_of_run = kind_of_run(
            name,
            program.settings.services.get(name, "jobs"),
            lambda: serves(program.settings.context, trainjobs.API, "Kubeflow's Trainer 2"),
        )
        folder = components.source_folder(self, spec.source, spec.entry)
        storage = storage_of(self, self.storage)
        code, library = once(packing.bundle, folder), once(packing.job_library, *LIBRARY)
        inputs = {}
        for input_name, source in spec.inputs.items():
            bucket, _, prefix = source.partition("/")
            inputs[input_name] = pulumi.Output.concat(storage_of(self, self.sources[bucket]).uri, "/", prefix)
        self.runs()
        # Its nodes talk to each other; its packages may come from anywhere.
        mates = [{"podSelector": {"matchLabels": {COMPONENT: name}}}]
        policy = network_policy(self, ingress=[{"from": mates}], egress=[anywhere()])
        self.leaves("runs", policy, storage.bucket)
        self.ref = pulumi.Output.concat(self.namespace, "/", name)
        self.facts = facts(
            namespace=self.namespace,
            s3=storage.s3,
            storage_uri=storage.uri,
            spec=spec.model_dump(mode="json"),
            pod=self._pod(),
            code_uri=self.upload(code, storage, "-code"),
            code_sha256=code.sha256,
            library_uri=self.upload(library, storage, "-library"),
            library_sha256=library.sha256,
            bus=bus(),
            code=once(lineage.git_state, folder),
            input_uris=inputs,
            kind=self.kind_of_run,
            wheels_uri=self._wheels(folder / LOCK, storage),
            context=program.settings.context,
            elastic=program.settings.elastic,
        )

    def needs(self) -> Sequence[Rule]:
        """Submit, watch and cancel runs. What is made cannot be named before it is."""
        trained = (
            rule("trainer.kubeflow.org", "trainjobs", "create get list patch"),
            rule("trainer.kubeflow.org", "trainingruntimes", "create"),
        )
        jobs = (rule("batch", "jobs", "create get list patch"), rule("", "services", "create"))
        return (
            *(trained if self.kind_of_run == "TrainJob" else jobs),
            rule("", "pods", "list"),
            rule("", "pods/log", "get"),
            rule("", "events", "list"),
        )

    def _wheels(self, lock: Path, storage: Storage) -> pulumi.Input[str]:
        """The prefix with the wheels of the lock; empty where it names none, and where they come from an index."""
        told = current().settings
        if not told.wheels or not lock.is_file():
            return ""
        python, text = wheels.python_of(told.python_image), lock.read_text("utf-8")
        if not wheels.wanted(text, python):
            return ""
        digest = hashlib.sha256(f"{python}\n{text}".encode()).hexdigest()
        made = Wheels(
            f"{self.name}-wheels-{digest[:12]}",
            {**storage.where, "key": f"wheels/{digest}/", "source_path": str(lock), "python": python},
            # A run that was begun may still read them.
            opts=self.opts(retain=True, depends_on=[storage.bucket]),
        )
        return made.uri

    def _pod(self) -> pulumi.Output[dict[str, Any]]:
        spec, resources = self.spec, self.spec.resources
        try:
            placed = placement(gpus=resources.gpus, gpu=resources.gpu, spot=spec.spot)
        except Unsupported as error:
            raise Unsupported(f"TrainingSpec of {self.name!r}: {error}") from error
        made = pod(
            "job", current().settings.python_image, vcpu=resources.vcpu, memory_mib=resources.memory_mib + OWN_MIB,
            idle_vcpu=resources.vcpu * current().settings.cpu_share, gpus=resources.gpus,
            writable_mib=DISK_MIB, serviceAccountName=self.name, **placed,
        )  # fmt: skip
        # JobSet makes a label of the priority of its pods, and a label cannot begin with a dash.
        yields = spec.spot and self.kind_of_run == "Job"
        return pulumi.Output.all(made, self._priority() if yields else "").apply(
            lambda told: {**told[0], **({"priorityClassName": told[1]} if told[1] else {})}
        )

    def _priority(self) -> pulumi.Output[str]:
        """The stack's priority of runs that may be interrupted, made on first use: such a run gives way to what may not."""
        program = current()
        if program.priority is None:
            name = f"{namespace_name(pulumi.get_project(), pulumi.get_stack())}-spot"
            program.priority = k8s.scheduling.v1.PriorityClass(
                name,
                metadata={"name": name, "labels": labels_of("")},
                value=SPOT_PRIORITY,
                preemption_policy="Never",
                description="Ekiben's training runs that may be interrupted.",
                opts=pulumi.ResourceOptions.merge(
                    namespace_of(self).opts, pulumi.ResourceOptions(depends_on=[namespace_of(self).made])
                ),
            )
        found: pulumi.Output[str] = program.priority.metadata.apply(lambda told: str(told["name"]))
        return found


def kind_of_run(name: str, service: str, trainer: Callable[[], bool]) -> Literal["Job", "TrainJob"]:
    """What a run of the training `name` is on the service that the stack's config names; trainer: whether the cluster has that.

    Raises SpecError for a service that there is not, Unsupported for one that the cluster lacks.
    """
    if service not in SERVICES:
        raise SpecError(
            f"Training {name!r}: there is no service {service!r} on kubernetes; there are: {', '.join(SERVICES)}."
        )
    if SERVICES[service] == "TrainJob" and not trainer():
        raise Unsupported(
            f"TrainingSpec of {name!r}: ekiben:services asks for trainjobs, and the cluster lacks {trainjobs.API}. Install "
            "Kubeflow's Trainer 2, or name jobs."
        )
    return SERVICES[service]
