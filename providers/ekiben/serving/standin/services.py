"""`bentoml.service`, `bentoml.api` and the hooks: what they make has the attributes of BentoML's own."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from .context import ServiceContext, server_context
from .descriptors import IODescriptor, IOMixin, evaluated, from_class
from .exceptions import BentoMLException
from .refusal import NeedsBentoML

__all__ = [
    "APIMethod",
    "Image",
    "Service",
    "api",
    "get_current_service",
    "on_deployment",
    "on_shutdown",
    "on_startup",
    "service",
]


class APIMethod:
    """A method that is served. Read from the class it is itself, read from an instance it is the bound function."""

    def __init__(
        self,
        func: Callable[..., Any],
        *,
        route: str | None = None,
        input_spec: Any = None,
        output_spec: Any = None,
        batchable: bool = False,
        batch_dim: int | tuple[int, int] = 0,
        max_batch_size: int = 100,
        max_latency_ms: int = 60000,
    ) -> None:
        self.func = func
        self.name, self.doc = func.__name__, func.__doc__
        self.route = f"/{func.__name__}" if route is None else route
        if not self.route.startswith("/"):
            raise ValueError("route must start with a leading slash")
        if max_batch_size <= 1:
            raise ValueError(f"'max_batch_size' must be > 1: {max_batch_size}")
        self.batchable, self.max_batch_size, self.max_latency_ms = batchable, max_batch_size, max_latency_ms
        self.batch_dim = batch_dim if isinstance(batch_dim, tuple) else (batch_dim, batch_dim)
        self.is_stream = inspect.isasyncgenfunction(func) or inspect.isgeneratorfunction(func)
        self.is_task = False
        self.ctx_param = _context_parameter(func)
        skipped = (self.ctx_param,) if self.ctx_param else ()
        self.input_spec = (
            IODescriptor.from_input(func, skip_self=True, skip_names=skipped)
            if input_spec is None
            else _descriptor(input_spec)
        )
        self.output_spec = IODescriptor.from_output(func) if output_spec is None else _descriptor(output_spec)
        if self.is_stream and not self.output_spec.media_type:
            self.output_spec.media_type = "text/event-stream"

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        if instance is None:
            return self
        parameters = list(inspect.signature(self.func).parameters.values())[1:]

        @functools.wraps(self.func)
        def bound(*args: Any, **kwargs: Any) -> Any:
            for parameter in parameters[len(args) :]:
                if parameter.name not in kwargs and isinstance(default := parameter.default, FieldInfo):
                    value = default.get_default(call_default_factory=True)
                    if value is not PydanticUndefined:
                        kwargs[parameter.name] = value
            return self.func(instance, *args, **kwargs)

        bound.local = bound  # type: ignore[attr-defined]
        return bound


def _descriptor(given: Any) -> Any:
    if not inspect.isclass(given):
        raise ValueError(f"{given} must be a class type")
    if not issubclass(given, BaseModel | dict):
        raise ValueError(f"{given} is not a valid IODescriptor accepted type.")
    return given if issubclass(given, IOMixin) else from_class(given)


def _context_parameter(func: Callable[..., Any]) -> str | None:
    parameters = inspect.signature(func).parameters
    name = "ctx" if "ctx" in parameters else "context"
    if name not in parameters:
        return None
    annotation = parameters[name].annotation
    module = sys.modules.get(func.__module__)
    known = evaluated(annotation, module.__dict__ if module else {})
    return name if annotation is inspect.Parameter.empty or known is ServiceContext else None


class Service:
    """A class that is served. Calling it makes the instance."""

    def __init__(
        self,
        inner: type,
        name: str,
        config: dict[str, Any],
        *,
        description: str | None = None,
        path_prefix: str = "",
        envs: list[dict[str, Any]] | None = None,
        labels: dict[str, str] | None = None,
        image: Any = None,
    ) -> None:
        self.inner, self.name, self.config = inner, name, config
        self.description, self.path_prefix = description, path_prefix
        self.envs, self.labels, self.image = envs or [], labels or {}, image
        self.context = ServiceContext()
        self.bento: Any = None
        found = {field: getattr(inner, field) for field in dir(inner)}
        self.apis: dict[str, APIMethod] = {
            field: method for field, method in found.items() if isinstance(method, APIMethod)
        }
        if hasattr(inner, "__command__"):
            raise NeedsBentoML("a command of its own")

    def __call__(self) -> Any:
        instance = self.inner()
        instance.bento_service = self
        return instance

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise NeedsBentoML(f"Service.{name}")


def service(
    inner: type | None = None,
    /,
    *,
    name: str | None = None,
    image: Any = None,
    description: str | None = None,
    path_prefix: str | None = None,
    envs: list[dict[str, Any]] | None = None,
    labels: dict[str, str] | None = None,
    cmd: list[str] | None = None,
    service_class: Any = None,
    **config: Any,
) -> Any:
    """`@bentoml.service`, with or without arguments."""
    if cmd is not None or service_class is not None:
        raise NeedsBentoML("a command of its own" if cmd is not None else "a class of service of its own")

    def decorator(inner: type) -> Service:
        if isinstance(inner, Service):
            raise TypeError("service() decorator can only be applied once")
        return Service(
            inner,
            name or inner.__name__,
            config,
            description=description,
            path_prefix=path_prefix or "",
            envs=envs,
            labels=labels,
            image=image,
        )

    return decorator if inner is None else decorator(inner)


def api(func: Callable[..., Any] | None = None, **options: Any) -> Any:
    """`@bentoml.api`, with or without arguments."""
    options.pop("name", None)  # BentoML takes it, and does nothing with it

    def decorator(func: Callable[..., Any]) -> APIMethod:
        if func.__name__.startswith("__"):
            raise ValueError("API methods cannot start with '__'")
        return APIMethod(func, **{key: value for key, value in options.items() if value is not None})

    return decorator if func is None else decorator(func)


def on_startup(func: Any) -> Any:
    func.__bentoml_startup_hook__ = True
    return func


def on_shutdown(func: Any) -> Any:
    func.__bentoml_shutdown_hook__ = True
    return func


def on_deployment(func: Any) -> Any:
    inner: Any = func.__func__ if isinstance(func, staticmethod) else func
    inner.__bentoml_deployment_hook__ = True
    return func if isinstance(func, staticmethod) else staticmethod(func)


class Image:
    """What a bento's image is made of is of no use to what runs it: each call is taken and forgotten."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def _taken(self, *args: Any, **kwargs: Any) -> Image:
        return self

    system_packages = requirements_file = pyproject_toml = uv_lock = _taken
    python_packages = run = run_script = build_include = _taken


_current: list[Any] = []


def get_current_service() -> Any:
    """The instance that is served. Raises BentoMLException before there is one."""
    if not _current:
        raise BentoMLException("service isn't instantiated yet")
    return _current[0]


def set_current(instance: Any, name: str) -> None:
    """What `get_current_service` gives from now on."""
    _current[:] = [] if instance is None else [instance]
    server_context.service_name = name
