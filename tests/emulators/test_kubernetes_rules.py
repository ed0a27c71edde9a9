"""What the stand-in for Kubernetes decides without a server: places, differences, names, types, and how it asks one."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from ekiben.emulators.kubernetes.plugin import objects, server
from ekiben.emulators.kubernetes.plugin.changes import Change, change, drifted, kept
from ekiben.emulators.kubernetes.plugin.paths import differences, parsed, put, text
from ekiben.emulators.kubernetes.plugin.server import Refused, connected
from ekiben.emulators.kubernetes.plugin.settings import cluster_of, settings
from ekiben.emulators.kubernetes.plugin.telling import explained
from ekiben.emulators.kubernetes.plugin.tokens import Token, problems_of, token_of
from ekiben.errors import SpecError, Unavailable, Unsupported

URN = "urn:pulumi:dev::small::shop:Shop$kubernetes:{}::web"


@pytest.mark.parametrize(
    ("said", "path"),
    [
        ("spec.replicas", ("spec", "replicas")),
        ("spec.containers[0].image", ("spec", "containers", 0, "image")),
        ('metadata.labels["app.kubernetes.io/name"]', ("metadata", "labels", "app.kubernetes.io/name")),
        ('data["a\\"b"].c', ("data", 'a"b', "c")),
    ],
)
def test_places_are_written_and_read(said: str, path: tuple[str | int, ...]) -> None:
    assert parsed(said) == path
    assert text(path) == said


def test_a_place_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="is no path"):
        parsed("a[")


def test_differences_are_as_deep_as_can_be() -> None:
    old = {"a": [1, {"b": 2}], "c": 1, "same": {"x": 1}, "flag": True}
    new = {"a": [1, {"b": 3}, 4], "d": None, "same": {"x": 1}, "flag": 1}
    assert list(differences(old, new)) == [("a", 1, "b"), ("a", 2), ("c",), ("flag",), ("d",)]


def test_a_value_is_put_where_there_is_a_place_for_it() -> None:
    thing: dict[str, Any] = {"a": {}, "list": [1]}
    for path in ("a.b", "list[0]", "list[5]", "nowhere.c"):
        put(thing, parsed(path), 7)
    assert thing == {"a": {"b": 7}, "list": [7]}


def of(kind: str, status: dict[str, Any] | None = None, **spec: Any) -> dict[str, Any]:
    api, _, name = kind.rpartition("/")
    metadata: dict[str, Any] = {"name": "x", "namespace": "n", "generation": 2}
    return {"apiVersion": api, "kind": name, "metadata": metadata, "spec": spec, "status": status or {}}


def noted(thing: dict[str, Any], **notes: str) -> dict[str, Any]:
    annotations = {f"pulumi.com/{key}": value for key, value in notes.items()}
    return {**thing, "metadata": {**thing["metadata"], "annotations": annotations}}


def test_only_what_others_have_changed_has_drifted() -> None:
    asked = {
        "spec": {"cpu": "0.5", "replicas": 1, "gone": 1, "containers": [{"name": "b", "image": "1"}, {"name": "a"}]}
    }
    server_s = {
        "spec": {
            "cpu": "500m",
            "replicas": 1,
            "gone": 1,
            "policy": "x",
            "containers": [
                {"name": "a", "tty": False},
                {"name": "b", "image": "1", "tty": False},
                {"name": "injected"},
            ],
        }
    }
    changed = [
        {"name": "a", "tty": False},
        {"name": "b", "image": "2", "tty": False},
        {"name": "injected"},
        {"name": "new"},
    ]
    found = {"spec": {"cpu": "500m", "replicas": 3, "policy": "y", "containers": changed}}
    assert drifted(asked, server_s, found) == {
        "spec": {
            "cpu": "0.5",
            "replicas": 3,
            "containers": [{"name": "b", "image": "2"}, {"name": "a"}, {"name": "new"}],
        }
    }
    assert drifted(asked, server_s, server_s) is asked
    assert drifted({"a": ["x"]}, {"a": ["x"]}, {"a": ["y", "z"]}) == {"a": ["y", "z"]}


def test_an_ignored_change_stays_as_others_have_made_it() -> None:
    live = {"metadata": {"name": "x"}, "spec": {"replicas": 9, "other": 2}}
    wanted = {"metadata": {"name": "y"}, "spec": {"replicas": 1, "other": 1}}
    assert kept(wanted, live, ["spec.replicas", "spec.none", "metadata.name"]) == {
        "metadata": {"name": "y"}, "spec": {"replicas": 9, "other": 1},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "place", "replaces", "mutable"),
    [
        ("v1/ConfigMap", "data.a", True, ()),
        ("v1/ConfigMap", "data.a", False, ("ConfigMap",)),
        ("v1/Secret", "type", True, ("Secret",)),
        ("apps/v1/Deployment", "spec.selector.matchLabels.a", True, ()),
        ("apps/v1/Deployment", "spec.replicas", False, ()),
        ("apps/v1/StatefulSet", "spec.volumeClaimTemplates", True, ()),
        ("batch/v1/Job", "spec.template.spec.containers", True, ()),
        ("batch/v1/CronJob", "spec.jobTemplate", False, ()),
        ("rbac.authorization.k8s.io/v1/RoleBinding", "roleRef.name", True, ()),
        ("v1/Service", "metadata.name", True, ()),
        ("v1/Service", "metadata.labels.a", False, ()),
    ],
)
def test_what_takes_another_object(kind: str, place: str, replaces: bool, mutable: tuple[str, ...]) -> None:
    """As far as it is known without the server."""
    old, new = of(kind), of(kind)
    path = parsed(place)
    for thing, value in ((old, "1"), (new, "2")):
        holder = thing
        for step in path[:-1]:
            holder = holder.setdefault(str(step), {})
        holder[str(path[-1])] = value
    found = change(None, None, old, new, manager="m", force=False, mutable=mutable)
    assert found == Change(
        paths=(path,), replaces=(path,) if replaces else (), delete_first=replaces and place != "metadata.name"
    )


def test_what_has_a_name_of_pulumi_s_is_replaced_side_by_side() -> None:
    old, new = (noted(of("v1/ConfigMap"), autonamed="true") | {"data": {"a": value}} for value in "12")
    assert change(None, None, old, new, manager="m", force=False).delete_first is False
    served_elsewhere = {**old, "apiVersion": "v2"}
    assert change(None, None, old, served_elsewhere, manager="m", force=False) == Change()


def test_a_name_is_chosen_once() -> None:
    urn = URN.format("core/v1:Pod")
    first = objects.named({"spec": {}}, {}, urn, b"seed")
    name = first["metadata"]["name"]
    assert name.startswith("web-")
    assert len(name) == len("web-") + 8
    assert objects.named({"metadata": {"labels": {}}}, first, urn, b"other")["metadata"]["name"] == name
    assert objects.named({}, {}, urn, b"other")["metadata"]["name"] != name
    assert objects.named({"metadata": {"name": "own"}}, first, urn, b"")["metadata"] == {"name": "own"}
    assert objects.named({"metadata": {"generateName": "a-"}}, {}, urn, b"seed")["metadata"]["name"].startswith("a-")


@pytest.mark.parametrize(
    ("middle", "inputs", "token"),
    [
        ("core/v1:Pod", {}, Token("v1", "Pod")),
        ("apps/v1:Deployment", {"apiVersion": "apps/v1", "kind": "Deployment"}, Token("apps/v1", "Deployment")),
        ("apps/v1:DeploymentPatch", {"kind": "Deployment"}, Token("apps/v1", "Deployment", patch=True)),
        ("networking.k8s.io/v1:IngressPatch", {}, Token("networking.k8s.io/v1", "Ingress", patch=True)),
        ("example.com/v1:DispatchPatch", {"kind": "DispatchPatch"}, Token("example.com/v1", "DispatchPatch")),
        ("example.com/v1:AllowList", {"kind": "AllowList"}, Token("example.com/v1", "AllowList")),
    ],
)
def test_types_are_the_servers_kinds(middle: str, inputs: dict[str, Any], token: Token) -> None:
    assert token_of(URN.format(middle), inputs) == token


@pytest.mark.parametrize(
    "middle", ["core/v1:ConfigMapList", "helm.sh/v3:Release", "yaml/v2:ConfigFile", "kustomize/v2:Directory"]
)
def test_what_is_no_object_is_refused(middle: str) -> None:
    with pytest.raises(Unsupported, match="cannot make"):
        token_of(URN.format(middle), {})


def test_inputs_are_what_the_sdk_says() -> None:
    container = {"name": "a", "imagee": "x", "ports": [{"containerPort": "many"}]}
    inputs = {"metadata": {"name": "a"}, "spec": {"containers": [container]}}
    assert problems_of(URN.format("core/v1:Pod"), inputs) == [
        ("spec.containers[0].imagee", "ContainerArgs has no such property"),
        ("spec.containers[0].ports[0].containerPort", "it must be a whole number, and is 'many'"),
    ]
    assert problems_of(URN.format("example.com/v1:Own"), {"any": "thing"}) == []
    secret = {"metadata": {"name": "a"}, "stringData": {"key": ["hidden"]}}
    assert problems_of(URN.format("core/v1:Secret"), secret) == [("stringData.key", "it must be a string")]


def test_a_refusal_says_who_where_and_what_to_do_and_no_secret() -> None:
    def refused(status: int, **body: Any) -> Refused:
        return Refused(status, json.dumps(body).encode())

    causes = [
        {
            "reason": "FieldManagerConflict",
            "field": ".spec.replicas",
            "message": 'conflict with "kubectl" using apps/v1',
        }
    ]
    told = str(explained(refused(409, reason="Conflict", details={"causes": causes}), "update x", {}))
    assert "spec.replicas is kubectl's" in told
    assert "pulumi.com/patchForce" in told
    got = "&value.valueUnstructured{Value:42}"
    wrong = f"failed to create typed patch object (n/x; /v1, Kind=Secret): .data.a: expected string, got {got}"
    told = str(explained(refused(500, message=wrong), "create x", {}))
    assert (
        told == "kubernetes: cannot create x: data.a: expected string, got a value of another type. Mend the program."
    )
    got = '&value.valueUnstructured{Value:map[string]interface {}{"in it":"top-secret"}}'
    wrong = f"failed to create typed patch object (n/x; /v1, Kind=Secret): errors:\n  .data.a: got {got}\n  .b: no such field"
    told = str(explained(refused(500, message=wrong), "create x", {}))
    assert told.endswith("data.a: got a value of another type; b: no such field. Mend the program.")
    secret = {"kind": "Secret", "data": {"a": "Z2VoZWlt"}, "stringData": {"z": "hid", "b": "hidden"}}
    told = str(
        explained(refused(400, reason="BadRequest", message="not hidden, nor Z2VoZWlt or geheim"), "create x", secret)
    )
    assert "not [secret], nor [secret] or [secret]" in told


@pytest.fixture
def overloaded() -> Iterator[Callable[[list[int]], tuple[str, list[str]]]]:
    """A server that answers with these statuses, then with an object; and what it was asked."""
    started = []

    def start(statuses: list[int]) -> tuple[str, list[str]]:
        asked: list[str] = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked.append(self.path)
                status = statuses.pop(0) if statuses else 200
                body = (
                    b'{"resources": [{"kind": "Pod", "name": "pods", "namespaced": true}]}' if status == 200 else b"{}"
                )
                self.send_response(status)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        served = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        started.append(served)
        threading.Thread(target=served.serve_forever, daemon=True).start()
        return kubeconfig(f"http://127.0.0.1:{served.server_port}"), asked

    yield start
    for served in started:
        served.shutdown()
        served.server_close()


def kubeconfig(address: str, token: str = "t") -> str:  # noqa: S107
    return json.dumps({
        "current-context": "a", "clusters": [{"name": "c", "cluster": {"server": address}}],
        "contexts": [{"name": "a", "context": {"cluster": "c", "user": "u", "namespace": "mine"}}],
        "users": [{"name": "u", "user": {"token": token}}],
    })  # fmt: skip


def test_an_overloaded_server_is_asked_again_and_not_for_ever(
    overloaded: Callable[[list[int]], tuple[str, list[str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "FIRST_PAUSE_S", 0.001)
    config, asked = overloaded([429, 500, 503])
    kind = connected(config).kind("v1", "Pod")
    assert kind is not None
    assert kind.path("n", "x") == "api/v1/namespaces/n/pods/x"
    assert len(asked) == 4
    config, asked = overloaded([503] * 50)
    with pytest.raises(Unavailable, match="cannot look for kinds of v1"):
        connected(config).kind("v1", "Pod")
    assert len(asked) == server.ATTEMPTS
    config, asked = overloaded([404] * 50)
    assert connected(config).kind("v1", "Pod") is None
    assert len(asked) == 1, "a group that is not there, as of a definition that the program makes"


def test_what_is_wrong_with_a_kubeconfig_is_told_without_its_keys() -> None:
    assert connected(kubeconfig("https://a:1")).namespace == "mine"
    assert connected(kubeconfig("https://a:1"), namespace="other").namespace == "other"
    for text_, context in (
        (kubeconfig("https://a:1", "top-secret"), "none"),
        ("a: [top-secret\n", ""),
        ("/no/such/file", ""),
    ):
        with pytest.raises(SpecError, match="cannot use the kubeconfig") as caught:
            connected(text_, context)
        assert "top-secret" not in str(caught.value)


def test_settings_are_read_strictly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PULUMI_K8S_ENABLE_CONFIGMAP_MUTABLE", "true")
    found = settings({"enablePatchForce": "true", "kubeconfig": "x"})
    assert (found.flags["enablePatchForce"], found.mutable()) == (True, {"ConfigMap"})
    for wrong in ({"enablePatchForce": "perhaps"}, {"enableServerSideApply": "false"}):
        with pytest.raises(SpecError, match="cannot be configured"):
            settings(wrong)
    assert cluster_of({"kubeconfig": kubeconfig("https://a:1")}) == "https://a:1"
    assert cluster_of({"kubeconfig": "/no/such/file"}) == ""
