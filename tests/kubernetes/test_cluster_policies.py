"""What the policies of a stack let through between real pods, as the deploy face makes them, and what they keep back."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

import ekiben as ek
from ekiben.emulators.kubernetes import launch
from ekiben.emulators.kubernetes.api import Api
from ekiben.emulators.kubernetes.chosen import Chosen
from ekiben.emulators.kubernetes.layout import API_PORT, HOST, NODE, REGISTRY_PORT
from ekiben.kubernetes.components import Endpoint, Function, Registry, Storage, Training
from ekiben.kubernetes.facts import labels
from ekiben.station import processes
from tests.talkers import Talker, Target, begin, enforcing, ready, until_reached
from tests.waiting import until

from .program import Recorded, run

pytestmark = pytest.mark.cluster

TINY = Path(__file__).parents[1] / "rigs" / "project" / "bentos" / "tiny"
METADATA = "169.254.169.254"
STORE, MLFLOW, SERVER, QUEUE, MATES, CLOSED = 7070, 5000, 8080, 8012, 1234, 9999


@pytest.fixture(scope="module")
def cluster(emulated_kubernetes: Chosen) -> Chosen:
    return enforcing(emulated_kubernetes)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recorded]:
    """A stack of one of each, with a store and an MLflow of its own."""
    root = tmp_path_factory.mktemp("project")
    shutil.copytree(TINY, root / "tiny")
    for folder, name in (("job", "train.py"), ("function", "main.py")):
        (root / folder).mkdir()
        (root / folder / name).write_text("def handler(event, runtime):\n    return None\n", encoding="utf-8")

    def program() -> list[Any]:
        lake = Storage("lake")
        models = Registry("models", storage=lake)
        income = Training("income", ek.TrainingSpec(source="job"), storage=lake)
        api = Endpoint("api", ek.EndpointSpec(model="tiny@champion", bento="tiny"), registry=models)
        return [
            lake,
            models,
            income,
            api,
            Function("again", ek.FunctionSpec(source="function", on=[ek.Http()]), uses=[lake]),
        ]

    with pytest.MonkeyPatch.context() as env:
        env.setenv("XDG_CACHE_HOME", str(root / "cache"))
        yield run(program, root, {"ekiben:mlflowImage": "registry.example/mlflow:v3.17.2"})


class Stack:
    """Its pods, by what they are, and a stranger's in another namespace, who is under no policy."""

    def __init__(self, api: Api, image: str, recorded: Recorded, home: str, away: str) -> None:
        policies = f"/apis/networking.k8s.io/v1/namespaces/{home}/networkpolicies"
        for policy in recorded.all("NetworkPolicy"):
            # Whatever passes the engine's protocol is a float.
            spec = json.loads(json.dumps(policy.inputs["spec"]), parse_float=lambda text: int(float(text)))
            api.create(policies, {"metadata": {"name": policy.inputs["metadata"]["name"]}, "spec": spec})
        for name, (ports, whose) in _shapes(recorded).items():
            begin(api, image, away if name == "stranger" else home, name, ports, whose)
        self.pods = {name: ready(api, away if name == "stranger" else home, name) for name in _shapes(recorded)}

    def targets(self, machine: Target) -> dict[str, Target]:
        at = {name: pod.address for name, pod in self.pods.items()}
        return {
            "store": (at["store"], STORE), "mlflow": (at["mlflow"], MLFLOW), "mate": (at["mate"], MATES),
            "model": (at["model"], SERVER), "queue": (at["model"], QUEUE), "model, elsewhere": (at["model"], CLOSED),
            "function": (at["function"], SERVER), "function, elsewhere": (at["function"], CLOSED),
            "stranger": (at["stranger"], SERVER), "machine": machine, "credentials": (METADATA, 80),
            "names": (NODE, 53), "API": (NODE, API_PORT), "registry": (NODE, REGISTRY_PORT),
        }  # fmt: skip


def _shapes(recorded: Recorded) -> dict[str, tuple[list[int], Mapping[str, str]]]:
    """The ports that each pod listens on, and its labels, as they are in its template or as runs and deployments give them."""

    def template(kind: str, name: str) -> Mapping[str, str]:
        found: Mapping[str, str] = recorded.one(kind, name).inputs["spec"]["template"]["metadata"]["labels"]
        return found

    platform = ek.Platform(project="small", stack="dev", parts=dict(recorded.parts))
    job, server = (labels(platform, recorded.parts[name]) for name in ("income", "api"))
    return {
        "store": ([STORE], template("StatefulSet", "small-dev-ekiben-store")),
        "mlflow": ([MLFLOW], template("StatefulSet", "small-dev-ekiben-mlflow")),
        "model": ([SERVER, QUEUE, CLOSED], server),
        "run": ([MATES], job),
        "mate": ([MATES], job),
        "function": ([SERVER, CLOSED], template("Deployment", "again")),
        "stranger": ([SERVER], {}),
    }


@pytest.fixture(scope="module")
def stack(cluster: Chosen, recorded: Recorded) -> Iterator[Stack]:
    api = Api(Path(cluster.kubeconfig))
    names = [f"test-{uuid.uuid4().hex[:8]}" for _ in range(2)]
    for name in names:
        api.create("/api/v1/namespaces", {"metadata": {"name": name}})
        until(lambda name=name: api.get(f"/api/v1/namespaces/{name}/serviceaccounts")["items"])  # type: ignore[misc]
    yield Stack(api, cluster.config["ekiben:pythonImage"], recorded, *names)
    for name in names:
        api.delete(f"/api/v1/namespaces/{name}")


@pytest.fixture(scope="module")
def targets(stack: Stack) -> Iterator[dict[str, Target]]:
    """All that a pod may try to reach, a server on this machine among it, and one at the address of a cloud's credentials."""
    with ExitStack() as both:
        machine = both.enter_context(socket.create_server((HOST, 0)))
        both.enter_context(_credentials())
        yield stack.targets(machine.getsockname()[:2])


@contextmanager
def _credentials() -> Iterator[None]:
    """A server on the node at the address, which is in the cluster's own network and nowhere else on this machine."""
    found = launch.found()
    assert found is not None
    inside = next(pid for pid in processes.descendants(found.pid) if _program(pid) == "kubelet")
    enter = ["nsenter", f"--net=/proc/{inside}/ns/net"]
    address = [f"{METADATA}/32", "dev", "lo"]
    subprocess.run([*enter, "ip", "address", "replace", *address], check=True)
    program = f"import socket, time; held = socket.create_server(({METADATA!r}, 80)); time.sleep(3600)"
    server = subprocess.Popen([*enter, sys.executable, "-c", program], stdin=subprocess.DEVNULL)
    try:
        yield
    finally:
        server.kill()
        server.wait()
        subprocess.run([*enter, "ip", "address", "delete", *address], check=True)


def _program(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text(encoding="ascii").strip()
    except OSError:
        return ""  # it has ended


OUTSIDE = {"names", "API", "registry", "machine"}
OPEN = {"model", "queue", "function", "stranger"}


@pytest.mark.parametrize(
    ("caller", "reached"),
    [
        # Who is under no policy reaches what asks for a token or a key, and no more of the stack.
        ("stranger", OUTSIDE | OPEN | {"credentials"}),
        ("model", {"names", "store"}),
        ("store", {"names"}),
        ("mlflow", {"names"}),
        ("run", OUTSIDE | OPEN | {"store", "mlflow", "mate"}),
        ("function", OUTSIDE | OPEN | {"store", "mlflow"}),
    ],
)
def test_who_reaches_whom(stack: Stack, targets: dict[str, Target], caller: str, reached: set[str]) -> None:
    pod: Talker = stack.pods[caller]
    mine = {name: target for name, target in targets.items() if target[0] != pod.address}
    until_reached(pod, mine.values(), [mine[name] for name in reached & mine.keys()])


def test_everybody_finds_names(stack: Stack) -> None:
    assert {pod("name", "kubernetes.default.svc.cluster.local").count(".") for pod in stack.pods.values()} == {3}
