"""The API server, as far as the cluster's own parts need it: requests as JSON, and watches that begin again by themselves."""

from __future__ import annotations

import base64
import http.client
import json
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any
from urllib.parse import urlsplit

__all__ = ["Api", "Refused"]

TIMEOUT_S = 30.0
WATCH_S = 300
PAUSE_S = 1.0
Object = dict[str, Any]


class Refused(Exception):
    """The API server answered with an error. `status`: of HTTP."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status


class Api:
    """What the user of a kubeconfig file may do."""

    def __init__(self, kubeconfig: Path) -> None:
        told = json.loads(kubeconfig.read_text("utf-8"))
        cluster, user = told["clusters"][0]["cluster"], told["users"][0]["user"]
        where = urlsplit(cluster["server"])
        self._host, self._port = where.hostname or "", where.port or 443
        self._context = ssl.create_default_context(
            cadata=base64.b64decode(cluster["certificate-authority-data"]).decode("ascii")
        )
        with NamedTemporaryFile() as both:  # the library reads them from files only
            both.write(base64.b64decode(user["client-certificate-data"]) + base64.b64decode(user["client-key-data"]))
            both.flush()
            self._context.load_cert_chain(both.name)

    def ready(self) -> bool:
        """Does it say that it is ready?"""
        try:
            return self._send("GET", "/readyz", None, "", 2.0)[0] == 200
        except (OSError, http.client.HTTPException):
            return False

    def get(self, path: str) -> Any:
        """The object or list at `path`. Raises Refused, and OSError where nothing answers."""
        return self._call("GET", path)

    def text(self, path: str) -> str:
        """What is at `path`, as text: a pod's log. Raises as `get` does."""
        status, content = self._send("GET", path, None, "", TIMEOUT_S)
        if status >= 400:
            raise Refused(status, content.decode("utf-8", "replace"))
        return content.decode("utf-8", "replace")

    def create(self, path: str, body: Object) -> None:
        """Make `body` in the collection `path`; silent where one of its name is there."""
        try:
            self._call("POST", path, body)
        except Refused as error:
            if error.status != 409:
                raise

    def apply(self, path: str, body: Object) -> None:
        """Make `body` or bring what is there to it, by server-side apply."""
        self._call("PATCH", f"{path}?fieldManager=ekiben-cluster&force=true", body, "application/apply-patch+yaml")

    def delete(self, path: str) -> None:
        """Silent where it is gone."""
        try:
            self._call("DELETE", path)
        except Refused as error:
            if error.status != 404:
                raise

    def follow(self, path: str, changed: Callable[[dict[tuple[str, str], Object]], None]) -> None:
        """Call `changed` with all objects of the collection, by namespace and name, now and whenever one changes; for ever."""
        while True:
            with suppress(OSError, http.client.HTTPException, ValueError, Refused):
                listed = self.get(path)
                held = {_key(item): item for item in listed["items"]}
                changed(held)
                for event in self._watch(path, listed["metadata"]["resourceVersion"]):
                    if event["type"] == "ERROR":
                        break
                    if event["type"] == "DELETED":
                        held.pop(_key(event["object"]), None)
                    elif event["type"] != "BOOKMARK":
                        held[_key(event["object"])] = event["object"]
                    changed(held)
            time.sleep(PAUSE_S)

    def _watch(self, path: str, since: str) -> Iterator[Object]:
        connection = http.client.HTTPSConnection(
            self._host, self._port, timeout=WATCH_S + TIMEOUT_S, context=self._context
        )
        try:
            connection.request("GET", f"{path}?watch=1&resourceVersion={since}&timeoutSeconds={WATCH_S}")
            response = connection.getresponse()
            if response.status != 200:
                raise Refused(response.status, response.read().decode("utf-8", "replace"))
            while line := response.readline():
                yield json.loads(line)
        finally:
            connection.close()

    def _call(self, method: str, path: str, body: Object | None = None, kind: str = "application/json") -> Any:
        status, content = self._send(method, path, body, kind, TIMEOUT_S)
        if status >= 400:
            message = content.decode("utf-8", "replace")
            with suppress(ValueError, AttributeError):  # of what it does not know at all it says so in plain text
                message = json.loads(message).get("message", message)
            raise Refused(status, message)
        return json.loads(content)

    def _send(self, method: str, path: str, body: Object | None, kind: str, timeout_s: float) -> tuple[int, bytes]:
        connection = http.client.HTTPSConnection(self._host, self._port, timeout=timeout_s, context=self._context)
        try:
            data = None if body is None else json.dumps(body).encode()
            connection.request(method, path, body=data, headers={"Content-Type": kind} if data else {})
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()


def _key(item: Object) -> tuple[str, str]:
    return item["metadata"].get("namespace", ""), item["metadata"]["name"]
