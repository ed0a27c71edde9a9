"""Calls of the API server: objects by kind as plain JSON, time limits, bounded retries, pages followed, errors translated.

Outside of a cluster the kubeconfig says where and who (KUBECONFIG, else ~/.kube/config): lightkube reads it, with its
certificates, tokens and login programs. In a pod with a token it is the pod's own, by the standard library alone.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import ssl
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode

from ekiben.errors import AccessDenied, MissingDependency, NotFound, SpecError
from ekiben.kubernetes.errors import error_of, unanswered
from ekiben.waiting import patiently, retry_after_s

__all__ = ["KINDS", "KUBECONFIG", "Answer", "Cluster", "inside"]

CONNECT_TIMEOUT_S, READ_TIMEOUT_S = 5.0, 30.0
ATTEMPTS, FIRST_PAUSE_S = 4, 0.2
# The server has not begun with these; of the others it is not known, so only what changes nothing is sent again.
NOT_BEGUN = (429, 503)
PAGE = 500
# What the kubelet answers in place of a log, with 200 (kubernetes, pkg/kubelet/kuberuntime/kuberuntime_container.go).
GONE = re.compile(rb"unable to retrieve container logs for [a-z-]+://[0-9a-f]{64}")
KUBECONFIG = "~/.kube/config"
TOKEN = Path("/var/run/secrets/kubernetes.io/serviceaccount")
MERGE, STRATEGIC, JSON_PATCH = (
    f"application/{kind}+json" for kind in ("merge-patch", "strategic-merge-patch", "json-patch")
)

# Kind -> where its objects are, below the server and then below the namespace.
KINDS: Mapping[str, tuple[str, str]] = {
    "ConfigMap": ("api/v1", "configmaps"),
    "Event": ("api/v1", "events"),
    "Node": ("api/v1", "nodes"),
    "Pod": ("api/v1", "pods"),
    "Secret": ("api/v1", "secrets"),
    "Service": ("api/v1", "services"),
    "Deployment": ("apis/apps/v1", "deployments"),
    "HorizontalPodAutoscaler": ("apis/autoscaling/v2", "horizontalpodautoscalers"),
    "Job": ("apis/batch/v1", "jobs"),
    "TrainJob": ("apis/trainer.kubeflow.org/v1alpha1", "trainjobs"),
    "TrainingRuntime": ("apis/trainer.kubeflow.org/v1alpha1", "trainingruntimes"),
    "KnativeRevision": ("apis/serving.knative.dev/v1", "revisions"),
    "KnativeService": ("apis/serving.knative.dev/v1", "services"),
    "HTTPRoute": ("apis/gateway.networking.k8s.io/v1", "httproutes"),
}


class Answer(NamedTuple):
    """An answer of the server: its status, its headers (names in lower case), its body."""

    status: int
    headers: dict[str, str]
    body: bytes


class Request(NamedTuple):
    """What is asked of the server. timeout_s: of each read; None waits as long as it takes, as for a log that goes on."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes
    timeout_s: float | None


class _Refused(Exception):
    """An answer that says no."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.status)
        self.answer, self.retry_after_s = answer, retry_after_s(answer.headers.get("retry-after", ""))


class Cluster:
    """A namespace of the cluster that `context` of the kubeconfig names; empty is its current one. Making one calls nothing."""

    def __init__(self, namespace: str, context: str = "") -> None:
        self.namespace, self._context = namespace, context

    def get(self, kind: str, name: str, to: str) -> dict[str, Any]:
        """An object. Raises NotFound. `to` completes "cannot ..." in errors, here and below."""
        return self._json("GET", self.path(kind, name), to)

    def list(
        self, kind: str, to: str, *, labels: Mapping[str, str] | str = "", fields: str = ""
    ) -> Iterator[dict[str, Any]]:
        """The objects of the kind with these labels (or this selector) and fields, over all pages."""
        selector = labels if isinstance(labels, str) else ",".join(f"{key}={value}" for key, value in labels.items())
        asked = {"limit": str(PAGE), "labelSelector": selector, "fieldSelector": fields}
        yield from self.pages(self.path(kind), to, asked)

    def pages(self, path: str, to: str, asked: Mapping[str, str]) -> Iterator[dict[str, Any]]:
        """The items of a list at a path of the server."""
        query = {name: value for name, value in asked.items() if value}
        while True:
            page = self._json("GET", path, to, query=query)
            yield from page.get("items") or ()
            if not (following := (page.get("metadata") or {}).get("continue")):
                return
            query = {**query, "continue": str(following)}

    def create(self, kind: str, thing: Mapping[str, Any], to: str) -> dict[str, Any]:
        """Make an object. Raises AlreadyExists."""
        return self._json("POST", self.path(kind), to, thing)

    def patch(self, kind: str, name: str, change: Any, to: str, *, how: str = MERGE) -> dict[str, Any]:
        """Change an object. With its resourceVersion in `change` it raises PreconditionFailed where somebody was quicker."""
        return self._json("PATCH", self.path(kind, name), to, change, content=how)

    def delete(self, kind: str, name: str, to: str) -> None:
        """Delete an object with all that belongs to it; silent where there is none."""
        with suppress(NotFound):
            self.delete_at(self.path(kind, name), to)

    def delete_at(self, path: str, to: str) -> None:
        """Delete what is at a path of the server. Raises NotFound."""
        self._json("DELETE", path, to, {"propagationPolicy": "Background"})

    def read(self, path: str, to: str, query: Mapping[str, str] | None = None) -> dict[str, Any]:
        """What the server tells at a path, such as what kinds it has."""
        return self._json("GET", path, to, query=query)

    def whoami(self, to: str) -> str:
        """Whose credentials these are, as the cluster knows them."""
        review = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
        told = self._json("POST", "apis/authentication.k8s.io/v1/selfsubjectreviews", to, review)
        return str(told["status"]["userInfo"].get("username", ""))

    def log(
        self, pod: str, to: str, *, follow: bool = False, tail: int = 0, container: str = "", previous: bool = False
    ) -> Iterator[bytes]:
        """The lines of a pod's log, without newlines; with `follow` until it has ended, with `previous` of the container that ended
        before this one. Raises NotFound, also of a container that is gone, and ProviderError where there was no previous one."""
        asked = {
            "follow": "true" if follow else "", "tailLines": str(tail) if tail else "", "container": container,
            "previous": "true" if previous else "",
        }  # fmt: skip
        query = {name: value for name, value in asked.items() if value}
        timeout_s = None if follow else READ_TIMEOUT_S
        request = Request("GET", f"{self.path('Pod', pod)}/log", query, {}, b"", timeout_s)
        for number, line in enumerate(_lines(self._transport(to).stream(request, to))):
            if not number and GONE.fullmatch(line):
                raise NotFound("kubernetes", to, f"the container of {pod} is gone, and its log with it")
            yield line

    def proxied(
        self,
        service: str,
        method: str,
        path: str,
        to: str,
        *,
        body: bytes,
        headers: Mapping[str, str],
        timeout_s: float,
        query: Mapping[str, str] | None = None,
    ) -> Answer:
        """An answer of a Service ("NAME:PORT"), asked through the API server. What the service says is not translated."""
        at = f"{self.path('Service', service)}/proxy/{path.lstrip('/')}"
        return self._transport(to).send(Request(method, at, query or {}, headers, body, timeout_s))

    def proxied_pod(self, pod: str, path: str, to: str, *, timeout_s: float) -> Answer:
        """What a pod ("NAME:PORT") tells at a path, asked through the API server."""
        at = f"{self.path('Pod', pod)}/proxy/{path.lstrip('/')}"
        return self._transport(to).send(Request("GET", at, {}, {}, b"", timeout_s))

    def path(self, kind: str, name: str = "") -> str:
        root, plural = KINDS[kind]
        at = f"{root}/{plural}" if kind == "Node" else f"{root}/namespaces/{self.namespace}/{plural}"
        return f"{at}/{name}" if name else at

    def _json(
        self,
        method: str,
        path: str,
        to: str,
        body: Any = None,
        *,
        query: Mapping[str, str] | None = None,
        content: str = "",
    ) -> dict[str, Any]:
        headers = {"accept": "application/json", "content-type": content or "application/json", "user-agent": "ekiben"}
        data = json.dumps(body, allow_nan=False).encode() if body is not None else b""
        request = Request(method, path, query or {}, headers, data, READ_TIMEOUT_S)

        def told() -> dict[str, Any]:
            answer = self._transport(to).send(request)
            if answer.status >= 300:
                raise _Refused(answer)
            return dict(json.loads(answer.body or b"{}"))

        def again(error: Exception) -> bool:
            if isinstance(error, _Refused):
                return error.answer.status in NOT_BEGUN or (method == "GET" and error.answer.status >= 500)
            return method == "GET" and isinstance(error, ConnectionError)

        try:
            return patiently(told, again, ATTEMPTS, FIRST_PAUSE_S)
        except _Refused as refused:
            raise error_of(refused.answer.status, refused.answer.body, to) from None
        except ConnectionError as problem:
            raise unanswered(problem, to) from problem

    def _transport(self, to: str) -> _Inside | _Outside:
        """Made once for a kubeconfig as it is now: making one reads files, and reads certificates."""
        config = Path(os.environ.get("KUBECONFIG") or KUBECONFIG).expanduser()
        with _making:
            if not os.environ.get("KUBECONFIG") and (TOKEN / "token").is_file():
                return _Inside()
            try:
                key = (str(config), config.stat().st_mtime_ns, self._context)
            except OSError as error:
                raise AccessDenied(
                    "kubernetes",
                    to,
                    f"there is no kubeconfig {str(config)!r}",
                    "Set KUBECONFIG to one that reaches the cluster",
                ) from error
            if key not in _known:
                _known[key] = _Outside(config, self._context)
            return _known[key]


def inside() -> bool:
    """Is this a pod of a cluster? Then services are reached by their names."""
    return bool(os.environ.get("KUBERNETES_SERVICE_HOST"))


class _Outside:
    """The server of a kubeconfig."""

    def __init__(self, config: Path, context: str) -> None:
        try:
            import httpx2
            from lightkube.config.client_adapter import Client, ConnectionParams
            from lightkube.config.kubeconfig import KubeConfig
            from lightkube.core.exceptions import ConfigError
        except ImportError as error:
            raise MissingDependency("lightkube", "kubernetes") from error
        timeout = httpx2.Timeout(READ_TIMEOUT_S, connect=CONNECT_TIMEOUT_S)
        try:
            chosen = KubeConfig.from_file(config).get(context or None)
            if chosen is None:
                raise SpecError(
                    f"The kubeconfig {str(config)!r} has no current context. Name one in the stack's config."
                )
            self._client: Any = Client(chosen, ConnectionParams(timeout=timeout))
        except (ConfigError, KeyError, OSError, ValueError) as error:
            raise SpecError(f"The kubeconfig {str(config)!r} cannot be used: {error}.") from error
        self._failed = httpx2.HTTPError
        self._timeout = httpx2.Timeout

    def send(self, request: Request) -> Answer:
        """Raises ConnectionError where there is no answer."""
        try:
            told = self._client.send(self._built(request))
        except self._failed as error:
            raise ConnectionError(str(error) or type(error).__name__) from error
        return Answer(told.status_code, {name.lower(): value for name, value in told.headers.items()}, told.content)

    def stream(self, request: Request, to: str) -> Iterator[bytes]:
        try:
            told = self._client.send(self._built(request), stream=True)
            try:
                if told.status_code >= 300:
                    raise error_of(told.status_code, told.read(), to)
                yield from told.iter_bytes()
            finally:
                told.close()
        except self._failed as error:
            raise unanswered(error, to) from error

    def _built(self, request: Request) -> Any:
        return self._client.build_request(
            request.method,
            request.path,
            params=dict(request.query),
            headers=dict(request.headers),
            content=request.body or None,
            timeout=self._timeout(request.timeout_s, connect=CONNECT_TIMEOUT_S),
        )


class _Inside:
    """The server of the cluster that this pod is in, with the pod's own token, which is read anew each time: it changes."""

    def send(self, request: Request) -> Answer:
        """Raises ConnectionError where there is no answer."""
        try:
            with self._answer(request) as told:
                return Answer(told.status, {name.lower(): value for name, value in told.getheaders()}, told.read())
        except (OSError, http.client.HTTPException) as error:
            raise ConnectionError(str(error) or type(error).__name__) from error

    def stream(self, request: Request, to: str) -> Iterator[bytes]:
        try:
            with self._answer(request) as told:
                if told.status >= 300:
                    raise error_of(told.status, told.read(), to)
                while block := told.read1(65536):
                    yield block
        except (OSError, http.client.HTTPException) as error:
            raise unanswered(error, to) from error

    @staticmethod
    @contextmanager
    def _answer(request: Request) -> Iterator[http.client.HTTPResponse]:
        host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ.get("KUBERNETES_SERVICE_PORT", "443")
        trust = ssl.create_default_context(cafile=str(TOKEN / "ca.crt"))
        at = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        connection = http.client.HTTPSConnection(at, timeout=CONNECT_TIMEOUT_S, context=trust)
        token = (TOKEN / "token").read_text(encoding="ascii").strip()
        target = f"/{request.path}?{urlencode(request.query)}" if request.query else f"/{request.path}"
        headers = {**request.headers, "authorization": f"Bearer {token}"}
        try:
            connection.connect()
            connection.sock.settimeout(request.timeout_s)
            connection.request(request.method, target, body=request.body, headers=headers)
            yield connection.getresponse()
        finally:
            connection.close()


_known: dict[tuple[str, int, str], _Outside] = {}
_making = threading.Lock()


def _lines(blocks: Iterator[bytes]) -> Iterator[bytes]:
    rest = b""
    for block in blocks:
        *whole, rest = (rest + block).split(b"\n")
        yield from whole
    if rest:
        yield rest
