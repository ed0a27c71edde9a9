"""pytest fixtures: an AWS and a Kubernetes on this machine. pytest finds them by itself where Ekiben is installed.

    def test_a_bucket(emulated_aws):
        boto3.client("s3").create_bucket(Bucket="lake")

    def test_a_job(emulated_kubernetes):
        subprocess.run(["kubectl", "apply", "-f", "job.yaml"], env=os.environ | emulated_kubernetes.environment, check=True)

`emulated_aws` is empty for each test; `emulated_aws_session` is one for all tests of a session (of a worker, under xdist). The
environment leads to it, and to no account: boto3, Ekiben's run face and processes that a test starts need nothing more. It needs
the extra `emulate`.

`emulated_kubernetes` is one cluster for all sessions that run at once: a test makes a namespace of its own there. It is what
KUBECONFIG names, else one by kind, else Ekiben's own, which stops when the last session that uses it ends, unless `ekiben emulate
kubernetes` started it. Where there can be none the tests are skipped, with the reason.

What is heavy is imported, and an emulator started, when a test asks for it.
"""

from __future__ import annotations

import os
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from ekiben.emulators.aws import Server
    from ekiben.emulators.kubernetes.chosen import Chosen

__all__ = ["EmulatedAws", "emulated_aws", "emulated_aws_session", "emulated_knative", "emulated_kubernetes"]

RESET_TIMEOUT_S = 150.0


@dataclass(frozen=True)
class EmulatedAws:
    """What a test gets. `environment`: the variables that lead there."""

    server: Server

    @property
    def url(self) -> str:
        return self.server.url

    @property
    def environment(self) -> dict[str, str]:
        return self.server.environment

    def client(self, service: str, region: str = "") -> Any:
        """boto3's client of a service, for the test itself to look."""
        import boto3

        env = self.environment
        return boto3.client(
            service.replace("_", "-"), endpoint_url=self.url, region_name=region or env["AWS_REGION"],
            aws_access_key_id=env["AWS_ACCESS_KEY_ID"], aws_secret_access_key=env["AWS_SECRET_ACCESS_KEY"],
        )  # fmt: skip

    def __getattr__(self, service: str) -> Any:
        """`aws.s3` is `aws.client("s3")`."""
        if service.startswith("_"):
            raise AttributeError(service)
        return self.client(service)

    def reset(self) -> None:
        """Empty it, and end all that runs in it."""
        request = urllib.request.Request(f"{self.url}/moto-api/reset", method="POST")  # noqa: S310 - an address of ours
        with urllib.request.urlopen(request, timeout=RESET_TIMEOUT_S):  # noqa: S310
            pass


@pytest.fixture
def emulated_aws(_aws_of_tests: EmulatedAws, monkeypatch: pytest.MonkeyPatch) -> Iterator[EmulatedAws]:
    """An AWS that is empty, and this test's alone."""
    _lead_to(_aws_of_tests, monkeypatch)
    yield _aws_of_tests
    _aws_of_tests.reset()


@pytest.fixture(scope="session")
def emulated_aws_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmulatedAws]:
    """An AWS for all tests of the session: nothing is taken away between them."""
    with pytest.MonkeyPatch.context() as env:
        for aws in _started(tmp_path_factory):
            _lead_to(aws, env)
            yield aws


@pytest.fixture(scope="session")
def _aws_of_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmulatedAws]:
    """The process is one for all tests, since its start takes seconds."""
    yield from _started(tmp_path_factory)


@pytest.fixture(scope="session")
def emulated_kubernetes() -> Iterator[Chosen]:
    """A cluster: `kubeconfig`, the `environment` that leads there, and the keys of a stack's `config` on it."""
    from ekiben.emulators.kubernetes import chosen, why_not

    if chosen.found() is None and not chosen.kind_may() and (reason := why_not()):
        pytest.skip(f"no cluster: {reason}")
    with chosen.borrowed(lambda line: print(line, file=sys.stderr)) as there:
        yield there


@pytest.fixture(scope="session")
def emulated_knative(emulated_kubernetes: Chosen) -> Chosen:
    """The same cluster with Knative Serving: its routes answer at `config["ekiben:ingressUrl"]`, by their hosts."""
    from ekiben.emulators.kubernetes import chosen

    if emulated_kubernetes.origin != "own":
        pytest.skip("no Knative with an ingress that is known: the cluster is not Ekiben's own")
    return chosen.with_knative(emulated_kubernetes, lambda line: print(line, file=sys.stderr))


def _started(folders: pytest.TempPathFactory) -> Iterator[EmulatedAws]:
    from ekiben.emulators.aws import ensure, stop

    folder = folders.mktemp("aws")
    yield EmulatedAws(ensure(folder))
    stop(folder)


def _lead_to(aws: EmulatedAws, env: pytest.MonkeyPatch) -> None:
    from ekiben.emulators.stacks import foreign

    for name in foreign(os.environ):
        env.delenv(name)
    for name, value in aws.environment.items():
        env.setenv(name, value)
