"""What a cluster leaves behind when it is stopped, killed, or started twice: a second one beside that of the other tests."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ekiben.emulators.kubernetes import launch, layout, why_not
from ekiben.emulators.kubernetes.api import Api

pytestmark = pytest.mark.cluster

PATIENCE_S = 120.0
LOOK_S = 0.1
ENVIRONMENT = {layout.NUMBER: "1"}
STATE = layout.state_dir().with_name("cluster1")


@pytest.fixture(scope="module", autouse=True)
def second() -> Iterator[None]:
    """A cluster that no other test uses, and nothing of it afterwards. The tests go on with what those before them left."""
    if reason := why_not():
        pytest.skip(f"no cluster: {reason}")
    emulate("--stop")
    yield
    emulate("--stop")
    program = "from ekiben.emulators.kubernetes import launch; launch.forget()"
    subprocess.run([sys.executable, "-c", program], env=os.environ | ENVIRONMENT, check=True)
    assert not STATE.exists()


def emulate(*options: str) -> dict[str, Any]:
    """`ekiben emulate kubernetes`, as a user with no cluster of his own says it."""
    env = {name: value for name, value in os.environ.items() if name != "KUBECONFIG"} | ENVIRONMENT
    command = [sys.executable, "-m", "ekiben.cli", "emulate", "kubernetes", "--no-knative", "--json", *options]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def until(found: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + PATIENCE_S
    while not (what := found()):
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(LOOK_S)
    return what


def left() -> dict[str, list[str]]:
    """All that this machine has of the second cluster."""
    processes = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if f"{STATE}/".encode() in (entry / "cmdline").read_bytes().replace(b"\0", b"/"):
                processes.append(entry.name)
        except OSError:
            continue
    rules = subprocess.run(["iptables-save"], capture_output=True, text=True, check=False).stdout.splitlines()
    return {
        "processes": processes,
        "mounts": [line for line in Path("/proc/mounts").read_text().splitlines() if str(STATE) in line],
        "devices": [entry.name for entry in Path("/sys/class/net").iterdir() if entry.name == "ekiben1"],
        "namespaces": [entry.name for entry in Path("/run/netns").glob("cni-*")],
        "routes": [line for line in Path("/proc/net/route").read_text().splitlines() if line.startswith("ekiben1")],
        "rules": [rule for rule in rules if "198.19." in rule],
        "cgroups": [str(found) for found in Path("/sys/fs/cgroup").glob("**/ekiben-cluster1")],
    }


NOTHING: dict[str, list[str]] = {
    name: [] for name in ("processes", "mounts", "devices", "namespaces", "routes", "rules", "cgroups")
}


def running_pod(told: dict[str, Any]) -> str:
    """The identity of a pod that runs until it is ended."""
    api = Api(Path(told["environment"]["KUBECONFIG"]))
    pods = "/api/v1/namespaces/default/pods"
    containers = [{"name": "main", "image": told["config"]["ekiben:pythonImage"], "command": ["sleep", "10000"]}]
    until(lambda: api.get("/api/v1/namespaces/default/serviceaccounts")["items"])
    api.create(pods, {"metadata": {"name": "stays"}, "spec": {"containers": containers}})
    until(lambda: api.get(f"{pods}/stays")["status"].get("phase") == "Running")
    return str(api.get(f"{pods}/stays")["metadata"]["uid"])


def family(pid: int) -> list[int]:
    """The processes of the cluster, of which the keeper is `pid`."""
    from ekiben.station import processes

    return sorted(processes.descendants(pid))


def test_it_is_found_stopped_without_a_trace_and_has_kept_its_objects() -> None:
    first = emulate()
    assert first["running"]
    assert first["origin"] == "own"
    assert emulate() == first == emulate("--status"), "a second start finds the first"
    uid = running_pod(first)
    assert left()["cgroups"]
    emulate("--stop")
    assert left() == NOTHING
    assert emulate("--status")["running"] is False
    api = Api(Path(emulate()["environment"]["KUBECONFIG"]))
    assert api.get("/api/v1/namespaces/default/pods/stays")["metadata"]["uid"] == uid

    def runs_again() -> bool:
        status = api.get("/api/v1/namespaces/default/pods/stays")["status"]
        return bool(status["phase"] == "Running" and status["containerStatuses"][0]["restartCount"])

    until(runs_again)


@pytest.mark.parametrize("whom", ["keeper", "everything"])
def test_killed_it_leaves_nothing_once_it_is_stopped(whom: str) -> None:
    running_pod(emulate())
    keeper = int((STATE / layout.LOCK).read_text())
    members = family(keeper)
    assert len(members) > 10
    for pid in [keeper] if whom == "keeper" else members:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue  # it went with one that was killed before
    until(lambda: not emulate("--status")["running"])
    emulate("--stop")
    assert left() == NOTHING


def test_fresh_forgets() -> None:
    api = Api(Path(emulate("--fresh")["environment"]["KUBECONFIG"]))
    assert [one["metadata"]["name"] for one in api.get("/api/v1/namespaces/default/pods")["items"]] == []


def test_a_part_that_ends_is_started_again() -> None:
    api = Api(Path(emulate()["environment"]["KUBECONFIG"]))
    for pid in family(int((STATE / layout.LOCK).read_text())):
        if Path(f"/proc/{pid}/comm").read_text().strip() == "kube-apiserver":
            os.kill(pid, signal.SIGKILL)
    until(api.ready)
    api.create("/api/v1/namespaces", {"metadata": {"name": "after"}})


def test_what_a_borrower_has_started_goes_on_while_a_stack_is_in_it() -> None:
    api = Api(Path(emulate()["environment"]["KUBECONFIG"]))
    lent = STATE.with_name("cluster1.lent")
    borrow = "from ekiben.emulators.kubernetes import chosen\nwith chosen.borrowed(): pass"
    env = {name: value for name, value in os.environ.items() if name != "KUBECONFIG"} | ENVIRONMENT
    namespaces = "/api/v1/namespaces"
    api.create(namespaces, {"metadata": {"name": "shop-dev", "labels": {"ekiben.dev/stack": "dev"}}})
    lent.touch()
    subprocess.run([sys.executable, "-c", borrow], env=env, check=True)
    assert emulate("--status")["running"]
    assert not lent.exists(), "it is the stack's now"
    assert emulate("--stop", "--if-unused")["running"]
    api.delete(f"{namespaces}/shop-dev")
    until(lambda: "shop-dev" not in [one["metadata"]["name"] for one in api.get(namespaces)["items"]])
    lent.touch()
    subprocess.run([sys.executable, "-c", borrow], env=env, check=True)
    assert not emulate("--status")["running"]


def test_a_folder_that_hides_what_is_needed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/var/lib/ekiben-none")
    with pytest.raises(ValueError, match="cannot lie at /var/lib/ekiben-none"):
        launch.ensure()
