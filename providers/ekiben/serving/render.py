"""What a method gave, as the bytes that BentoML would answer, or as a Starlette response where it takes one."""

from __future__ import annotations

import importlib
import io
import mimetypes
import pathlib
import sys
from typing import Any

from pydantic import BaseModel
from pydantic_core import to_json

from .exchange import JSON
from .standin.annotations import TensorSchema, is_file
from .standin.context import Call
from .standin.descriptors import IORootModel

__all__ = ["Writer", "apply", "array_json", "head", "writer"]

# Roots whose Python form is neither text nor bytes, whatever is in them.
STRUCTURED = {
    "list",
    "tuple",
    "dict",
    "typed-dict",
    "set",
    "frozenset",
    "int",
    "float",
    "bool",
    "none",
    "model",
    "dataclass",
}
MAX_TYPES = 64
# Numbers that are written faster one by one, and the types that JSON has, by NumPy's letters.
FEW = 32
PLAIN = frozenset("?bBhHiIlLqQefd")
PREFIX = len(b'{"root":')


class Writer:
    """Of one output descriptor."""

    def __init__(self, spec: Any) -> None:
        self.spec = spec
        self.media_type = _with_charset(self._mime_type())
        self._known: dict[type, Any] = {}

    def _mime_type(self) -> str:
        return str(self.spec.mime_type())

    def value(self, output: Any) -> Any:
        """What the method gave, as its annotation has it."""
        return output

    def body(self, output: Any) -> tuple[bytes, bytes]:
        """The media type and the bytes of an answer."""
        if self.spec.multipart_fields:
            raise NotImplementedError("Multipart response is not supported yet")
        return self.media_type, self.json(output)

    def piece(self, item: Any) -> bytes:
        """One item of a stream."""
        if isinstance(item, str):
            return item.encode()
        return item if isinstance(item, bytes) else self.json(item)

    def json(self, output: Any) -> bytes:
        kind = type(output)
        to_json = self._known.get(kind)
        if to_json is None:
            # A model that dumps itself in its own way; what is no model at all fails here, as it does with BentoML.
            own = kind.model_dump_json is not BaseModel.model_dump_json
            to_json = _dumped_by_itself if own else kind.__pydantic_serializer__.to_json
            if len(self._known) < MAX_TYPES:
                self._known[kind] = to_json
        return bytes(to_json(output))

    def response(self, output: Any, touched: bool) -> Any:
        """A Starlette response where it takes one: a file, or a status or headers of the method's own."""
        if not touched:
            return None
        from starlette.responses import Response

        media_type, body = self.body(output)
        return Response(body, media_type=media_type.decode())


class RootWriter(Writer):
    """Of an output that is no model."""

    def __init__(self, spec: Any) -> None:
        schema = self._schema = _root_schema(spec)
        self._validator, self._serializer = spec.__pydantic_validator__, spec.__pydantic_serializer__
        metadata = spec.model_fields["root"].metadata
        self._structured = schema.get("type") in STRUCTURED and "serialization" not in schema
        tensors = [isinstance(each, TensorSchema) for each in metadata]
        self._tensor = any(tensors)
        # An array passes as it is, and who declares arrays has imported NumPy.
        self._orjson = _optional("orjson") if self._tensor else None
        self._kept = sys.modules["numpy"].ndarray if tensors and all(tensors) else None
        super().__init__(spec)

    def _mime_type(self) -> str:
        # Without the JSON schema where the kind of value says enough: making one takes as long as loading a small model.
        told = self._tensor or (self._structured and not self._schema.get("metadata"))
        return "application/json" if told and self.spec.media_type is None else super()._mime_type()

    def value(self, output: Any) -> Any:
        return self._made(output).root

    def body(self, output: Any) -> tuple[bytes, bytes]:
        if type(output) is self._kept:
            # Without the rest, which costs more than the few numbers of most answers.
            if output.size <= FEW and output.dtype.char in PLAIN and self._orjson is not None:
                return self.media_type, self._orjson.dumps(output.tolist())
            return self.media_type, array_json(output)
        made = self._made(output)
        if not self._structured and not self._tensor:
            plain = made.model_dump()["root"]
            if isinstance(plain, bytes):
                return self.media_type, plain
            if isinstance(plain, str):
                return self.media_type, plain.encode()
        return self.media_type, self._dumped(made)

    def json(self, output: Any) -> bytes:
        return self._dumped(self._made(output))

    def response(self, output: Any, touched: bool) -> Any:
        if not is_file(type(output)):
            return super().response(output, touched)
        if isinstance(output, pathlib.PurePath):
            from starlette.responses import FileResponse

            media_type = mimetypes.guess_type(output)[0] or self.spec.mime_type()
            how = "inline" if media_type.startswith("image") else "attachment"
            return FileResponse(output, filename=output.name, media_type=media_type, content_disposition_type=how)
        from starlette.responses import Response

        buffer, form = io.BytesIO(), output.format or "PNG"
        output.save(buffer, format=form)
        return Response(buffer.getvalue(), media_type=f"image/{form.lower()}")

    def _made(self, output: Any) -> Any:
        return output if isinstance(output, IORootModel) else self._validator.validate_python({"root": output})

    def _dumped(self, made: Any) -> bytes:
        if self._tensor:
            return array_json(made.root)
        return self._serializer.to_json(made)[PREFIX:-1]  # type: ignore[no-any-return]


def writer(spec: Any) -> Writer:
    """The writer of what a method gives."""
    return RootWriter(spec) if issubclass(spec, IORootModel) else Writer(spec)


def head(call: Call) -> tuple[int, list[tuple[bytes, bytes]]]:
    """The status and the headers that a method has asked for."""
    from starlette.responses import Response

    response = Response()
    del response.headers["content-length"]
    apply(call, response)
    return response.status_code, response.raw_headers


def apply(call: Call, response: Any) -> None:
    """Put what a method has asked for on a Starlette response."""
    given = call.response
    response.status_code = given.status_code
    response.headers.update(given.metadata)
    for cookie in given.cookies:
        response.set_cookie(**vars(cookie))


def _dumped_by_itself(output: Any) -> bytes:
    return bytes(output.model_dump_json().encode())


def array_json(array: Any) -> bytes:
    """As its `tolist()` is written. orjson writes arrays at once, but single precision in its own, shorter way."""
    import numpy

    if array.ndim and array.dtype.char in PLAIN:
        try:
            import orjson
        except ImportError:
            pass
        else:
            wide = array.astype(numpy.float64, copy=False) if array.dtype.kind == "f" else array
            return orjson.dumps(numpy.ascontiguousarray(wide), option=orjson.OPT_SERIALIZE_NUMPY)
    return bytes(to_json(array.tolist(), inf_nan_mode="null"))


def _optional(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError:
        return None


def _root_schema(spec: Any) -> dict[str, Any]:
    """The core schema of a root model's only field, as far as it is there to be looked at."""
    schema: Any = spec.__pydantic_core_schema__
    while isinstance(schema, dict) and "fields" not in schema:
        schema = schema.get("schema")
    if not isinstance(schema, dict):
        return {}
    found = schema["fields"]["root"]["schema"]
    return found if isinstance(found, dict) else {}


def _with_charset(media_type: str) -> bytes:
    """Starlette says so of each text."""
    if media_type.startswith("text/") and "charset=" not in media_type.lower():
        media_type += "; charset=utf-8"
    return JSON if media_type == "application/json" else media_type.encode("latin-1")
