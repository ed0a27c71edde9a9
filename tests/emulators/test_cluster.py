"""Ekiben's cluster, as those who run things in it see it: jobs, services, names, volumes, memory, images."""

from __future__ import annotations

import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ekiben.emulators.kubernetes import images
from ekiben.emulators.kubernetes.api import Api
from ekiben.emulators.kubernetes.chosen import Chosen

pytestmark = pytest.mark.cluster

PATIENCE_S = 120.0
LOOK_S = 0.1
Object = dict[str, Any]


@pytest.fixture(scope="module")
def cluster(emulated_kubernetes: Chosen) -> Chosen:
    if emulated_kubernetes.origin != "own":
        pytest.skip("what is tested here is Ekiben's own cluster, and another one is used")
    return emulated_kubernetes


@pytest.fixture(scope="module")
def api(cluster: Chosen) -> Api:
    return Api(Path(cluster.kubeconfig))


@pytest.fixture(scope="module")
def namespace(api: Api) -> Iterator[str]:
    """One in which only what keeps to the strictest rules may run."""
    name = f"test-{uuid.uuid4().hex[:8]}"
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    api.create("/api/v1/namespaces", {"metadata": {"name": name, "labels": labels}})
    until(lambda: api.get(f"/api/v1/namespaces/{name}/serviceaccounts")["items"])
    yield name
    api.delete(f"/api/v1/namespaces/{name}")


def until(found: Callable[[], Any]) -> Any:
    """What `found` returns as soon as it is something."""
    deadline = time.monotonic() + PATIENCE_S
    while not (what := found()):
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(LOOK_S)
    return what


def pod(cluster: Chosen, *command: str, image: str = "", memory: str = "64Mi", **spec: Any) -> Object:
    container = {
        "name": "main",
        "image": image or cluster.config["ekiben:pythonImage"],
        "command": list(command),
        "resources": {"requests": {"cpu": "10m", "memory": memory}, "limits": {"memory": memory}},
        "securityContext": {
            "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}, "readOnlyRootFilesystem": True,
            "runAsNonRoot": True, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"},
        },
        "volumeMounts": [{"name": "data", "mountPath": "/data"}] if "volumes" in spec else [],
    }  # fmt: skip
    return {"automountServiceAccountToken": False, "restartPolicy": "Never", "containers": [container], **spec}


def run(api: Api, namespace: str, spec: Object, name: str = "") -> tuple[Object, str]:
    """Run a pod to its end: its container's state, and its log."""
    name = name or f"pod-{uuid.uuid4().hex[:8]}"
    pods = f"/api/v1/namespaces/{namespace}/pods"
    api.create(pods, {"metadata": {"name": name}, "spec": spec})
    until(lambda: api.get(f"{pods}/{name}")["status"]["phase"] in ("Succeeded", "Failed"))
    told = api.get(f"{pods}/{name}")["status"]["containerStatuses"][0]["state"]["terminated"]
    return told, api.text(f"{pods}/{name}/log")


def python(cluster: Chosen, program: str, **spec: Any) -> Object:
    return pod(cluster, "python3", "-c", program, **spec)


def test_a_job_completes_and_its_log_stays(api: Api, cluster: Chosen, namespace: str) -> None:
    jobs = f"/apis/batch/v1/namespaces/{namespace}/jobs"
    spec = python(
        cluster, "import os, sys; print(sys.version_info[:2], os.getuid(), os.environ['JOB_COMPLETION_INDEX'])"
    )
    job = {"completions": 2, "parallelism": 2, "completionMode": "Indexed", "template": {"spec": spec}}
    api.create(jobs, {"metadata": {"name": "two"}, "spec": job})
    until(lambda: api.get(f"{jobs}/two")["status"].get("succeeded") == 2)
    found = api.get(f"/api/v1/namespaces/{namespace}/pods?labelSelector=batch.kubernetes.io/job-name%3Dtwo")["items"]
    logs = {api.text(f"/api/v1/namespaces/{namespace}/pods/{one['metadata']['name']}/log") for one in found}
    assert logs == {"(3, 11) 1000 0\n", "(3, 11) 1000 1\n"}


@pytest.fixture(scope="module")
def web(api: Api, cluster: Chosen, namespace: str) -> Object:
    """A service before two pods that say what they are called."""
    program = (
        "import http.server, socket\n"
        "class H(http.server.BaseHTTPRequestHandler):\n"
        "    def do_GET(self):\n"
        "        body = socket.gethostname().encode()\n"
        "        self.send_response(200); self.send_header('Content-Length', str(len(body))); self.end_headers()\n"
        "        self.wfile.write(body)\n"
        "http.server.ThreadingHTTPServer(('', 8080), H).serve_forever()\n"
    )
    spec = python(cluster, program, restartPolicy="Always")
    spec["containers"][0]["readinessProbe"] = {"httpGet": {"path": "/", "port": 8080}, "periodSeconds": 1}
    labels = {"app": "web"}
    deployments = f"/apis/apps/v1/namespaces/{namespace}/deployments"
    template = {"metadata": {"labels": labels}, "spec": spec}
    wanted = {"replicas": 2, "selector": {"matchLabels": labels}, "template": template}
    api.create(deployments, {"metadata": {"name": "web"}, "spec": wanted})
    ports = [{"port": 80, "targetPort": 8080}]
    services = f"/api/v1/namespaces/{namespace}/services"
    for name, more in (("web", {}), ("each", {"clusterIP": "None"})):
        api.create(services, {"metadata": {"name": name}, "spec": {"selector": labels, "ports": ports, **more}})
    until(lambda: api.get(f"{deployments}/web")["status"].get("readyReplicas") == 2)
    return api.get(f"{services}/web")  # type: ignore[no-any-return]


def test_a_service_answers_this_machine_and_balances(web: Object) -> None:
    answered = set()

    def ask() -> bool:
        with urllib.request.urlopen(f"http://{web['spec']['clusterIP']}/", timeout=10) as response:
            answered.add(response.read())
        return len(answered) == 2

    until(ask)


def test_pods_reach_services_by_name_and_themselves_through_them(
    api: Api, cluster: Chosen, namespace: str, web: Object
) -> None:
    program = (
        "import socket, urllib.request as u\n"
        f"print(socket.gethostbyname('web'), socket.gethostbyname('web.{namespace}.svc.cluster.local'))\n"
        "print(len({a[4][0] for a in socket.getaddrinfo('each', 80, socket.AF_INET)}))\n"
        "print(len({u.urlopen('http://web', timeout=10).read() for _ in range(60)}))\n"
    )
    told, log = run(api, namespace, python(cluster, program))
    assert (told["exitCode"], log) == (0, f"{web['spec']['clusterIP']} {web['spec']['clusterIP']}\n2\n2\n")


def test_pods_reach_the_api_server_and_no_other_network(api: Api, cluster: Chosen, namespace: str) -> None:
    program = (
        "import socket, ssl\n"
        "socket.create_connection(('kubernetes.default', 443), 10)\n"
        "try: socket.create_connection(('192.0.2.77', 80), 3); print('out')\n"
        "except OSError: print('in')\n"
    )
    assert run(api, namespace, python(cluster, program))[1] == "in\n"


def test_a_claim_gets_a_volume_that_outlives_the_pod_and_goes_with_the_claim(
    api: Api, cluster: Chosen, namespace: str
) -> None:
    claims = f"/api/v1/namespaces/{namespace}/persistentvolumeclaims"
    wanted = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    api.create(claims, {"metadata": {"name": "kept"}, "spec": wanted})
    volumes = [{"name": "data", "persistentVolumeClaim": {"claimName": "kept"}}]
    told, _ = run(api, namespace, python(cluster, "open('/data/x', 'w').write('here')", volumes=volumes))
    assert told["exitCode"] == 0
    _, log = run(api, namespace, python(cluster, "print(open('/data/x').read())", volumes=volumes))
    assert log == "here\n"
    volume = api.get(f"{claims}/kept")["spec"]["volumeName"]
    place = Path(api.get(f"/api/v1/persistentvolumes/{volume}")["spec"]["local"]["path"])
    assert (place / "x").read_text() == "here"
    for one in api.get(f"/api/v1/namespaces/{namespace}/pods")["items"]:
        if one["spec"].get("volumes"):
            api.delete(f"/api/v1/namespaces/{namespace}/pods/{one['metadata']['name']}")
    api.delete(f"{claims}/kept")
    held = "/api/v1/persistentvolumes"
    until(lambda: volume not in [one["metadata"]["name"] for one in api.get(held)["items"]])
    assert not place.exists()


def test_a_pod_without_memory_is_killed_and_says_so(api: Api, cluster: Chosen, namespace: str) -> None:
    told, _ = run(api, namespace, python(cluster, "x = bytearray(256 << 20); print(len(x))"))
    assert (told["reason"], told["exitCode"]) == ("OOMKilled", 137)


def test_an_image_that_is_pushed_is_run_under_each_of_its_names(
    api: Api, cluster: Chosen, namespace: str, tmp_path: Path
) -> None:
    registry = cluster.config["ekiben:registry"].removeprefix("http://")
    hello = tmp_path / "catatonit"
    hello.write_bytes(Path("/usr/bin/catatonit").read_bytes())
    image = images.of_binary(f"tests/{uuid.uuid4().hex[:8]}:1", hello)
    reference = images.push(registry, image)
    assert images.push(registry, image) == reference
    for name in (reference, f"{registry}/{image.name}", f"ghcr.io/{image.name}"):
        told, log = run(api, namespace, pod(cluster, "/catatonit", "--version", image=name))
        assert told["exitCode"] == 0
        assert "catatonit" in log


def test_an_image_that_is_not_there_is_told(api: Api, cluster: Chosen, namespace: str) -> None:
    pods = f"/api/v1/namespaces/{namespace}/pods"
    api.create(pods, {"metadata": {"name": "none"}, "spec": pod(cluster, "/x", image="example.com/none:1")})

    def reason() -> str:
        statuses = api.get(f"{pods}/none")["status"].get("containerStatuses") or [{"state": {}}]
        return str(statuses[0]["state"].get("waiting", {}).get("reason", ""))

    until(lambda: reason() in ("ErrImagePull", "ImagePullBackOff"))
    api.delete(f"{pods}/none")


def test_the_base_image_is_found_by_the_name_that_it_has_elsewhere(api: Api, cluster: Chosen, namespace: str) -> None:
    """The base image is Python as Docker's library has it: pip, virtual environments, certificates."""
    program = "import pip, ssl, sys, venv; print(len(ssl.create_default_context().get_ca_certs()) > 0, sys.executable)"
    for name in (images.BASE, f"docker.io/library/{images.BASE}-slim"):
        _, log = run(api, namespace, pod(cluster, "python", "-c", program, image=name))
        assert log == "True /usr/local/bin/python\n"
