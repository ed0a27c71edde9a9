"""The Pulumi plugin `pulumi-resource-ekiben`: Ekiben's own resources, with true diffs. `kinds` says whose they are.

A check or a preview reads at most. What was deleted by hand, and a station that does not run, are differences like any other, so
that `up` mends them; every operation may be repeated after a crash. Errors reach the user as one message.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import threading
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from pulumi.provider.experimental import provider as api
from pulumi.provider.experimental.property_value import Computed, PropertyValue
from pulumi.provider.experimental.server import ProviderServicer
from pulumi.runtime.proto import provider_pb2_grpc
from pulumi.runtime.rpc import UNKNOWN

from ekiben import __version__
from ekiben.engine import kinds
from ekiben.engine.orphan import when_orphaned
from ekiben.errors import EkibenError

__all__ = ["Plugin", "main"]

MESSAGE_BYTES = 400 * 1024 * 1024
# Operations that wait for somebody else, a build of an image for minutes.
THREADS = 32
TOLD = ("Check", "Create", "Diff", "Read", "Update", "Delete", "Configure", "CheckConfig")


class Plugin(api.Provider):
    """The resources of all families; what an operation does is for the family's module to say."""

    def __init__(self) -> None:
        super().__init__()
        self._stopped = threading.Event()

    async def cancel(self) -> None:
        self._stopped.set()

    async def get_schema(self, request: api.GetSchemaRequest) -> api.GetSchemaResponse:
        return api.GetSchemaResponse(schema=kinds.schema(__version__))

    async def configure(self, request: api.ConfigureRequest) -> api.ConfigureResponse:
        return api.ConfigureResponse(supports_preview=True)

    async def check(self, request: api.CheckRequest) -> api.CheckResponse:
        family, kind = kinds.family(request.type), kinds.kind_of(request.type)
        old = _plain(request.old_inputs)
        chosen = {key: old.get(key) or choose() for key, choose in kind.chosen.items()}
        inputs = {**_values(chosen), **request.new_inputs}
        failures = await asyncio.to_thread(family.problems, kind, _plain(inputs), UNKNOWN)
        return api.CheckResponse(
            inputs=inputs, failures=[api.CheckFailure(property=key, reason=why) for key, why in failures]
        )

    async def diff(self, request: api.DiffRequest) -> api.DiffResponse:
        family, kind = kinds.family(request.type), kinds.kind_of(request.type)
        old, new = _plain(request.old_state), _plain(request.new_inputs)
        changed = family.changes(kind, old, new, request.ignore_changes)
        replaced = [key for key in changed if key in kind.fixed]
        detailed = {key: api.PropertyDiff(_difference(key, old, new, key in kind.fixed), True) for key in changed}
        if not changed:
            lost = await asyncio.to_thread(family.lost, kind, old)
            if lost:
                detailed[lost] = api.PropertyDiff(api.PropertyDiffKind.UPDATE, False)
        return api.DiffResponse(
            changes=bool(detailed),
            replaces=replaced,
            diffs=list(detailed),
            detailed_diff=detailed,
            stables=list(kind.fixed),
        )

    async def create(self, request: api.CreateRequest) -> api.CreateResponse:
        family, kind = kinds.family(request.type), kinds.kind_of(request.type)
        if request.preview:
            return api.CreateResponse("", {**request.properties, **dict.fromkeys(kind.outputs, PropertyValue(UNKNOWN))})
        inputs = _plain(request.properties)
        made = await asyncio.to_thread(family.put, kind, request.urn, inputs, request.timeout, self._stopped)
        return api.CreateResponse(family.identity(kind, inputs), _values(made))

    async def update(self, request: api.UpdateRequest) -> api.UpdateResponse:
        family, kind = kinds.family(request.type), kinds.kind_of(request.type)
        if request.preview:
            # What is empty was never known: its making was begun, and nobody saw it end.
            kept = {
                key: value if _unwrapped(value) not in ("", {}) else PropertyValue(UNKNOWN)
                for key, value in request.olds.items()
                if key in kind.outputs
            }
            return api.UpdateResponse({**request.news, **kept})
        news = _plain(request.news)
        made = await asyncio.to_thread(family.put, kind, request.urn, news, request.timeout, self._stopped)
        return api.UpdateResponse(_values(made))

    async def read(self, request: api.ReadRequest) -> api.ReadResponse:
        family, kind = kinds.family(request.type), kinds.kind_of(request.type)
        found = await asyncio.to_thread(family.read, kind, _plain(request.properties))
        if found is None:
            return api.ReadResponse("")
        inputs, state = found
        return api.ReadResponse(request.resource_id, _values(state), _values(inputs))

    async def delete(self, request: api.DeleteRequest) -> None:
        family, kind = kinds.family(request.type), kinds.kind_of(request.type)
        await asyncio.to_thread(family.delete, kind, request.urn, _plain(request.properties), request.timeout)


class Servicer(ProviderServicer):
    """The same, except that an error of ours is told as it is: without a traceback, without the name of its class."""


def _told(name: str) -> Callable[..., Awaitable[Any]]:
    inherited = getattr(ProviderServicer, name)

    async def call(self: Servicer, request: Any, context: Any) -> Any:
        try:
            return await inherited(self, request, context)
        except Exception as error:
            cause = error if isinstance(error, EkibenError) else error.__context__
            if isinstance(cause, EkibenError):
                await context.abort(grpc.StatusCode.UNKNOWN, str(cause))
            raise

    return call


for _name in TOLD:
    setattr(Servicer, _name, _told(_name))


def _difference(key: str, old: Mapping[str, Any], new: Mapping[str, Any], replace: bool) -> api.PropertyDiffKind:
    which = "ADD" if key not in old else "DELETE" if key not in new else "UPDATE"
    return api.PropertyDiffKind[which + "_REPLACE" * replace]


def _plain(values: Mapping[str, PropertyValue]) -> dict[str, Any]:
    """Property values as plain Python; what is not known yet is UNKNOWN, as on the wire."""
    return {key: _unwrapped(value) for key, value in values.items()}


def _unwrapped(value: PropertyValue) -> Any:
    inner = value.value
    if isinstance(inner, Computed):
        return UNKNOWN
    if isinstance(inner, Mapping):
        return {key: _unwrapped(item) for key, item in inner.items()}
    if isinstance(inner, list | tuple):
        return [_unwrapped(item) for item in inner]
    return inner


def _values(plain: Mapping[str, Any]) -> dict[str, PropertyValue]:
    return {key: _wrapped(value) for key, value in plain.items()}


def _wrapped(value: Any) -> PropertyValue:
    if isinstance(value, Mapping):
        return PropertyValue({key: _wrapped(item) for key, item in value.items()})
    if isinstance(value, list | tuple):
        return PropertyValue([_wrapped(item) for item in value])
    if isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    return PropertyValue(value)


async def _serve(engine: str) -> None:
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(THREADS))
    limits = [("grpc.max_receive_message_length", MESSAGE_BYTES), ("grpc.max_send_message_length", MESSAGE_BYTES)]
    server = grpc.aio.server(options=limits)
    servicer = Servicer([], __version__, Plugin(), engine_address=engine)
    provider_pb2_grpc.add_ResourceProviderServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    # At once, in the middle of a call too: what was asked of the station is whole there or not at all, and can be asked again.
    when_orphaned(lambda: os._exit(1))
    await server.start()
    print(port, flush=True)
    await server.wait_for_termination()


def main() -> None:
    """The console script: serve until the engine ends this process."""
    parser = argparse.ArgumentParser(
        prog="pulumi-resource-ekiben", description="A Pulumi plugin: the engine starts it."
    )
    parser.add_argument("engine", nargs="?", default="", help="the engine's address")
    known, _ = parser.parse_known_args()
    try:
        asyncio.run(_serve(known.engine))
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
