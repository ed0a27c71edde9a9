"""The Open Inference Protocol, version 2, as KServe and Triton speak it: /v2/models/{name}/infer and what is beside it.

A method is the model `{service}.{method}`. The service's own name, and the bento's, stand for `predict`, or for the only one.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from . import failures, inputs, tensors
from .columns import OUTPUT, named
from .contents import Form, refused
from .exchange import JSON, Exchange
from .standin.annotations import TensorSchema, is_file, origin_of

if TYPE_CHECKING:
    from .application import Application
    from .endpoint import Arguments, Endpoint

__all__ = ["Models"]

PREDICT = "predict"
HEADER_LENGTH = b"inference-header-content-length"
EXTENSIONS = ["binary_tensor_data"]
ANY_SHAPE = [-1]


class Models:
    """The methods of a service as models. `posts`: by their paths; `ready` answers whether the service is."""

    def __init__(self, application: Application, posts: Mapping[str, Endpoint], ready: Callable[..., None]) -> None:
        self._application, self._ready = application, ready
        service, about = application.service, application.about
        self._version = about.get("version") or "1"
        self._names = list(dict.fromkeys((service.name, about.get("name") or service.name)))
        self._paths = {endpoint.name: path for path, endpoint in posts.items()}
        self._endpoints = {endpoint.name: endpoint for endpoint in posts.values() if endpoint.answers_values}
        self._default = PREDICT if PREDICT in self._endpoints else next(iter(self._endpoints), "")
        if self._default != PREDICT and len(self._endpoints) != 1:
            self._default = ""

    def handle(self, exchange: Exchange, path: str) -> bool:
        """Answer what is under /v2; `path` is what comes after it. False: it is nothing of the protocol's."""
        exchange.form = Protocol()
        match path.split("/"):
            case [""] | ["", ""]:
                return _get(exchange, "/v2", self._server)
            case ["", "health", "live"]:
                return _get(exchange, "/v2/health/live", lambda: {"live": True})
            case ["", "health", "ready"]:
                return self._asked(exchange, "/v2/health/ready", {})
            case ["", "models", name, "versions", version, *rest] if rest in ([], ["ready"], ["infer"]):
                return self._model(exchange, name, version, rest)
            case ["", "models", name, *rest] if rest in ([], ["ready"], ["infer"]):
                return self._model(exchange, name, None, rest)
        exchange.form = None
        return False

    def _model(self, exchange: Exchange, name: str, version: str | None, rest: list[str]) -> bool:
        endpoint, why = self._endpoint(name, version)
        if endpoint is None:
            failures.answer_error(exchange, 404, why)
        elif not rest:
            return _get(exchange, "/v2/models", lambda: self._metadata(name, endpoint))
        elif rest == ["ready"]:
            return self._asked(exchange, "/v2/models/ready", {"name": name})
        elif exchange.method != b"POST":
            exchange.answer(405, JSON, b'{"error":"Method Not Allowed"}', [(b"allow", b"POST")])
        else:
            exchange.form, exchange.content_type = Infer(endpoint, name, self._version), JSON
            self._application.call(exchange, self._paths[endpoint.name], endpoint)
        return True

    def _endpoint(self, name: str, version: str | None) -> tuple[Endpoint | None, str]:
        """That of a model, or why there is none."""
        for each in self._names:
            method = self._default if name == each else name.removeprefix(f"{each}.")
            if method in self._endpoints and name in (each, f"{each}.{method}"):
                if version in (None, self._version):
                    return self._endpoints[method], ""
                return None, f"The model {name!r} has the version {self._version!r} alone."
        offered = ", ".join(f"{self._names[0]}.{each}" for each in self._endpoints) or "none"
        return None, f"There is no model {name[:80]!r} here. There are: {offered}."

    def _asked(self, exchange: Exchange, label: str, told: dict[str, Any]) -> bool:
        if exchange.method not in (b"GET", b"HEAD"):
            return _get(exchange, label, dict)
        exchange.endpoint = label
        self._ready(exchange, {**told, "ready": True})
        return True

    def _server(self) -> dict[str, Any]:
        return {"name": self._names[0], "version": self._version, "extensions": EXTENSIONS}

    def _metadata(self, name: str, endpoint: Endpoint) -> dict[str, Any]:
        return {
            "name": name, "versions": [self._version], "platform": "bentoml",
            "inputs": [told for each in endpoint.inputs for told in _inputs(each)],
            "outputs": _outputs(endpoint.method.output_spec),
        }  # fmt: skip


class Protocol(Form):
    """Errors as the protocol has them."""

    def __init__(self) -> None:
        self.answers = ()

    def told(self, error: Any) -> Any:
        if isinstance(error, list):
            return error[0]
        if "detail" not in error:
            return error
        where = (f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error["detail"])
        return {"error": "; ".join((error["error"], *where))}


class Infer(Protocol):
    """One call of a method."""

    writes = True

    def __init__(self, endpoint: Endpoint, name: str, version: str) -> None:
        super().__init__()
        self.endpoint, self._head = endpoint, {"model_name": name, "model_version": version}
        self._request = tensors.Request({})

    def read(self, exchange: Exchange) -> Arguments:
        if exchange.header(b"content-encoding"):
            raise refused(415, "The content is encoded. Send it as it is.")
        length = exchange.header(HEADER_LENGTH)
        if length and not (length.isdigit() and len(length) < 19):
            raise refused(400, "Inference-Header-Content-Length is no number.")
        self._request = tensors.read(exchange.body, int(length) if length else None)
        return inputs.arguments(self.endpoint, tensors.Tensors(self._request.tensors))

    def write(self, output: Any) -> tuple[bytes, bytes, list[tuple[bytes, bytes]]]:
        if is_file(type(output)):
            raise refused(406, "The method gives a file, which is no tensor. Call it by its own route.")
        request, found = self._request, named(self.endpoint.writer.value(output))
        wanted = request.wanted or dict.fromkeys(found, request.binary)
        if missing := [name for name in wanted if name not in found]:
            raise refused(400, f"The model has no output {missing[0][:80]!r}. It has: {', '.join(found)}.")
        head = self._head if request.id is None else {**self._head, "id": request.id}
        body, length = tensors.answered(head, ((name, found[name], binary) for name, binary in wanted.items()))
        if length is None:
            return JSON, body, []
        return b"application/octet-stream", body, [(HEADER_LENGTH, b"%d" % length)]


def _get(exchange: Exchange, label: str, what: Callable[[], Any]) -> bool:
    exchange.endpoint = label
    if exchange.method in (b"GET", b"HEAD"):
        failures.answer_json(exchange, 200, what())
    else:
        exchange.answer(405, JSON, b'{"error":"Method Not Allowed"}', [(b"allow", b"GET, HEAD")])
    return True


def _inputs(each: inputs.Input) -> list[dict[str, Any]]:
    """What is told of a parameter. A table's columns are inputs of their own, as far as they are declared."""
    if each.kind == inputs.ARRAY:
        return [_of_array(each.name, each.schema)]
    if each.kind == inputs.FRAME:
        return [_told(str(name), "FP64", ANY_SHAPE) for name in each.schema.columns or ()]
    if each.kind == inputs.ROWS:
        row = inputs.row_of(each.annotation)
        return _fields(row) if issubclass(row, BaseModel) else []
    return [_of_value(each.name, each.annotation, [1])]


def _outputs(spec: Any) -> list[dict[str, Any]]:
    if "root" not in spec.model_fields or len(spec.model_fields) != 1:
        return _fields(spec, [1])
    info = spec.model_fields["root"]
    if (schema := inputs.schema_of(info.annotation, info.metadata)) is not None:
        return [_of_array(OUTPUT, schema)] if isinstance(schema, TensorSchema) else []
    if (row := inputs.row_of(info.annotation)) is not None:
        return _fields(row) if issubclass(row, BaseModel) else []
    origin = origin_of(info.annotation)
    if inspect.isclass(origin) and issubclass(origin, Mapping):
        return []
    return [_of_value(OUTPUT, info.annotation, [1])]


def _fields(model: Any, shape: list[int] = ANY_SHAPE) -> list[dict[str, Any]]:
    found = []
    for name, info in model.model_fields.items():
        schema = inputs.schema_of(info.annotation, info.metadata)
        array = isinstance(schema, TensorSchema)
        found.append(_of_array(name, schema) if array else _of_value(name, info.annotation, shape))
    return found


def _of_array(name: str, schema: TensorSchema) -> dict[str, Any]:
    dtype = tensors.NAMES.get(schema.dtype or "float64", tensors.BYTES)
    return _told(name, dtype, ANY_SHAPE if schema.shape is None else list(schema.shape))


def _of_value(name: str, annotation: Any, shape: list[int]) -> dict[str, Any]:
    args = typing.get_args(annotation)
    if origin_of(annotation) is list and args:
        annotation, shape = args[0], ANY_SHAPE
    kinds = {bool: "BOOL", int: "INT64", float: "FP64"}
    return _told(name, kinds.get(annotation, tensors.BYTES), shape)


def _told(name: str, datatype: str, shape: list[int]) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape}
