"""An API server through which the MLflow of a stack is asked, and an MLflow that lets nobody in."""

from __future__ import annotations

import base64
import json
import urllib.request

from tests.fakes.http import Handler

__all__ = ["Cluster", "kubeconfig"]


class Cluster(Handler):
    """An API server that has Secrets, and passes on what is for the stack's own MLflow; and an MLflow that asks who comes."""

    behind = ""
    secrets: dict[str, dict[str, str]] = {}
    logins: list[str] = []

    def answer(self, path: str, query: dict[str, str], body: bytes) -> None:
        place, _, rest = self.path.lstrip("/").partition("/proxy/")
        if rest:
            assert place == "api/v1/namespaces/shop-dev/services/ekiben-mlflow:5000"
            headers = {"content-type": "application/json"}
            asked = urllib.request.Request(f"{self.behind}/{rest}", body or None, headers, method=self.command)
            with urllib.request.urlopen(asked, timeout=60) as told:
                self.reply(200, told.read())
        elif "/secrets/" in path:
            data = self.secrets.get(path.rpartition("/")[2])
            encoded = {key: base64.b64encode(value.encode()).decode() for key, value in (data or {}).items()}
            self.reply(200 if data is not None else 404, json.dumps({"data": encoded}).encode())
        else:
            self.logins.append(self.headers.get("authorization", ""))
            refused = {"error_code": "PERMISSION_DENIED", "message": "You\nmay not"}
            told = {"/login": (302, b""), "/html": (200, b"<html>")}.get(path.partition("/api")[0])
            status, said = told or (403, json.dumps(refused).encode())
            self.reply(status, said, {"location": "http://127.0.0.1/"} if status == 302 else None)


def kubeconfig(url: str) -> str:
    """That leads to the server at the URL."""
    return json.dumps(
        {
            "apiVersion": "v1", "kind": "Config", "current-context": "one",
            "clusters": [{"name": "one", "cluster": {"server": url}}],
            "users": [{"name": "one", "user": {}}],
            "contexts": [{"name": "one", "context": {"cluster": "one", "user": "one"}}],
        }
    )  # fmt: skip
