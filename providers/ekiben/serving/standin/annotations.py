"""How arrays, frames, files and images are read from a request and written to an answer: BentoML's validators, by the same names.

numpy, pandas and Pillow are imported when a service's signature names them, which means that the service has imported them.
"""

from __future__ import annotations

import fnmatch
import io
import math
import os
import pathlib
import sys
import tempfile
import types
import typing
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import annotated_types
import typing_extensions
from pydantic_core import PydanticCustomError, core_schema

from .refusal import NeedsBentoML
from .sizes import check_frame, check_texts

__all__ = [
    "ContentType",
    "DType",
    "DataframeSchema",
    "FileSchema",
    "PILImageEncoder",
    "Shape",
    "TensorSchema",
    "is_file",
    "is_image",
    "origin_of",
    "patched",
]

PATHS = {
    pathlib.PurePath, pathlib.PurePosixPath, pathlib.PureWindowsPath,
    pathlib.Path, pathlib.PosixPath, pathlib.WindowsPath,
}  # fmt: skip
# What json.loads can give and a library cannot make an array or a frame of; with a plain ValueError pydantic answers 400.
UNFIT = (TypeError, OverflowError, AttributeError, KeyError, IndexError, RecursionError)
# Of a file's own name at the end of its path; file systems take 255 bytes for both.
MAX_NAME_BYTES = 200
# Of these no text has room in an array.
NUMBERS = frozenset((
    "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64",
))  # fmt: skip
CONTAINERS = (typing.Union, list, dict, *(
    getattr(typing, name) for name in (
        "List", "Dict", "AsyncGenerator", "AsyncIterable", "AsyncIterator", "Generator", "Iterable", "Iterator"
    )
))  # fmt: skip


@dataclass(frozen=True)
class ContentType(annotated_types.BaseMetadata):
    """The media type of a file, or of an answer."""

    content_type: str


@dataclass(frozen=True)
class Shape(annotated_types.BaseMetadata):
    """The shape that an array is given."""

    dimensions: tuple[int, ...]


@dataclass(frozen=True)
class DType(annotated_types.BaseMetadata):
    """The name of an array's type."""

    dtype: str


class _Converted:
    """Converted by `validate` and `encode`."""

    def validate(self, obj: Any) -> Any:
        raise NotImplementedError

    def encode(self, obj: Any, info: Any) -> Any:
        raise NotImplementedError

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> core_schema.CoreSchema:
        return core_schema.no_info_after_validator_function(
            self.validate,
            core_schema.any_schema(),
            serialization=core_schema.plain_serializer_function_ser_schema(self.encode, info_arg=True),
        )


@dataclass(frozen=True)
class TensorSchema(_Converted):
    """A NumPy array, as nested lists in JSON."""

    format: str
    dtype: str | None = None
    shape: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.format != "numpy-array":
            raise NeedsBentoML(f"arrays of the kind {self.format}")

    def validate(self, obj: Any) -> Any:
        import numpy

        if isinstance(obj, numpy.ndarray):
            return obj
        if self.dtype not in NUMBERS:
            check_texts(obj)
        try:
            array = numpy.array(obj, dtype=None if self.dtype is None else getattr(numpy, self.dtype))
        except UNFIT as error:
            raise ValueError(f"it cannot be made an array of {self.dtype}: {error}") from error
        return array if self.shape is None else array.reshape(self.shape)

    def encode(self, obj: Any, info: Any) -> Any:
        import numpy

        if not isinstance(obj, numpy.ndarray):
            raise AssertionError(f"a NumPy array was declared, and this is a {type(obj).__name__}")
        return obj.tolist() if info.mode_is_json() else obj

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> dict[str, Any]:
        value: dict[str, Any] = handler(schema)
        if handler.mode == "validation":
            dim = None if self.shape is None else math.prod(self.shape)
            more = {"type": "tensor", "format": self.format, "dtype": self.dtype, "shape": self.shape, "dim": dim}
            value.update({key: each for key, each in more.items() if each is not None})
        else:
            child: dict[str, Any] = {"type": "number"}
            for _ in range(1 if self.shape is None else len(self.shape)):
                child = {"type": "array", "items": child}
            value.update(child)
        return value


@dataclass(frozen=True)
class DataframeSchema(_Converted):
    """A pandas DataFrame, by rows (`records`) or by columns."""

    orient: str = "records"
    columns: Any = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "columns", tuple(self.columns) if self.columns else None)

    def validate(self, obj: Any) -> Any:
        import pandas

        if isinstance(obj, pandas.DataFrame):
            return obj
        check_frame(obj)
        try:
            return pandas.DataFrame(obj, columns=self.columns)
        except UNFIT as error:
            raise ValueError(f"it cannot be made a DataFrame: {error}") from error

    def encode(self, obj: Any, info: Any) -> Any:
        if not info.mode_is_json():
            return obj
        self._check_orient()
        return obj.to_dict(orient="records" if self.orient == "records" else "list")

    def _check_orient(self) -> None:
        if self.orient not in ("records", "columns"):
            raise ValueError("Only 'records' and 'columns' are supported for orient")

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> dict[str, Any]:
        value: dict[str, Any] = handler(schema)
        if handler.mode == "validation":
            value.update({"type": "dataframe", "orient": self.orient})
            if self.columns is not None:
                value["columns"] = self.columns
        else:
            self._check_orient()
            value.update(
                {"type": "array", "items": {"type": "object"}}
                if self.orient == "records"
                else {"type": "object", "additionalProperties": {"type": "array"}}
            )
        return value


@dataclass(frozen=True)
class FileSchema:
    """A file, which the method gets as a path in a folder of the request's own."""

    format: str = "binary"
    content_type: str | None = None

    def __post_init__(self) -> None:
        if self.content_type is not None:
            object.__setattr__(self, "format", self.content_type.split("/")[0])

    def decode(self, obj: Any) -> Any:
        from .context import request_temp_dir

        media_type = filename = None
        if isinstance(obj, pathlib.PurePath):
            return pathlib.Path(obj)
        if isinstance(obj, str):
            body = obj.encode("utf-8")
        elif is_upload(obj):
            body, filename, media_type = obj.file.read(), obj.filename, obj.content_type
        elif hasattr(obj, "read") and hasattr(obj, "seek"):
            body = obj.read()
            name = getattr(obj, "name", None)
            filename = os.path.basename(name) if name is not None else None
        elif isinstance(obj, bytes):
            body = obj
        else:
            raise PydanticCustomError("path_type", "Invalid file type")
        if media_type and self.content_type and not fnmatch.fnmatch(media_type, self.content_type):
            raise ValueError(f"Invalid content type {media_type}, expected {self.content_type}")
        suffix = os.path.basename(filename) if filename else ""
        if len(name := os.fsencode(suffix)) > MAX_NAME_BYTES and b"\0" not in name:
            suffix = name[-MAX_NAME_BYTES:].decode("utf-8", "ignore")
        with tempfile.NamedTemporaryFile(suffix=suffix, dir=request_temp_dir(), delete=False) as file:
            file.write(body)
        return pathlib.Path(file.name)

    def encode(self, obj: pathlib.Path) -> bytes:
        return obj.read_bytes()

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> core_schema.CoreSchema:
        return _decoded(self.decode, self.encode)

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> dict[str, Any]:
        value: dict[str, Any] = handler(schema)
        if handler.mode == "validation":
            value.update({"type": "file", "format": self.format})
            if self.content_type is not None:
                value["content_type"] = self.content_type
        else:
            value.update({"type": "string", "format": "binary"})
        return value


class PILImageEncoder:
    """A Pillow image, from an upload or from bytes."""

    def decode(self, obj: Any) -> Any:
        from PIL import Image

        try:
            if is_upload(obj):
                media_type = obj.headers.get("Content-Type", "")
                formats = [media_type[6:].upper()] if media_type.startswith("image/") else None
                return Image.open(obj.file, formats=formats)
            if not is_image(type(obj)) and hasattr(obj, "read") and hasattr(obj, "seek"):
                return Image.open(obj)
            return Image.open(io.BytesIO(obj)) if isinstance(obj, bytes) else obj
        except Exception as error:  # each of Pillow's formats fails in its own way
            raise ValueError("it is no image that can be read") from error

    def encode(self, obj: Any) -> bytes:
        buffer = io.BytesIO()
        obj.save(buffer, format=obj.format or "PNG")
        return buffer.getvalue()

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> core_schema.CoreSchema:
        return _decoded(self.decode, self.encode)

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> dict[str, Any]:
        value: dict[str, Any] = handler(schema)
        value.update(
            {"type": "file", "format": "image", "pil": True}
            if handler.mode == "validation"
            else {"type": "string", "format": "binary"}
        )
        return value


def _decoded(decode: Callable[[Any], Any], encode: Callable[[Any], Any]) -> core_schema.CoreSchema:
    return core_schema.no_info_after_validator_function(
        decode, core_schema.any_schema(), serialization=core_schema.plain_serializer_function_ser_schema(encode)
    )


def is_upload(obj: Any) -> bool:
    """An uploaded file: Starlette's, which only a parsed form can have made."""
    module = sys.modules.get("starlette.datastructures")
    return module is not None and isinstance(obj, module.UploadFile)


def is_image(kind: Any) -> bool:
    if not getattr(kind, "__module__", "").startswith("PIL."):
        return False
    from PIL import Image

    return issubclass(kind, Image.Image)


def is_file(kind: Any) -> bool:
    """Raises TypeError for what is no class."""
    return issubclass(kind, pathlib.PurePath) or is_image(kind)


def origin_of(annotation: Any) -> Any:
    return getattr(annotation, "__origin__", None) or typing.get_origin(annotation) or annotation


def patched(annotation: Any, metadata: Iterable[Any] = ()) -> tuple[Any, list[Any]]:
    """`annotation` and its metadata, with what pydantic itself does not know made known to it."""
    origin, args = typing_extensions.get_origin(annotation), typing_extensions.get_args(annotation)
    if origin in CONTAINERS or origin is types.UnionType:
        inner = []
        for each in args:
            kind, extras = patched(each)
            inner.append(typing_extensions.Annotated[(kind, *extras)] if extras else kind)
        return (typing.Union if origin is types.UnionType else origin)[tuple(inner)], list(metadata)
    source, extras = annotation, list(metadata)
    if origin is typing_extensions.Annotated or typing_extensions.get_origin(annotation) is typing.Annotated:
        source, extras = args[0], [*args[1:], *extras]
    return _known(source, extras) or (annotation, list(metadata))


def _known(source: Any, extras: list[Any]) -> tuple[Any, list[Any]] | None:
    ours = (Shape, DType, ContentType)
    kept = [each for each in extras if isinstance(each, ours) or not isinstance(each, annotated_types.BaseMetadata)]
    module, origin = getattr(source, "__module__", "") or "", origin_of(source)
    if source in PATHS if isinstance(source, type) else False:
        found = [each.content_type for each in kept if isinstance(each, ContentType)]
        rest = [each for each in kept if not isinstance(each, ContentType)]
        return source, [FileSchema(content_type=found[0] if found else None), *rest]
    if module.startswith("numpy"):
        return _array(source, origin, kept)
    if module.startswith("pandas") and isinstance(origin, type) and origin.__name__ == "DataFrame":
        if not any(isinstance(each, DataframeSchema) for each in kept):
            kept.insert(0, DataframeSchema())
        return origin, kept
    if module.startswith("PIL.") and isinstance(origin, type) and is_image(origin):
        return origin, [PILImageEncoder(), *kept]
    if module.startswith(("torch", "tensorflow")):
        raise NeedsBentoML(f"{module.partition('.')[0]} in a signature")
    return None


def _array(source: Any, origin: Any, kept: list[Any]) -> tuple[Any, list[Any]] | None:
    import numpy

    if origin is not numpy.ndarray:
        return None
    args = getattr(source, "__args__", None) or typing.get_args(source)
    try:
        dtype = numpy.dtype(typing.get_args(args[1])[0]).name if args else None
    except TypeError:
        return None
    shape = None
    for each in kept:
        if isinstance(each, Shape):
            shape = each.dimensions
        elif isinstance(each, DType):
            if dtype is not None and dtype != each.dtype:
                raise ValueError(f"Conflicting dtype annotations: {dtype} and {each.dtype}")
            dtype = each.dtype
    rest = [each for each in kept if not isinstance(each, Shape | DType)]
    return source, [TensorSchema("numpy-array", dtype, shape), *rest]
