"""A function on the real cluster: its own pod under Pod Security "restricted", called through the API server, started by data."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import pytest

import ekiben as ek
from ekiben import packing
from ekiben.kubernetes import bootstrap
from ekiben.kubernetes.facts import FunctionFacts
from ekiben.kubernetes.function import Function
from ekiben.kubernetes.pods import pod, s3_variables, secret_variable, variable
from tests.waiting import until

from .conftest import platform
from .stack import Stack

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

MAIN = """
def handler(event, runtime):
    print("handles", event.type, event.subject)
    if event.data.get("fail"):
        raise ValueError("no: 駅弁")
    return {"type": event.type, "x": event.data.get("x")}
"""


@pytest.fixture
def function(stack: Stack, tmp_path: Path) -> Function:
    """As the deploy face leaves it, with a name and a prefix of its own for each try."""
    name = f"watch-{uuid.uuid4().hex[:6]}"
    (tmp_path / "main.py").write_text(MAIN, encoding="utf-8")
    bundle = packing.function_bundle(tmp_path, "kubernetes")
    stack.store.put(f"{stack.bucket}/code/{name}.tar", bundle.path.read_bytes())
    on: list[dict[str, Any]] = [
        {"type": "Http"},
        {"type": "NewData", "storage": "lake", "prefix": f"{name}/", "suffix": "", "uri": stack.bucket},
    ]
    facts = FunctionFacts(
        namespace=stack.namespace, service=name, s3=stack.s3, deliveries_uri=f"{stack.bucket}/deliveries/{name}",
        bus=f"{stack.bucket}/deliveries/_events", token_secret=f"{name}-token", on=on, timeout_s=60, retries=0,
        url=f"http://{name}.{stack.namespace}.svc:8080",
    )  # fmt: skip
    stack.make("Secret", {"metadata": {"name": f"{name}-token"}, "stringData": {"token": "of-the-test"}})
    shape = pod(
        "function", stack.image, vcpu=0.2, memory_mib=512, command=bootstrap.command("ekiben.kubernetes.handler"),
        variables=[
            *s3_variables(stack.s3), *bootstrap.variables(f"{stack.bucket}/code/{name}.tar", bundle.sha256, "_ekiben"),
            variable("EKIBEN_PLATFORM", platform().to_json()), variable("EKIBEN_FUNCTION", facts.to_json()),
            variable("EKIBEN_FUNCTION_NAME", name), secret_variable("EKIBEN_SERVER_TOKEN", f"{name}-token", "token"),
        ],
        ports=[{"containerPort": 8080}],
    )  # fmt: skip
    shape["containers"][0]["readinessProbe"] = {"tcpSocket": {"port": 8080}, "periodSeconds": 1}
    labels = {"app": name}
    spec = {"selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": shape}}
    stack.make("Deployment", {"apiVersion": "apps/v1", "metadata": {"name": name}, "spec": spec})
    ports = [{"name": "http", "port": 8080}]
    stack.make("Service", {"metadata": {"name": name}, "spec": {"selector": labels, "ports": ports}})
    until(
        lambda: (stack.api.get("Deployment", name, "look").get("status") or {}).get("readyReplicas"),
        "the function's pod is ready",
    )
    return Function(
        ek.Part(name=name, kind="function", provider="kubernetes", ref=name, facts=facts.to_dict()), platform()
    )


def test_a_function_is_called_and_started_by_data(stack: Stack, function: Function) -> None:
    assert function.call({"x": 1}) == {"type": "Http", "x": 1}
    with pytest.raises(ek.FunctionFailed, match="ValueError: no: 駅弁") as failed:
        function.call({"fail": True})
    assert "Traceback" in failed.value.tail
    key = f"{function.part.name}/駅.csv"
    stack.store.put(f"{stack.bucket}/{key}", b"1")
    (done,) = until(lambda: function.deliveries("done"), "the data is handled")
    assert (done["event"]["type"], done["event"]["subject"], done["attempts"]) == ("NewData", key, 1)
    assert f"handles NewData {key}" in list(function.logs())
