"""Refusals of the server as our errors, with what to do; progress on the engine's screen."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any

import grpc
from pulumi.runtime.proto import engine_pb2, engine_pb2_grpc

from ekiben.emulators.kubernetes.plugin.objects import FORCE
from ekiben.emulators.kubernetes.plugin.server import Refused
from ekiben.errors import AlreadyExists, ProviderError

__all__ = ["Screen", "explained"]

CONFLICT = re.compile(r'conflict with "([^"]+)"')
TOLD_FIELDS = 8


def explained(refused: Refused, operation: str, thing: Mapping[str, Any]) -> ProviderError:
    """The error that a refusal stands for. What is in a Secret is not in it."""
    owners = [
        (field.lstrip("."), CONFLICT.search(said))
        for reason, field, said in refused.causes
        if reason == "FieldManagerConflict"
    ]
    if owners:
        fields = "; ".join(f"{field} is {found[1]}'s" for field, found in owners[:TOLD_FIELDS] if found)
        more = f"; {len(owners) - TOLD_FIELDS} more" if len(owners) > TOLD_FIELDS else ""
        error: ProviderError = AlreadyExists(
            "kubernetes", operation, f"others have set fields that the program sets to something else: {fields}{more}",
            f'Leave them out of the program, ignore their changes, or take them over with the annotation {FORCE}: "true"',
        )  # fmt: skip
    elif refused.wrong:
        error = ProviderError("kubernetes", operation, refused.wrong, "Mend the program")
    elif refused.status == 422 and refused.causes:
        wrong = "; ".join(f"{field}: {said}" if field else said for _, field, said in refused.causes[:TOLD_FIELDS])
        error = ProviderError("kubernetes", operation, wrong, "Mend the program")
    else:
        error = refused.error(operation)
    why = error.why
    for secret in sorted(_secrets(thing), key=len, reverse=True):  # one may be a part of another
        why = why.replace(secret, "[secret]")
    return type(error)("kubernetes", operation, why, error.remedy) if why != error.why else error


def _secrets(thing: Mapping[str, Any]) -> Iterator[str]:
    if thing.get("kind") != "Secret":
        return
    for key in ("data", "stringData"):
        for value in (thing.get(key) or {}).values() if isinstance(thing.get(key), Mapping) else ():
            yield from filter(None, (str(value),))
            with suppress(ValueError):
                yield from filter(None, (base64.b64decode(str(value), validate=True).decode(),))


class Screen:
    """The engine's screen: what a resource waits for stands beside it."""

    def __init__(self, engine: str) -> None:
        self._stub = engine_pb2_grpc.EngineStub(grpc.insecure_channel(engine)) if engine else None

    def teller(self, urn: str) -> Callable[[str], None]:
        def tell(said: str) -> None:
            if self._stub is not None:
                with suppress(grpc.RpcError):  # nobody looks any more
                    self._stub.Log(
                        engine_pb2.LogRequest(severity=engine_pb2.INFO, message=said, urn=urn, ephemeral=True),
                        timeout=5.0,
                    )

        return tell
