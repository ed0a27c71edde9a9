"""Calls of an API server that is asked as any is, and what becomes of a connection that breaks off."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import ekiben as ek
from ekiben.kubernetes import client, runlogs
from ekiben.kubernetes.client import Cluster
from ekiben.kubernetes.keys import EARLIER
from tests.fakes import http

PODS, LOG = "/api/v1/namespaces/shop/pods", "/api/v1/namespaces/shop/pods/run-x-0/log"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name in ((client, "FIRST_PAUSE_S"), (runlogs, "LOOK_S")):
        monkeypatch.setattr(module, name, 0.01)


def cluster(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    config = {
        "current-context": "one", "clusters": [{"name": "one", "cluster": {"server": url}}],
        "contexts": [{"name": "one", "context": {"cluster": "one", "user": "me"}}],
        "users": [{"name": "me", "user": {"token": "t"}}],
    }  # fmt: skip
    path = tmp_path / "kubeconfig"
    path.write_text(json.dumps(config), encoding="utf-8")
    monkeypatch.setenv("KUBECONFIG", str(path))
    return Cluster("shop")


class Pods(http.Handler):
    """One pod a look, the last one for ever: its uid, its phase, its log, and how many of the log's bytes do not come."""

    looks: list[tuple[str, str, bytes, int]]

    def answer(self, path: str, query: dict[str, str], body: bytes) -> None:
        uid, phase, log, missing = self.looks[0]
        if path == LOG:
            self.close_connection = True
            self.reply(200, log[: len(log) - missing], {"Content-Length": str(len(log))})
            if len(self.looks) > 1:
                del self.looks[0]
        else:
            assert path == PODS
            meta = {"name": "run-x-0", "uid": uid, "creationTimestamp": "2026-01-01T00:00:00Z"}
            self.reply(200, json.dumps({"items": [{"metadata": meta, "status": {"phase": phase}}]}).encode())


@pytest.mark.parametrize(
    ("looks", "told"),
    [
        ([("1", "Running", b"a\nb\nc\n", 2), ("1", "Succeeded", b"a\nb\nc\n", 0)], ["a", "b", "c"]),
        # An end that looks like one: whoever is between has closed the connection.
        ([("1", "Running", b"a\n", 0), ("1", "Running", b"a\nb\n", 0), ("1", "Failed", b"a\nb\nc\n", 0)], ["a", "b", "c"]),
        (
            [("1", "Running", b"a\nb\n", 0), ("2", "Running", f"{EARLIER.format(2)}\na\nb\nc\n".encode(), 3),
             ("2", "Succeeded", f"{EARLIER.format(2)}\na\nb\nc\n".encode(), 0)],
            ["a", "b", "c"],
        ),
    ],
    ids=["cut off", "closed", "another pod"],
)  # fmt: skip
def test_a_log_that_breaks_off_goes_on_where_it_was(
    looks: list[tuple[str, str, bytes, int]], told: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = list(looks)
    handler = type("Told", (Pods,), {"looks": left})
    with http.serving(handler) as server:
        one = cluster(server.url, tmp_path, monkeypatch)
        lines = runlogs.lines(one, "run-x", 1, "read it", ended=lambda: len(left) == 1, follow=True)
        assert list(lines) == told


def test_the_log_of_a_container_that_is_gone_is_not_what_the_kubelet_says_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = b"unable to retrieve container logs for containerd://" + b"ac83760b" * 8

    class Kubelet(http.Handler):
        def answer(self, path: str, query: dict[str, str], body: bytes) -> None:
            self.reply(200, gone if query.get("previous") else b"it quotes: " + gone)

    with http.serving(Kubelet) as server:
        one = cluster(server.url, tmp_path, monkeypatch)
        with pytest.raises(ek.NotFound, match="the container of run-x-0 is gone"):
            list(one.log("run-x-0", "read it", previous=True))
        assert list(one.log("run-x-0", "read it")) == [b"it quotes: " + gone]


def test_what_goes_wrong_with_the_log_of_one_node_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Wrong(http.Handler):
        def answer(self, path: str, query: dict[str, str], body: bytes) -> None:
            self.reply(200, b'{"items": [{"metadata": {}}]}')

    with http.serving(Wrong) as server:
        one = cluster(server.url, tmp_path, monkeypatch)
        with pytest.raises(KeyError):
            list(runlogs.lines(one, "run-x", 2, "read it", ended=lambda: False, follow=True))


def test_what_changes_nothing_is_asked_again_and_what_was_refused_is_ours_to_tell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []

    class Server(http.Handler):
        def answer(self, path: str, query: dict[str, str], body: bytes) -> None:
            seen.append((self.command, path, query, body))
            status = 200 if "continue" not in query else 410
            self.reply(status, json.dumps({"items": [{"a": 1}], "metadata": {"continue": "x"}}).encode())

    with http.serving(Server) as server:
        server.fail = [500, 503]
        one = cluster(server.url, tmp_path, monkeypatch)
        found = one.list("Pod", "list them", labels={"app": "x"})
        assert next(found) == {"a": 1}
        with pytest.raises(ek.Unavailable, match="from the beginning"):
            next(found)
        server.fail = [500]
        with pytest.raises(ek.Unavailable, match="cannot make it"):
            one.create("Pod", {"a": 1}, "make it")
    assert seen[0] == ("GET", PODS, {"limit": "500", "labelSelector": "app=x"}, b"")
    assert len([one for one in server.seen if one[0] == "POST"]) == 1
    with pytest.raises(ek.Unavailable, match="does not answer"):
        cluster("http://127.0.0.1:1", tmp_path, monkeypatch).get("Pod", "x", "get it")
