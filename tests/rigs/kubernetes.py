"""The rig of the provider `kubernetes`: a stack in a namespace of its own, on the real cluster that is emulated on this machine."""

from __future__ import annotations

import shutil
import sys
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

import ekiben as ek
from tests.rigs.stack import THEIRS, Stack
from tests.waiting import until

if TYPE_CHECKING:
    from ekiben.emulators.kubernetes.chosen import Chosen


@contextmanager
def cluster() -> Iterator[Chosen]:
    """The one of this machine, which others use, too; the tests are skipped where there can be none."""
    from ekiben.emulators.kubernetes import chosen, why_not

    if chosen.found() is None and not chosen.kind_may() and (reason := why_not()):
        pytest.skip(f"no cluster: {reason}")
    with chosen.borrowed(lambda line: print(line, file=sys.stderr)) as there:
        yield there


def mlflow_image(there: Chosen) -> tuple[str, str]:
    """The image of the MLflow server that the stack runs, or why there is none. The first one takes minutes to make."""
    from tests.mlflow_server import image

    if "ekiben:registry" not in there.config:
        return "", "the cluster has no registry that an image of MLflow can be put into"
    try:
        return image.of_cluster(there.config), ""
    except (ek.ModelFailed, ek.NotFound) as error:
        return "", f"an image with MLflow cannot be made: {error}"


def make(base: type) -> Any:
    return rig(base)()


def rig(base: type) -> type:
    class KubernetesRig(base):  # type: ignore[misc, valid-type]
        provider = "kubernetes"
        ends_calls = False  # a server of one thread answers the next call when the one before has ended

        def up(self) -> ek.Platform:
            self.around = ExitStack()
            env = self.around.enter_context(pytest.MonkeyPatch.context())
            env.delenv("KUBECONFIG", raising=False)  # an emulated stack never goes to that one
            try:
                there = self.around.enter_context(cluster())
                env.setenv("KUBECONFIG", there.kubeconfig)
                self.stack = Stack(
                    {"ekiben:provider": "kubernetes", "ekiben:emulate": True, **self.settings(there)},
                    theirs=(*THEIRS, "KUBECONFIG"),
                )
                self.around.callback(shutil.rmtree, self.stack.folder)
                # The cluster is everybody's on this machine, and a namespace is called as its project is.
                told = self.stack.folder / "Pulumi.yaml"
                told.write_text(told.read_text("utf-8").replace("name: rig", f"name: rig-{uuid.uuid4().hex[:6]}", 1))
                try:
                    return self.stack.up()
                except BaseException:
                    self.stack.command("destroy", "--yes", check=False)
                    raise
            except BaseException:
                self.around.close()
                raise

        def settings(self, there: Chosen) -> dict[str, object]:
            """Of the stack's config, what does not lead to the cluster. What it needs there is put there."""
            image, self.without_mlflow = mlflow_image(there)
            return {"ekiben:mlflowImage": image, "rig:mirror": "required"} if image else {}

        def down(self) -> None:
            with self.around:
                self.stack.down()

        def again(self) -> int:
            return self.stack.again()

        def rest(self, endpoint: str) -> None:
            found = self.runtime.endpoint(endpoint)
            until(lambda: all(revision.instances == 0 for revision in found.revisions()))

        def address(self, endpoint: str) -> tuple[str, str]:
            """The ingress, by whose name only a public DNS leads here."""
            facts = self.platform.parts[endpoint].facts
            return facts["ingress_url"], urlsplit(facts["url"]).netloc

        def take_away(self, run: ek.Run) -> None:
            """As a node that is drained does: its pod is deleted, with the grace that it has."""
            from ekiben.kubernetes.client import Cluster
            from ekiben.kubernetes.facts import RUN

            cluster = Cluster(self.platform.parts[run.training].facts["namespace"])
            for pod in cluster.list("Pod", "take a run's pods away", labels={RUN: run.id}):
                cluster.delete("Pod", pod["metadata"]["name"], "take a run's pods away")

    return KubernetesRig
