"""The stand-in for Kubernetes on a real API server, without an engine: objects are made, changed, waited for, read, and deleted."""

from __future__ import annotations

import base64
import copy
import threading
import time
import urllib.error
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from pulumi.runtime.rpc import UNKNOWN

from ekiben.emulators.kubernetes.plugin import life as life_module
from ekiben.emulators.kubernetes.plugin.life import Life, Partial
from ekiben.emulators.kubernetes.plugin.paths import text
from ekiben.emulators.kubernetes.plugin.settings import settings
from ekiben.emulators.kubernetes.plugin.tokens import problems_of, token_of
from ekiben.errors import AccessDenied, AlreadyExists, NotFound, ProviderError
from tests.control_plane import ControlPlane

NAMESPACE, PATIENCE_S = "life", 120.0
MERGE = "application/merge-patch+json"
Object = dict[str, Any]


@pytest.fixture(scope="module")
def plane(api_server: ControlPlane) -> ControlPlane:
    api_server.call("POST", "api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
    api_server.wait(f"api/v1/namespaces/{NAMESPACE}/serviceaccounts/default")
    return api_server


def life(plane: ControlPlane, thing: Object, program_name: str = "", **config: Any) -> Life:
    """The resource of the program that asks for `thing`."""
    middle = thing["apiVersion"] if "/" in thing["apiVersion"] else "core/v1"
    urn = f"urn:pulumi:dev::small::kubernetes:{middle}:{thing['kind']}::{program_name or thing['metadata']['name']}"
    found = settings({"kubeconfig": str(plane.kubeconfig), "namespace": NAMESPACE, **config})
    return Life(server=found.server(), settings=found, token=token_of(urn, thing), urn=urn)


def config_map(name: str, **data: str) -> Object:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}


def deployment(name: str, replicas: int = 0, **notes: str) -> Object:
    container = {"name": "c", "image": "i:1", "resources": {"limits": {"cpu": "0.5", "memory": "1024Mi"}}}
    spec = {
        "replicas": replicas, "selector": {"matchLabels": {"app": name}},
        "template": {"metadata": {"labels": {"app": name}}, "spec": {"containers": [container]}},
    }  # fmt: skip
    metadata = {"name": name, "annotations": {f"pulumi.com/{key}": value for key, value in notes.items()}}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": spec}


def changed(thing: Object, **spec: Any) -> Object:
    made = copy.deepcopy(thing)
    made["spec"].update(spec)
    return made


def at(kind: str, name: str, api: str = "api/v1") -> str:
    return f"{api}/namespaces/{NAMESPACE}/{kind}/{name}"


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.1)


class Node:
    """What a node would say of the pods whose label `app` is `app`; they come and go by the real controllers."""

    def __init__(self, plane: ControlPlane, app: str, **status: Any) -> None:
        self._plane, self._app, self.status, self._ended = plane, app, status, threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Node:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(0.1):
            for pod in self._plane.call("GET", f"{at('pods', '')}?labelSelector=app={self._app}")["items"]:
                if any(pod["status"].get(key) != value for key, value in self.status.items()):
                    with suppress(urllib.error.HTTPError):  # it has gone, or has changed in the meantime
                        self._plane.status(at("pods", pod["metadata"]["name"]), **self.status)


def running(ready: str = "True") -> Object:
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return {
        "phase": "Running", "podIP": "10.1.2.3", "podIPs": [{"ip": "10.1.2.3"}],
        "conditions": [{"type": "Ready", "status": ready, "lastTransitionTime": now}],
    }  # fmt: skip


def test_what_was_made_when_an_engine_was_killed_is_taken_up_and_what_others_made_is_not(plane: ControlPlane) -> None:
    thing = config_map("once", a="1")
    made = life(plane, thing).create(thing, 0)
    assert made[0] == "life/once"
    assert life(plane, thing).create(thing, 0) == made
    with pytest.raises(AlreadyExists, match="this stack has not made it"):
        life(plane, thing, "another").create(thing, 0)
    _, state = life(plane, thing, "another", upsertExistingObjects="true").create(thing, 0)
    assert state["metadata"]["uid"] == made[1]["metadata"]["uid"]


def test_a_preview_makes_nothing_and_says_what_is_wrong(plane: ControlPlane) -> None:
    thing = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "seen"}, "spec": {"ports": [{"port": 80}]}}
    planned = life(plane, thing).preview(thing, None)
    assert planned["spec"]["ports"] == [{"port": 80, "protocol": "TCP", "targetPort": 80}]
    assert planned["spec"]["clusterIP"] == planned["metadata"]["uid"] == planned["status"] == UNKNOWN
    assert life(plane, thing).read("life/seen", thing, {}) is None
    elsewhere = {**thing, "metadata": {"name": "seen", "namespace": "comes-later"}}
    assert life(plane, elsewhere).preview(elsewhere, None)["spec"] == thing["spec"] | {"clusterIP": UNKNOWN} | {
        key: UNKNOWN for key in ("clusterIPs", "healthCheckNodePort")
    }
    for wrong, said in (
        (
            changed(thing, prots=[]),
            "cannot create v1 Service life/seen: spec.prots: field not declared in schema. Mend the program.",
        ),
        (changed(thing, ports=[{"port": 99999}]), "spec.ports[0].port: Invalid value: 99999"),
    ):
        with pytest.raises(ProviderError) as caught:
            life(plane, wrong).preview(wrong, None)
        assert said in str(caught.value)


def test_the_server_judges_what_changes(plane: ControlPlane) -> None:
    old = deployment("judged")
    _, state = life(plane, old).create(old, PATIENCE_S)

    def found(new: Object, ignored: tuple[str, ...] = ()) -> tuple[list[str], list[str]]:
        change = life(plane, new).diff(old, new, state, ignored)
        return [*map(text, change.paths)], [*map(text, change.replaces)]

    same = copy.deepcopy(old)
    same["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"] = {"cpu": "500m", "memory": "1Gi"}
    assert found(same) == ([], [])
    assert found(changed(old, paused=True)) == (["spec.paused"], [])
    assert found(changed(old, selector={"matchLabels": {"app": "x"}})) == (["spec.selector.matchLabels.app"],) * 2
    wrong = changed(old, template={**old["spec"]["template"], "metadata": {"labels": {"app": "y"}}})
    assert found(wrong) == (["spec.template.metadata.labels.app"], [])
    with pytest.raises(ProviderError, match="`selector` does not match template `labels`"):
        life(plane, wrong).preview(wrong, state)
    assert life(plane, old).preview(changed(old, paused=True), state)["spec"]["paused"] is True
    assert plane.call("GET", at("deployments", "judged", "apis/apps/v1"))["spec"].get("paused") is None


def test_what_the_server_never_changes_takes_another_object(plane: ControlPlane) -> None:
    """Said by the server alone: no table of ours has it."""
    old = config_map("fixed", a="1") | {"immutable": True}
    content = {"enableConfigMapMutable": "true"}
    _, state = life(plane, old, **content).create(old, PATIENCE_S)
    new = {**old, "data": {"a": "2"}}
    change = life(plane, new, **content).diff(old, new, state, [])
    assert ([*map(text, change.replaces)], change.delete_first) == (["data.a"], True)
    life(plane, old, **content).delete("life/fixed", state, PATIENCE_S)
    assert life(plane, new, **content).create(new, PATIENCE_S)[1]["data"] == {"a": "2"}


def test_fields_of_others_are_told_left_or_taken_over(plane: ControlPlane) -> None:
    old = deployment("shared")
    _, state = life(plane, old).create(old, PATIENCE_S)
    path = at("deployments", "shared", "apis/apps/v1")
    plane.call("PATCH", f"{path}?fieldManager=scaler", {"spec": {"revisionHistoryLimit": 5}}, content=MERGE)
    new = changed(old, revisionHistoryLimit=2, paused=True)
    assert [*map(text, life(plane, new).diff(old, new, state, []).paths)] == [
        "spec.revisionHistoryLimit",
        "spec.paused",
    ]
    for act in (
        lambda: life(plane, new).preview(new, state),
        lambda: life(plane, new).update("life/shared", state, new, [], PATIENCE_S),
    ):
        with pytest.raises(AlreadyExists, match="spec.revisionHistoryLimit is scaler's"):
            act()
    left = life(plane, new).update("life/shared", state, new, ["spec.revisionHistoryLimit"], PATIENCE_S)
    assert (left["spec"]["revisionHistoryLimit"], left["spec"]["paused"]) == (5, True)
    new["metadata"]["annotations"]["pulumi.com/patchForce"] = "true"
    taken = life(plane, new).update("life/shared", state, new, [], PATIENCE_S)
    assert taken["spec"]["revisionHistoryLimit"] == 2


def test_a_refresh_finds_what_others_have_changed_and_nothing_else(plane: ControlPlane) -> None:
    thing = deployment("drifts", skipAwait="true")
    id, state = life(plane, thing).create(thing, PATIENCE_S)
    found = life(plane, thing).read(id, thing, state)
    assert found is not None
    assert found[0] == thing
    path = at("deployments", "drifts", "apis/apps/v1")
    labels = {"metadata": {"labels": {"theirs": "1"}}, "spec": {"template": {"spec": {"nodeSelector": {"a": "b"}}}}}
    plane.call("PATCH", f"{path}?fieldManager=others", labels, content=MERGE)
    found = life(plane, thing).read(id, thing, state)
    assert found is not None
    assert found[0] == thing
    plane.call("PATCH", f"{path}?fieldManager=others", {"spec": {"template": {"spec": {"containers": [
        {"name": "c", "image": "other:2"}]}}}}, content="application/strategic-merge-patch+json")  # fmt: skip
    found = life(plane, thing).read(id, thing, state)
    assert found is not None
    wanted = copy.deepcopy(thing)
    wanted["spec"]["template"]["spec"]["containers"][0]["image"] = "other:2"
    assert found[0] == wanted
    life(plane, thing).delete(id, {}, PATIENCE_S)
    assert life(plane, thing).read(id, thing, state) is None
    life(plane, thing).delete(id, {}, PATIENCE_S)


def test_a_secret_is_marked_so_and_its_drift_is_found(plane: ControlPlane) -> None:
    thing = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "hidden"},
        "stringData": {"a": "one", "b": "two"},
    }
    id, state = life(plane, thing).create(thing, 0)
    assert all("value" in state[key] for key in ("data", "stringData"))
    data = {"a": base64.b64encode(b"changed").decode(), "b": None}
    plane.call("PATCH", at("secrets", "hidden"), {"data": data}, content=MERGE)
    found = life(plane, thing).read(id, thing, {**thing, "metadata": state["metadata"]})
    assert found is not None
    assert found[0]["stringData"]["value"] == {"a": "changed"}
    imported = life(plane, thing).read(id, {}, {})
    assert imported is not None
    assert imported[0]["metadata"] == {"name": "hidden", "namespace": NAMESPACE}


def test_a_patch_takes_back_no_more_than_its_own(plane: ControlPlane) -> None:
    plane.call("POST", at("configmaps", "")[:-1], {"metadata": {"name": "patched"}, "data": {"a": "1"}})
    thing = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "patched"}, "data": {"b": "2"}}
    urn = "urn:pulumi:dev::small::kubernetes:core/v1:ConfigMapPatch::patched"
    whole = life(plane, thing)
    patch = replace(whole, token=token_of(urn, thing), urn=urn)
    id, state = patch.create(thing, 0)
    assert plane.call("GET", at("configmaps", "patched"))["data"] == {"a": "1", "b": "2"}
    patch.delete(id, state, 0)
    assert plane.call("GET", at("configmaps", "patched"))["data"] == {"a": "1"}
    missing = {**thing, "metadata": {"name": "none"}}
    with pytest.raises(NotFound, match="there is no such object"):
        patch.create(missing, 0)


def test_a_definition_and_what_it_defines(plane: ControlPlane, monkeypatch: pytest.MonkeyPatch) -> None:
    schema = {"type": "object", "properties": {"spec": {"type": "object", "properties": {"size": {"type": "integer"}}}}}
    definition = {
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "crates.life.example.com"},
        "spec": {
            "group": "life.example.com", "scope": "Namespaced", "names": {"plural": "crates", "kind": "Crate"},
            "versions": [{"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}],
        },
    }  # fmt: skip
    crate = {"apiVersion": "life.example.com/v1", "kind": "Crate", "metadata": {"name": "c"}, "spec": {"size": 1}}
    assert life(plane, crate).preview(crate, None)["spec"] == {"size": 1}
    id, state = life(plane, definition).create(definition, PATIENCE_S)
    assert life(plane, crate).create(crate, 0)[0] == "life/c"
    with pytest.raises(ProviderError, match=r"spec\.weight: field not declared in schema"):
        life(plane, crate).preview(changed(crate, weight=2), {})
    life(plane, definition).delete(id, state, PATIENCE_S)
    monkeypatch.setattr(life_module, "KIND_TIMEOUT_S", 0.0)
    unknown = {**crate, "kind": "Barrel"}
    with pytest.raises(NotFound, match="the cluster has no such kind"):
        life(plane, unknown).create(unknown, 0)


def test_what_is_not_ready_is_kept_with_why_and_goes_on(plane: ControlPlane) -> None:
    begun, thing = deployment("slow", 1, skipAwait="true"), deployment("slow", 1, timeoutSeconds="0.5")
    waiting = {"name": "c", "image": "i:1", "imageID": "", "ready": False, "restartCount": 0,
               "state": {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}}  # fmt: skip
    id, state = life(plane, begun).create(begun, 0)
    with Node(plane, "slow", phase="Pending", containerStatuses=[waiting]) as node:
        until(
            lambda: plane.call("GET", at("deployments", "slow", "apis/apps/v1"))["status"].get("updatedReplicas") == 1
        )
        pods = f"{at('pods', '')}?labelSelector=app=slow"
        until(lambda: any(pod["status"].get("containerStatuses") for pod in plane.call("GET", pods)["items"]))
        with pytest.raises(
            Partial, match="0 of 1 replicas are available.*its image cannot be pulled.*no such image"
        ) as caught:
            life(plane, thing).update(id, state, thing, [], 0)
        half = caught.value
        assert half.id == "life/slow"
        assert half.state["spec"]["replicas"] == 1
        with pytest.raises(Partial, match="0 of 1 replicas are available"):
            life(plane, thing).read(half.id, thing, half.state)
        node.status = running()
        done = life(plane, thing).update(half.id, half.state, thing, [], PATIENCE_S)
        assert done["status"]["availableReplicas"] == 1
    life(plane, thing).delete(half.id, half.state, PATIENCE_S)


def test_what_was_made_is_in_the_state_whatever_goes_wrong_while_it_is_waited_for(
    plane: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ready(*_: Any, **__: Any) -> Object:
        raise AccessDenied("kubernetes", "look at it", "this login has ended")

    monkeypatch.setattr(life_module, "ready", ready)
    thing = config_map("unwatched", a="1")
    with pytest.raises(Partial, match="this login has ended") as caught:
        life(plane, thing).create(thing, 0)
    assert (caught.value.id, caught.value.state["data"]) == ("life/unwatched", {"a": "1"})


def test_a_job_is_waited_for_until_it_is_done_and_replaced_when_it_failed(plane: ControlPlane) -> None:
    template = {
        "metadata": {"labels": {"app": "job"}},
        "spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]},
    }
    metadata = {"name": "job", "annotations": {"pulumi.com/replaceUnready": "true"}}
    spec = {"backoffLimit": 0, "template": template}
    thing = {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": spec}
    with (
        Node(plane, "job", phase="Failed"),
        pytest.raises(Partial, match="it has failed .*BackoffLimitExceeded") as caught,
    ):
        life(plane, thing).create(thing, PATIENCE_S)
    half = caught.value
    change = life(plane, thing).diff(thing, thing, half.state, [])
    assert (bool(change.replaces), change.delete_first) == (True, True)
    life(plane, thing).delete(half.id, half.state, PATIENCE_S)
    with Node(plane, "job", phase="Succeeded"):
        _, state = life(plane, thing).create(thing, PATIENCE_S)
    assert life(plane, thing).diff(thing, thing, state, []).paths == ()


@pytest.fixture
def others() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as pool:
        yield pool


def test_a_service_waits_for_who_answers(plane: ControlPlane, others: ThreadPoolExecutor) -> None:
    thing = {
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "front"},
        "spec": {"selector": {"app": "none"}, "ports": [{"port": 80}]},
    }  # fmt: skip
    said, waiting = threading.Event(), life(plane, thing)
    made = others.submit(replace(waiting, tell=lambda _: said.set()).create, thing, PATIENCE_S)
    assert said.wait(PATIENCE_S)
    assert not made.done()
    part = {
        "metadata": {"name": "front", "labels": {"kubernetes.io/service-name": "front"}}, "addressType": "IPv4",
        "endpoints": [{"addresses": ["10.1.2.3"], "conditions": {"ready": True}}],
    }  # fmt: skip
    plane.call("POST", at("endpointslices", "", "apis/discovery.k8s.io/v1")[:-1], part)
    assert made.result(PATIENCE_S)[0] == "life/front"


def test_who_wants_to_stop_is_obeyed_at_once(plane: ControlPlane, others: ThreadPoolExecutor) -> None:
    thing = deployment("stopped", 1)
    said = threading.Event()
    asked = replace(life(plane, thing), tell=lambda _: said.set())
    made = others.submit(asked.create, thing, PATIENCE_S)
    assert said.wait(PATIENCE_S)
    asked.stopped.set()
    with pytest.raises(Partial, match="it was asked to stop while it waited"):
        made.result(PATIENCE_S)


def test_what_is_held_back_from_going_says_by_what(plane: ControlPlane) -> None:
    thing = config_map("held")
    thing["metadata"]["finalizers"] = ["example.com/holds"]
    id, state = life(plane, thing).create(thing, 0)
    with pytest.raises(
        ProviderError, match=r"still there after 0.5 s: it waits for its finalizers .*example.com/holds"
    ):
        life(plane, thing).delete(id, state, 0.5)
    plane.call("PATCH", at("configmaps", "held"), {"metadata": {"finalizers": None}}, content=MERGE)
    life(plane, thing).delete(id, state, PATIENCE_S)


def test_the_sdk_s_types_are_known_for_every_kind_that_the_server_has(plane: ControlPlane) -> None:
    """A kind without them would be made, but what is wrong with it would be told by the server only, one thing at a time."""
    apis = [f"{one['groupVersion']}" for group in plane.call("GET", "apis")["groups"] for one in group["versions"]]
    own = [api for api in apis if not api.partition("/")[0].endswith("example.com")]
    unknown = []
    for api in ["v1", *own]:
        root = f"api/{api}" if api == "v1" else f"apis/{api}"
        for kind in plane.call("GET", root)["resources"]:
            if "/" in kind["name"] or "create" not in kind["verbs"] or "get" not in kind["verbs"]:
                continue
            urn = f"urn:pulumi:dev::small::kubernetes:{'core/v1' if api == 'v1' else api}:{kind['kind']}::x"
            assert token_of(urn, {}).api == api
            if ("nonsense", f"{kind['kind']}InitArgs has no such property") not in problems_of(urn, {"nonsense": 1}):
                unknown.append(urn)
    assert unknown == []
