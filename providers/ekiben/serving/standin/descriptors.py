"""What a method takes and gives, as pydantic models: BentoML's descriptors, so that the errors name the same models and fields."""

from __future__ import annotations

import inspect
import sys
import types
import typing
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Container, Generator, Iterator
from typing import Annotated, Any, ClassVar, Generic, TypeVar

from pydantic import BaseModel, Field, TypeAdapter, create_model

from .annotations import ContentType, is_file, origin_of, patched
from .plugins import spare_plugin_search

__all__ = ["ARGS", "KWARGS", "IODescriptor", "IOMixin", "IORootModel", "evaluated", "from_class"]

ARGS, KWARGS = "args", "kwargs"
ITERATORS = {Iterator, Generator, AsyncIterator, AsyncGenerator}
Root = TypeVar("Root")

spare_plugin_search()


class IOMixin:
    """Beside a pydantic model: its media type, and the fields that are files."""

    multipart_fields: ClassVar[list[str]] = []
    media_type: ClassVar[str | None] = None

    @classmethod
    def model_json_schema(cls, *args: Any, **kwargs: Any) -> dict[str, Any]:
        schema: dict[str, Any] = super().model_json_schema(*args, **kwargs)  # type: ignore[misc]
        if getattr(cls, "__root_input__", False):
            schema["root_input"] = True
        return schema

    @classmethod
    def mime_type(cls) -> str:
        if cls.media_type is not None:
            return cls.media_type
        if not issubclass(cls, IORootModel):
            return "multipart/form-data" if cls.multipart_fields else "application/json"
        schema = cls.model_json_schema()
        if schema.get("type") == "string":
            return "text/plain"
        if schema.get("type") == "file":
            if "content_type" in schema:
                return str(schema["content_type"])
            return (
                f"{kind}/*"
                if (kind := schema.get("format")) in ("image", "audio", "video")
                else "application/octet-stream"
            )
        return "application/json"

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        for info in getattr(cls, "__pydantic_fields__", {}).values():
            info.annotation, info.metadata = patched(info.annotation, info.metadata)
        return handler(source)

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        fields: dict[str, Any] = cls.model_fields  # type: ignore[attr-defined]
        cls.multipart_fields = [name for name, info in fields.items() if _has_files(info.annotation)]


def _has_files(annotation: Any) -> bool:
    """A file, a list of files, or one of these or None."""
    if origin_of(annotation) in (typing.Union, types.UnionType):
        given = [each for each in typing.get_args(annotation) if each is not type(None)]
        if len(given) != 1 or len(typing.get_args(annotation)) != 2:
            return False
        annotation = given[0]
    try:
        if issubclass(origin_of(annotation), list):
            annotation = (typing.get_args(annotation) or (Any,))[0]
        if typing.get_origin(annotation) is Annotated:
            annotation = typing.get_args(annotation)[0]
        return is_file(annotation)
    except TypeError:
        return False


class IODescriptor(IOMixin, BaseModel):
    """The arguments of a method, by name. A service may write its own, as `input_spec` or `output_spec`."""

    @classmethod
    def from_input(
        cls, func: Callable[..., Any], *, skip_self: bool = False, skip_names: Container[str] = ()
    ) -> type[Any]:
        """The model of what `func` takes. Raises TypeError."""
        namespace = _namespace(func)
        parameters = list(inspect.signature(func).parameters.items())[1 if skip_self else 0 :]
        fields: dict[str, Any] = {}
        first: Any = None
        for name, parameter in parameters:
            if name in skip_names:
                continue
            annotation = Any if parameter.annotation is parameter.empty else evaluated(parameter.annotation, namespace)
            if parameter.kind == parameter.POSITIONAL_ONLY and first is None:
                first = (annotation, parameter.default)
                continue
            if first is not None:
                raise TypeError("When positional-only argument is used, no other parameters can be specified")
            if parameter.kind == parameter.VAR_KEYWORD:
                name, annotation = KWARGS, dict[str, Any]
            elif parameter.kind == parameter.VAR_POSITIONAL:
                name, annotation = ARGS, list[annotation]  # type: ignore[valid-type]
            fields[name] = (annotation, Field() if parameter.default is parameter.empty else parameter.default)
        try:
            if first is not None:
                model = from_class(*first)
                model.__root_input__ = True
                model.media_type = _content_type(first[0])
                return model
            model = create_model("Input", __module__=func.__module__, __base__=IODescriptor, **fields)
            model.__inferred__ = True
            return model
        except (ValueError, TypeError) as error:
            raise TypeError(
                f"Unable to infer the input spec for function {func}, please specify input_spec manually"
            ) from error

    @classmethod
    def from_output(cls, func: Callable[..., Any]) -> type[Any]:
        """The model of what `func` gives, or yields. Raises TypeError."""
        annotation = inspect.signature(func).return_annotation
        annotation = Any if annotation is inspect.Signature.empty else evaluated(annotation, _namespace(func))
        media_type = None
        if origin_of(annotation) in ITERATORS:
            annotation = typing.get_args(annotation)[0]
        else:
            media_type = _content_type(annotation)
        try:
            model = from_class(annotation)
            model.media_type = media_type
            return model
        except (ValueError, TypeError) as error:
            raise TypeError(
                f"Unable to infer the output spec for function {func}, please specify output_spec manually"
            ) from error


class IORootModel(IODescriptor, Generic[Root]):
    """A model of one value, which is no model itself."""

    root: Root

    def __init__(self, root: Root) -> None:
        super().__init__(root=root)  # type: ignore[call-arg]

    @classmethod
    def model_json_schema(cls, *args: Any, **kwargs: Any) -> dict[str, Any]:
        info = cls.model_fields["root"]
        kind: Any = Annotated[(info.annotation, *info.metadata)] if info.metadata else info.annotation
        schema: dict[str, Any] = TypeAdapter[Any](kind).json_schema(*args, **kwargs)
        if getattr(cls, "__root_input__", False):
            schema["root_input"] = True
        return schema


def from_class(kind: Any, default: Any = inspect.Signature.empty) -> type[Any]:
    """The descriptor of a class or an annotation."""
    name = getattr(kind, "__name__", "")
    if inspect.isclass(kind) and not isinstance(kind, types.GenericAlias) and issubclass(kind, BaseModel):
        if issubclass(kind, IOMixin):
            return kind
        return create_model(f"{name}IODescriptor", __base__=(IOMixin, kind))
    root: Any = (kind, ... if default is inspect.Signature.empty else default)
    return create_model(f"{name}IODescriptor", __base__=IORootModel, root=root)


def evaluated(annotation: Any, namespace: dict[str, Any]) -> Any:
    """An annotation that was written as text, as what it names; left as it is where a name is not known (yet)."""
    holder = types.SimpleNamespace(__annotations__={"it": annotation})
    try:
        return typing.get_type_hints(holder, namespace, include_extras=True)["it"]
    except (NameError, TypeError, SyntaxError, AttributeError):
        return annotation


def _namespace(func: Callable[..., Any]) -> dict[str, Any]:
    module = sys.modules.get(func.__module__)
    return {} if module is None else module.__dict__


def _content_type(annotation: Any) -> str | None:
    found = [each for each in typing.get_args(annotation) if isinstance(each, ContentType)]
    return found[0].content_type if found else None
