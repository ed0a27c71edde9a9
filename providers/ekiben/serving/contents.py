"""Requests and answers that are no JSON: Arrow, NumPy's own files, raw tensors, CSV; by Content-Type and Accept.

BentoML has none of them: a method that takes or gives files, texts or streams keeps what BentoML gives it.
"""

from __future__ import annotations

import re
from functools import lru_cache
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from .exchange import JSON, Exchange
from .standin.exceptions import BentoMLException

if TYPE_CHECKING:
    from .endpoint import Arguments, Endpoint

__all__ = ["READ", "Form", "encoded", "form", "parameters", "wanted"]

ARROW, ARROW_FILE = b"application/vnd.apache.arrow.stream", b"application/vnd.apache.arrow.file"
NPY, TENSOR = b"application/x-npy", b"application/x-ekiben-tensor"
CSV = b"text/csv"
WRITTEN = frozenset((ARROW, ARROW_FILE, NPY, TENSOR))
READ = WRITTEN | {CSV}
AS_JSON = frozenset((b"", JSON, b"*/*", b"application/*"))
PARAMETER = re.compile(rb';\s*([\w-]+)\s*=\s*("[^"]*"|[^;"]*)')
MAX_ACCEPT_BYTES = 1024


class Form:
    """How one request is read and answered. `answers`: what the caller takes, best first; none means JSON."""

    def __init__(self, endpoint: Endpoint, kind: bytes, answers: tuple[bytes, ...]) -> None:
        self.endpoint, self.kind, self.answers = endpoint, kind, answers

    @property
    def writes(self) -> bool:
        """The answer is not to be as BentoML has it."""
        return bool(self.answers)

    def read(self, exchange: Exchange) -> Arguments:
        """Raises BentoMLException with the status to answer, or pydantic's ValidationError."""
        if self.kind not in READ:
            return self.endpoint.read(exchange.body)
        if exchange.header(b"content-encoding"):
            raise encoded(exchange)
        from . import inputs

        if self.kind in (ARROW, ARROW_FILE):
            from . import arrow

            return inputs.arguments(self.endpoint, arrow.read(exchange.body, file=self.kind == ARROW_FILE))
        if self.kind == CSV:
            from . import csvs

            return csvs.arguments(self.endpoint, exchange.body, parameters(exchange.content_type))
        return inputs.arguments_of_array(self.endpoint, self._array(exchange))

    def _array(self, exchange: Exchange) -> Any:
        from . import arrays, inputs

        only = inputs.only_array(self.endpoint)
        if self.kind == NPY:
            return arrays.of_npy(exchange.body)
        given = parameters(exchange.content_type)
        return arrays.of_tensor(exchange.body, given.get("dtype"), given.get("shape"), only.schema)

    def write(self, output: Any) -> tuple[bytes, bytes, list[tuple[bytes, bytes]]]:
        """The media type, the body and headers. Raises BentoMLException (406) for what cannot be written so."""
        writer = self.endpoint.writer
        for kind in self.answers:
            if kind == JSON:
                break
            value = writer.value(output)
            if kind in (ARROW, ARROW_FILE):
                from . import arrow

                return kind, arrow.written(value, file=kind == ARROW_FILE), []
            from . import arrays

            if arrays.is_plain(value):
                return (*(arrays.npy(value) if kind == NPY else arrays.tensor(value)), [])
        else:
            raise refused(406, f"What this method gives cannot be written as {self.answers[0].decode()}.")
        return (*writer.body(output), [])

    def told(self, error: Any) -> Any:
        """The JSON of an error."""
        return error


def form(endpoint: Endpoint, exchange: Exchange, kind: bytes) -> Form | None:
    """None where BentoML's own way is the way."""
    kind = kind.lower()
    answers = wanted(exchange.accept[:MAX_ACCEPT_BYTES]) if endpoint.answers_json else ()
    if kind in READ and not endpoint.raw:
        return Form(endpoint, kind, answers)
    return Form(endpoint, b"", answers) if answers else None


@lru_cache(256)
def wanted(accept: bytes) -> tuple[bytes, ...]:
    """What an Accept header asks for of what we have, best first; nothing when that is JSON."""
    ranked = []
    for number, each in enumerate(accept.split(b",")):
        kind = each.partition(b";")[0].strip().lower()
        try:
            weight = float(parameters(each).get("q", "1"))
        except ValueError:
            weight = 0.0
        if kind and 0 < weight <= 1 and (kind in WRITTEN or kind in AS_JSON):
            ranked.append((-weight, number, JSON if kind in AS_JSON else kind))
    found = tuple(kind for _, _, kind in sorted(ranked))
    return () if not found or found[0] == JSON else found


def parameters(media_type: bytes) -> dict[str, str]:
    """Those of a media type, by their names in lower case."""
    found = PARAMETER.findall(media_type)
    return {name.decode().lower(): value.strip().strip(b'"').decode("latin-1") for name, value in found}


def encoded(exchange: Exchange) -> BentoMLException:
    """A body that is compressed is not read: what it would grow into is not known before it has."""
    encoding = exchange.header(b"content-encoding").decode("latin-1")
    return refused(415, f"The content is encoded ({encoding}). Send it as it is.")


def refused(status: int, why: str) -> BentoMLException:
    return BentoMLException(why, error_code=HTTPStatus(status))
