"""The stand-in for Kubernetes under the real engine and a real API server: the life of a stack, and what is there at each step."""

from __future__ import annotations

import base64
import json
import urllib.error
from pathlib import Path

import pytest

from ekiben.engine import pulumi_cli
from tests.control_plane import ControlPlane

from .conftest import Project

pytestmark = [pytest.mark.engine, pytest.mark.timeout(900)]

PROGRAM = """
config = pulumi.Config()
place = kubernetes.core.v1.Namespace("place")
def named(name, **more):
    return {"namespace": place.metadata.name, "name": name, **more}
word = {"word": config.get("word") or "one"}
words = kubernetes.core.v1.ConfigMap("words", metadata={"namespace": place.metadata.name}, data=word)
keys = kubernetes.core.v1.Secret("keys", metadata=named("keys"), string_data={"password": "very-secret"})
web = kubernetes.apps.v1.Deployment("web", metadata=named("web", annotations=json.loads(config.get("notes") or "{}")), spec={
    "replicas": 0, "revision_history_limit": int(config.get("kept") or 10),
    "selector": {"match_labels": {"app": "web"}},
    "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{
        "name": "web", "image": "web:1", "resources": {"limits": {"cpu": "0.5", "memory": "1024Mi"}},
        "env_from": [{"config_map_ref": {"name": words.metadata.name}}, {"secret_ref": {"name": keys.metadata.name}}],
    }]}},
})
kinds = kubernetes.apiextensions.v1.CustomResourceDefinition("kinds", metadata={"name": f"boxes.{config.require('group')}"}, spec={
    "group": config.require("group"), "scope": "Namespaced", "names": {"plural": "boxes", "kind": "Box"},
    "versions": [{"name": "v1", "served": True, "storage": True, "schema": {"open_apiv3_schema": {"type": "object", "properties": {
        "spec": {"type": "object", "properties": {"size": {"type": "integer"}}}}}}}],
})
kubernetes.apiextensions.CustomResource("box", api_version=f"{config.require('group')}/v1", kind="Box", metadata=named("box"),
    spec={"size": 3}, opts=pulumi.ResourceOptions(depends_on=[kinds]))
files = kubernetes.yaml.ConfigGroup("files", yaml=[
    "apiVersion: rbac.authorization.k8s.io/v1\\nkind: ClusterRole\\nmetadata: {name: " + config.require("group") + "}\\n"
    "rules: [{apiGroups: [''], resources: [pods], verbs: [get]}]\\n"])
pulumi.export("namespace", place.metadata.name)
pulumi.export("words", words.metadata.name)
pulumi.export("password", keys.data["password"])
"""


@pytest.fixture
def project(tmp_path: Path, cli: pulumi_cli.Cli, api_server: ControlPlane) -> Project:
    environ = {"KUBECONFIG": str(api_server.kubeconfig)}
    return Project(tmp_path.resolve(), cli, environ, "kubernetes", "small:group: boxes.example.com")


def test_a_stack_lives_from_up_to_destroy(project: Project, api_server: ControlPlane) -> None:
    project.program(PROGRAM)
    project("up", "--yes")
    made = project.outputs()
    namespace = made["namespace"]
    inside = f"namespaces/{namespace}"
    words, keys = f"api/v1/{inside}/configmaps", f"api/v1/{inside}/secrets/keys"
    web = f"apis/apps/v1/{inside}/deployments/web"
    assert namespace.startswith("place-")
    assert api_server.call("GET", f"{words}/{made['words']}")["data"] == {"word": "one"}
    assert base64.b64decode(api_server.call("GET", keys)["data"]["password"]) == b"very-secret"
    assert api_server.call("GET", f"apis/boxes.example.com/v1/{inside}/boxes/box")["spec"] == {"size": 3}
    assert made["password"] == "[secret]"  # noqa: S105 -- what the engine shows of it
    state = project("stack", "export")
    assert "very-secret" not in state
    assert base64.b64encode(b"very-secret").decode() not in state

    # Nothing has changed; what the server writes in its own way is no change.
    assert set(project.changes("--refresh").values()) == {"refresh"}

    # In place, and another object: what is mounted by name is seen anew.
    project("config", "set", "word", "two")
    project("config", "set", "kept", "3")
    assert project.changes() == {"words": "replace", "web": "update"}
    project("up", "--yes")
    after = project.outputs()
    assert after["words"] != made["words"]
    assert [
        one["data"] for one in api_server.call("GET", words)["items"] if one["metadata"]["name"].startswith("words-")
    ] == [{"word": "two"}]

    # Who else has set a field is told, before anything is changed; it is taken over only by those who say so.
    edit = {"spec": {"revisionHistoryLimit": 7}}
    api_server.call("PATCH", f"{web}?fieldManager=somebody", edit, content="application/merge-patch+json")
    project("config", "set", "kept", "4")
    told = project("preview", fails=True)
    assert "spec.revisionHistoryLimit is somebody's" in told
    assert "pulumi.com/patchForce" in told
    project("config", "set", "notes", json.dumps({"pulumi.com/patchForce": "true"}))
    # What was deleted behind its back is found as well, and mended.
    api_server.call("DELETE", keys)
    project("up", "--yes", "--refresh")
    assert api_server.call("GET", web)["spec"]["revisionHistoryLimit"] == 4
    assert api_server.call("GET", keys)["type"] == "Opaque"

    project("destroy", "--yes")
    for path in (f"api/v1/{inside}", "apis/apiextensions.k8s.io/v1/customresourcedefinitions/boxes.boxes.example.com",
                 "apis/rbac.authorization.k8s.io/v1/clusterroles/boxes.example.com"):  # fmt: skip
        with pytest.raises(urllib.error.HTTPError, match="404"):
            api_server.call("GET", path)


def test_what_is_wrong_or_another_s_is_refused_and_what_is_there_is_imported(
    project: Project, api_server: ControlPlane
) -> None:
    theirs = {"metadata": {"name": "theirs", "labels": {"of": "others"}}, "data": {"a": "1"}}
    api_server.call("POST", "api/v1/namespaces/default/configmaps", theirs)
    project.program(
        "class Odd(pulumi.CustomResource):\n"
        "    def __init__(self, name, props):\n"
        '        super().__init__("kubernetes:core/v1:ConfigMap", name, props)\n'
        'Odd("a", {"dta": {"x": "y"}, "data": ["a"]})\n'
    )
    told = project("preview", fails=True)
    assert "ConfigMapInitArgs has no such property" in told
    assert "it must be a map" in told
    project.program('kubernetes.core.v1.ConfigMap("c", metadata={"name": "theirs"}, data={"a": "2"})\n')
    assert "this stack has not made it" in project("up", "--yes", fails=True)
    assert api_server.call("GET", "api/v1/namespaces/default/configmaps/theirs")["data"] == {"a": "1"}
    # By a provider of the program's own, which says where.
    project.program(
        f"cluster = kubernetes.Provider('cluster', kubeconfig=open({str(api_server.kubeconfig)!r}).read(), namespace='default')\n"
        'kubernetes.core.v1.ConfigMap("c", metadata={"name": "theirs", "labels": {"of": "others"}}, data={"a": "1"},\n'
        '    opts=pulumi.ResourceOptions(import_="default/theirs", provider=cluster))\n'
    )
    del project.env["KUBECONFIG"]
    project("up", "--yes")
    assert project.changes() == {}
    project("destroy", "--yes")
    with pytest.raises(urllib.error.HTTPError, match="404"):
        api_server.call("GET", "api/v1/namespaces/default/configmaps/theirs")
