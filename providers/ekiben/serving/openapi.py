"""The descriptions of a service: `/schema.json` as BentoML's client reads it, and `/docs.json` in OpenAPI 3.0."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

__all__ = ["document", "schema"]

REF = "#/components/schemas/{model}"
SUCCESS = "Successful Response"
APIS, INFRASTRUCTURE = "Service APIs", "Infrastructure"
TAGS = [
    {"name": APIS, "description": "BentoML Service API endpoints for inference."},
    {"name": INFRASTRUCTURE, "description": "Common infrastructure endpoints for observability."},
]
INFRASTRUCTURE_PATHS = {
    "/healthz": "Health check endpoint. Expecting an empty response with status code <code>200</code> when the service is in "
    "health state. The <code>/healthz</code> endpoint is <b>deprecated</b>. (since Kubernetes v1.16)",
    "/livez": "Health check endpoint for Kubernetes. Healthy endpoint responses with a <code>200</code> OK status.",
    "/readyz": "A <code>200</code> OK status from <code>/readyz</code> endpoint indicated the service is ready to accept "
    "traffic. From that point and onward, Kubernetes will use <code>/livez</code> endpoint to perform periodic health checks.",
    "/metrics": "Prometheus metrics endpoint. The <code>/metrics</code> responses with a <code>200</code>. The output can then "
    "be used by a Prometheus sidecar to scrape the metrics of the service.",
}
ERRORS = {
    "InvalidArgument": (400, "Bad Request"),
    "NotFound": (404, "Not Found"),
    "InternalServerError": (500, "Internal Server Error"),
}
# The keys of a schema that OpenAPI 3.0 has; the rest is for BentoML's client, in /schema.json.
KEYS = frozenset((
    "type", "title", "multipleOf", "maximum", "exclusiveMaximum", "minimum", "exclusiveMinimum", "maxLength", "minLength",
    "pattern", "maxItems", "minItems", "uniqueItems", "prefixItems", "maxProperties", "minProperties", "required", "enum",
    "allOf", "oneOf", "anyOf", "items", "properties", "additionalProperties", "description", "format", "default", "nullable",
    "discriminator", "readOnly", "writeOnly", "externalDocs", "example", "deprecated", "root_input",
))  # fmt: skip
STATES = ["in_progress", "success", "failure", "cancelled"]
DEFAULT_README = """\
# {name}:dev

[![pypi_status](https://img.shields.io/badge/BentoML-{bentoml}-informational)](https://pypi.org/project/BentoML)
[![documentation_status](https://readthedocs.org/projects/bentoml/badge/?version=latest)](https://docs.bentoml.com/)
[![join_slack](https://badgen.net/badge/Join/BentoML%20Slack/cyan?icon=slack)](https://l.bentoml.com/join-slack-swagger)
[![BentoML GitHub Repo](https://img.shields.io/github/stars/bentoml/bentoml?style=social)](https://github.com/bentoml/BentoML)
[![Twitter Follow](https://img.shields.io/twitter/follow/bentomlai?label=Follow%20BentoML&style=social)](https://twitter.com/bentomlai)

This is a Machine Learning Service created with BentoML.

## Help

* [📖 Documentation](https://docs.bentoml.com/en/latest/): Learn how to use BentoML.
* [💬 Community](https://l.bentoml.com/join-slack-swagger): Join the BentoML Slack community.
* [🐛 GitHub Issues](https://github.com/bentoml/BentoML/issues): Report bugs and feature requests.
* Tip: you can also [customize this README](https://docs.bentoml.com/en/latest/reference/bentoml/bento-build-options.html#description).
"""


def schema(service: Any) -> dict[str, Any]:
    """What BentoML's own client asks a server for."""
    from .application import join

    routes = []
    for method in service.apis.values():
        output = _flat_model(method.output_spec)
        if method.is_stream:
            output["is_stream"] = True
        if method.output_spec.media_type:
            output["media_type"] = method.output_spec.media_type
        routes.append(
            {
                "name": method.name, "route": join(service.path_prefix, method.route), "batchable": method.batchable,
                "input": _flat_model(method.input_spec), "output": output, "is_task": method.is_task,
            }
        )  # fmt: skip
    found = {"name": service.name, "type": "service", "routes": routes, "description": service.inner.__doc__}
    paths = {"paths": {route["route"]: {"mounted": False} for route in routes}}
    return {key: value for key, value in found.items() if value is not None} | paths


def document(service: Any, about: dict[str, str]) -> dict[str, Any]:
    """The service in OpenAPI. `about`: the bento's version and readme, where there is a bento."""
    readme = about.get("readme") or DEFAULT_README.format(name=service.name, bentoml=_bentoml_version())
    return {
        "openapi": "3.0.2",
        "info": {
            "title": service.name,
            "version": about.get("version") or "None",
            "description": readme,
            "contact": {"name": "BentoML Team", "email": "contact@bentoml.com"},
        },
        "paths": {**_infrastructure(), **{method.route: _path(service, method) for method in service.apis.values()}},
        "servers": [{"url": "."}],
        "tags": TAGS,
        "components": {"schemas": _components(service)},
    }


def _path(service: Any, method: Any) -> dict[str, Any]:
    content: dict[str, Any] = {"schema": _plain(method.input_spec)}
    kind = method.input_spec.mime_type()
    if kind == "multipart/form-data":
        plain = [name for name in method.input_spec.model_fields if name not in method.input_spec.multipart_fields]
        content["encoding"] = {name: {"contentType": "application/json"} for name in plain}
    if not content.get("encoding", True):
        del content["encoding"]
    answers = {
        "200": {
            "description": SUCCESS,
            "content": {method.output_spec.mime_type(): {"schema": _plain(method.output_spec)}},
        }
    }
    for name, (status, phrase) in ERRORS.items():
        body = {"application/json": {"schema": {"$ref": REF.format(model=name)}}}
        answers[str(status)] = {"description": phrase, "content": body}
    return {
        "post": {
            "responses": answers,
            "tags": [APIS],
            "x-bentoml-name": method.name,
            "description": method.doc or "",
            "requestBody": {"content": {kind: content}},
            "operationId": f"{service.name}__{method.name}",
        }
    }


def _infrastructure() -> dict[str, Any]:
    return {
        path: {
            "get": {
                "responses": {"200": {"description": SUCCESS}},
                "tags": [INFRASTRUCTURE],
                "description": text,
            }
        }
        for path, text in INFRASTRUCTURE_PATHS.items()
    }


def _components(service: Any) -> dict[str, Any]:
    from .standin.descriptors import IORootModel

    found: dict[str, Any] = {}
    for name, method in service.apis.items():
        for spec in (method.input_spec, method.output_spec):
            whole = spec.model_json_schema(ref_template=REF)
            nested = whole.pop("$defs", {})
            if not issubclass(spec, IORootModel):
                title = spec.__name__
                whole["title"] = title = f"{name}__{title}" if title in ("Input", "Output") else title
                found[title] = _told(whole)
            found.update({key: _told(each) for key, each in nested.items()})
    text = {"type": "string"}
    found["TaskStatusResponse"] = {
        "type": "object",
        "title": "TaskStatusResponse",
        "required": ["task_id", "status", "created_at", "executed_at"],
        "properties": {
            "task_id": {"title": "Task Id", **text},
            "status": {"enum": STATES, "title": "Status", **text},
            "created_at": {"title": "Created At", **text},
            "executed_at": {"anyOf": [text, {"type": "null"}], "title": "Executed At"},
        },
    }
    for name, (_, phrase) in ERRORS.items():
        found[name] = {
            "type": "object",
            "title": name,
            "required": ["error"],
            "properties": {"error": {"title": "Message", **text}, "detail": {"title": "Error Detail", **text}},
            "description": phrase,
        }
    return found


def _plain(spec: Any) -> dict[str, Any]:
    whole = spec.model_json_schema(ref_template=REF, mode="serialization")
    return _told(_flat({key: value for key, value in whole.items() if key in KEYS}, {}, 1))


def _told(found: dict[str, Any]) -> dict[str, Any]:
    """Without what is the default."""
    return {key: value for key, value in found.items() if value is not None and (key, value) != ("root_input", False)}


def _flat_model(spec: Any) -> dict[str, Any]:
    whole: dict[str, Any] = spec.model_json_schema()
    if not whole.get("properties"):
        return whole
    return _flat(whole, whole.pop("$defs", {}))


def _flat(found: dict[str, Any], defs: dict[str, Any], depth: int | None = None, above: int = 0) -> dict[str, Any]:
    """With its references put in, as deep as they go or `depth` says; of alternatives the first."""
    for several in ("allOf", "anyOf"):
        if several in found:
            found.update(found.pop(several)[0])
    if depth is not None and above >= depth:
        return found
    if "$ref" in found:
        name = found.pop("$ref").rpartition("/")[2]
        found.update(_flat(dict(defs[name]), defs, depth, above + 1) if name in defs else {})
    elif found.get("type") == "object" and "properties" in found:
        for key, value in found["properties"].items():
            found["properties"][key] = _flat(value, defs, depth, above + 1)
    elif found.get("type") == "array" and "items" in found:
        found["items"] = _flat(found["items"], defs, depth, above + 1)
    return found


def _bentoml_version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    with suppress(PackageNotFoundError):
        return version("bentoml")
    return "unknown"
